"""The letters of sequences. Imports nothing."""

#: The 20 amino acids in the order of the ESM-2 vocabulary (tokens 4 to 23), and of the columns of ``logits``.
AMINO_ACIDS = "LAGVSERTIDPKQNFYMHWC"

#: Letters that are no single amino acid but have a token of their own: any, Asx, Sec, Glx, Pyl.
AMBIGUOUS = "XBUZO"

#: Stands for one masked residue.
MASK_SYMBOL = "<mask>"


def count_residues(sequence: str) -> int:
    """Length of a clean sequence; ``<mask>`` counts as one residue.

    Examples
    --------
    >>> count_residues("MK<mask>T")
    4
    """
    return len(sequence) - (len(MASK_SYMBOL) - 1) * sequence.count(MASK_SYMBOL)
