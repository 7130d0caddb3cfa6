"""Both engines beside the plain page, on random weights made here: no other implementation of ESM-2 is needed.

Tolerance: 1e-5 of the layer's largest absolute value (or of 1), as in `test_parity`.
"""

from __future__ import annotations

import numpy as np
import pytest

from skesm.esm2 import plain
from skesm.esm2.numpy_engine import NumpyEngine
from skesm.esm2.spec import VOCABULARY_SIZE, ModelSpec
from skesm.esm2.tokenizer import AMINO_ACID_TOKENS, tokenize
from skesm.esm2.torch_engine import TorchEngine
from skesm.esm2.weights.parameters import Affine, Block, Head, Parameters
from skesm.outputs.kinds import ATTENTION_KINDS, LAYER_KINDS
from skesm.outputs.spec import OutputSpec
from skesm.outputs.types import FloatArray
from skesm.sequences.alphabet import AMINO_ACIDS

TOLERANCE = 1e-5
N_LAYERS = 3
ENGINES = {"numpy": NumpyEngine, "torch": TorchEngine}


def random_model(width: int = 48, n_heads: int = 4, *, token_dropout: bool = True) -> tuple[ModelSpec, Parameters]:
    """Weights so large that attention is uneven and GELU is bent; biases that an engine cannot forget unseen."""
    spec = ModelSpec("random", N_LAYERS, width, n_heads, 4 * width, token_dropout)
    rng = np.random.default_rng(0)

    def array(*shape: int, scale: float, shift: float = 0) -> FloatArray:
        return (shift + scale * rng.standard_normal(shape)).astype(np.float32)

    def linear(out: int, into: int) -> Affine:
        return Affine(array(out, into, scale=1.5 * into**-0.5), array(out, scale=0.2))

    def norm() -> Affine:
        return Affine(array(width, scale=0.2, shift=1), array(width, scale=0.2))

    def block() -> Block:
        query, key, value, output = (linear(width, width) for _ in range(4))
        return Block(norm(), query, key, value, output, norm(), linear(4 * width, width), linear(width, 4 * width))

    embedding = array(VOCABULARY_SIZE, width, scale=1)
    half = width // n_heads // 2
    frequencies = (10000.0 ** -(np.arange(half) / half)).astype(np.float16).astype(np.float32)
    parameters = Parameters(
        embedding=embedding,
        blocks=[block() for _ in range(N_LAYERS)],
        final_norm=norm(),
        head=Head(linear(width, width), norm(), Affine(embedding, array(VOCABULARY_SIZE, scale=0.2))),
        contacts=Affine(array(N_LAYERS, n_heads, scale=1), array(1, scale=1)),
        inverse_frequencies=np.tile(frequencies, (N_LAYERS, 1)),
    )
    return spec, parameters


MODELS = {
    "heads of 12": random_model(),
    "heads of 2": random_model(12, 6),
    "one head": random_model(16, 1),
    "without token dropout": random_model(token_dropout=False),
}


def sequences() -> list[str]:
    rng = np.random.default_rng(0)
    lengths = (1, 2, 3, 17, 64, 126, 127, 255, 400)
    known = ["".join(rng.choice(list(AMINO_ACIDS), n)) for n in lengths]
    return [*known, "M<mask>TAYIAK", "<mask>", "<mask>" * 40, known[4][:30] + "<mask>" * 3, "XBZUO"]


def expected(output: OutputSpec, answer: plain.Answer) -> np.ndarray:
    """One output from all that the model says."""
    if output.kind in ATTENTION_KINDS:
        assert output.layer is not None
        weights = answer.attentions[output.layer - 1]
        by_residues = weights[:, 1:-1]
        entropy = -(by_residues * np.log(np.maximum(by_residues, 1e-300))).sum(axis=2).mean(axis=1)
        place = np.arange(by_residues.shape[1])
        distance = (by_residues[:, :, 1:-1] * np.abs(place[:, None] - place)).sum(axis=2).mean(axis=1)
        ends = by_residues[:, :, [0, -1]].sum(axis=2).mean(axis=1)
        return {
            "attentions": weights,
            "attention_received": weights.mean(axis=(0, 1))[1:-1],
            "attention_heads": np.stack([entropy, distance, ends], axis=1),
        }[output.kind]
    if output.kind == "contacts":
        assert answer.contacts is not None
        return answer.contacts
    if output.layer is None:
        assert answer.logits is not None
        residues = answer.logits[1:-1]
        return residues[:, AMINO_ACID_TOKENS] if output.kind == "logits" else residues.mean(axis=1)
    x = answer.layers[output.layer]
    return {
        "mean": x[1:-1].mean(axis=0),
        "max": x[1:-1].max(axis=0),
        "cls": x[0],
        "eos": x[-1],
        "residues": x[1:-1],
    }[output.kind]


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())
@pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES.keys())
def test_engines_agree_with_the_plain_page(engine: type, model: tuple[ModelSpec, Parameters]) -> None:
    outputs = [OutputSpec(kind, layer) for layer in range(N_LAYERS + 1) for kind in LAYER_KINDS]
    outputs += [OutputSpec(kind, layer) for layer in range(1, N_LAYERS + 1) for kind in ATTENTION_KINDS]
    outputs += [OutputSpec(kind) for kind in ("logits", "logit_means", "contacts")]
    tokens = [tokenize(sequence) for sequence in sequences()]
    fast = engine(*model)
    with fast.hold(1):
        records = fast.forward(tokens, outputs)
    for own, record in zip(tokens, records, strict=True):
        answer = plain.compute(*model, own)
        for output in outputs:
            right = expected(output, answer)
            assert record[output].shape == right.shape
            np.testing.assert_allclose(
                record[output],
                right,
                rtol=0,
                atol=TOLERANCE * max(1, np.abs(right).max()),
                err_msg=f"{output}, {len(own) - 2} residues",
            )


def test_weights_of_attention_sum_to_one_and_contacts_are_symmetric() -> None:
    answer = plain.compute(*MODELS["heads of 12"], tokenize("MKTAYIAKQR"))
    assert answer.contacts is not None
    np.testing.assert_allclose(np.stack(answer.attentions).sum(axis=-1), 1, rtol=1e-12)
    np.testing.assert_allclose(answer.contacts, answer.contacts.T, rtol=1e-9)
    assert ((answer.contacts > 0) & (answer.contacts < 1)).all()


def test_the_plain_page_needs_no_heads() -> None:
    from dataclasses import replace

    spec, parameters = MODELS["one head"]
    answer = plain.compute(spec, replace(parameters, head=None, contacts=None), tokenize("MKT"))
    assert answer.logits is None
    assert answer.contacts is None
    assert len(answer.layers) == N_LAYERS + 1


def test_the_plain_page_is_short() -> None:
    from pathlib import Path

    lines = Path(plain.__file__).read_text(encoding="utf-8").splitlines()
    assert len(lines) < 120
    assert len(lines) - lines.index("from __future__ import annotations") < 100, "without the list of papers"
