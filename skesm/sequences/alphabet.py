"""The letters of sequences. Imports nothing of skesm."""

import re

#: The 20 amino acids in the order of the ESM-2 vocabulary (tokens 4 to 23), and of the columns of ``logits``.
AMINO_ACIDS = "LAGVSERTIDPKQNFYMHWC"

#: The same in alphabetical order, which the baselines' columns have, and which decides ties between amino acids.
ALPHABETICAL = "".join(sorted(AMINO_ACIDS))

#: Letters that are no single amino acid but have a token of their own: any, Asx, Sec, Glx, Pyl.
AMBIGUOUS = "XBUZO"

#: Stands for one masked residue.
MASK_SYMBOL = "<mask>"


def count_residues(sequence: str) -> int:
    """Length of a clean sequence. ``<mask>`` counts as one residue.

    Examples
    --------
    >>> count_residues("MK<mask>T")
    4
    """
    return len(sequence) - (len(MASK_SYMBOL) - 1) * sequence.count(MASK_SYMBOL)


def split_residues(sequence: str) -> list[str]:
    """Residues of a clean sequence.

    Examples
    --------
    >>> split_residues("MK<mask>T")
    ['M', 'K', '<mask>', 'T']
    """
    return re.findall(f"{MASK_SYMBOL}|.", sequence) if MASK_SYMBOL in sequence else list(sequence)
