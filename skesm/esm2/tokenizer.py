"""Sequences to tokens: one byte look-up table.

The published ESM-2 models have this vocabulary of 33 tokens, with the 20 amino acids at 4 to 23 in the order of
`skesm.sequences.alphabet.AMINO_ACIDS`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skesm.sequences.alphabet import AMBIGUOUS, AMINO_ACIDS, MASK_SYMBOL, count_residues

Tokens = NDArray[np.uint8]

VOCABULARY = ("<cls>", "<pad>", "<eos>", "<unk>", *AMINO_ACIDS, *AMBIGUOUS, ".", "-", "<null_1>", MASK_SYMBOL)
CLS, PAD, EOS, UNK, MASK = (VOCABULARY.index(t) for t in ("<cls>", "<pad>", "<eos>", "<unk>", MASK_SYMBOL))

#: Columns of the 20 amino acids in the 33 logits.
AMINO_ACID_TOKENS = slice(VOCABULARY.index(AMINO_ACIDS[0]), VOCABULARY.index(AMINO_ACIDS[-1]) + 1)

_MASK_BYTE = "\x00"  # stands for "<mask>" while a sequence is looked up byte by byte

_TABLE = np.full(256, UNK, dtype=np.uint8)
for _token, _symbol in enumerate(VOCABULARY):
    if len(_symbol) == 1:
        _TABLE[ord(_symbol)] = _token
_TABLE[ord(_MASK_BYTE)] = MASK


def count_tokens(sequence: str) -> int:
    """How many tokens a sequence has, with the start token and the end token.

    Examples
    --------
    >>> count_tokens("MK<mask>T")
    6
    """
    return count_residues(sequence) + 2


def tokenize(sequence: str) -> Tokens:
    """Tokens of a sequence, between the start token and the end token.

    Parameters
    ----------
    sequence : str
        Upper-case residues. ``<mask>`` stands for one masked residue.

    Returns
    -------
    tokens : ndarray of shape (L + 2,), uint8

    Examples
    --------
    >>> tokenize("MK<mask>T").tolist()
    [0, 20, 15, 32, 11, 2]
    """
    data = sequence.replace(MASK_SYMBOL, _MASK_BYTE).encode("ascii", "replace")
    tokens = np.empty(len(data) + 2, dtype=np.uint8)
    tokens[0], tokens[-1] = CLS, EOS
    np.take(_TABLE, np.frombuffer(data, dtype=np.uint8), out=tokens[1:-1])
    return tokens
