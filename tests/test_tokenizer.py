from __future__ import annotations

import numpy as np
import pytest

from skesm.esm2.tokenizer import AMINO_ACID_TOKENS, CLS, EOS, MASK, PAD, UNK, VOCABULARY, tokenize
from skesm.sequences.alphabet import AMBIGUOUS, AMINO_ACIDS


def test_the_vocabulary_is_that_of_the_published_models() -> None:
    esm_data = pytest.importorskip("esm.data", reason="fair-esm is not installed")
    assert list(VOCABULARY) == esm_data.Alphabet.from_architecture("ESM-1b").all_toks


def test_special_tokens_and_amino_acids_have_their_places() -> None:
    assert (CLS, PAD, EOS, UNK, MASK) == (0, 1, 2, 3, 32)
    assert "".join(VOCABULARY[AMINO_ACID_TOKENS]) == AMINO_ACIDS


def test_transformers_tokenizer_agrees(tmp_path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY))
    theirs = transformers.EsmTokenizer(str(tmp_path / "vocab.txt"))
    for sequence in (AMINO_ACIDS + AMBIGUOUS, "M", "<mask>", "MK<mask><mask>T", "<mask>A" * 5):
        assert tokenize(sequence).tolist() == theirs(sequence)["input_ids"]


@pytest.mark.parametrize("letter", ["J", "1", "a", " ", "é", "Α", "\x00"])  # that Α is Greek
def test_what_is_no_residue_is_unknown_or_masked_but_never_another_residue(letter: str) -> None:
    tokens = tokenize(f"M{letter}K")
    assert tokens[[0, 1, 3, 4]].tolist() == [CLS, VOCABULARY.index("M"), VOCABULARY.index("K"), EOS]
    assert tokens[2] in (UNK, MASK)


def test_each_call_owns_its_tokens() -> None:
    first = tokenize("MKT")
    first[:] = 7
    assert tokenize("MKT").tolist() == [0, 20, 15, 11, 2]
    assert first.dtype == np.uint8
