"""Each row of the table of kinds: what it says is what happens, in both engines, in windows and in the store."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest

import skesm
from skesm.cache import export
from skesm.outputs import kinds
from skesm.outputs.derived import derive, source
from skesm.outputs.kinds import KINDS, POOLINGS
from skesm.outputs.spec import OutputSpec

SEQUENCES = ["MKTAYIAKQR", "MKTWYIAKQG"]
LONG = "MKTAYIAKQRGSHMSLFDFFKNKG"
NAMED = [name for name, kind in KINDS.items() if kind.has_name]
WINDOWS = {"long_sequences": "window", "max_length": 10, "window_overlap": 4}


def named(kind: str) -> str:
    return kind if KINDS[kind].first_layer is None else f"{kind}@1"


@pytest.mark.parametrize("kind", KINDS)
def test_rows_agree_with_themselves(kind: str) -> None:
    row = KINDS[kind]
    assert (row.source is None) == (row.derive is None)
    if row.source is not None:
        origin = KINDS[row.source]
        assert origin.source is None, "one step leads to what a backend answers"
        assert (origin.first_layer, origin.head, origin.windows) == (row.first_layer, row.head, row.windows)


@pytest.mark.parametrize("engine", ["numpy", "torch"])
@pytest.mark.parametrize("kind", NAMED)
def test_values_have_the_shape_of_their_row(kind: str, engine: str, tiny_checkpoint: Path, tmp_path: Path) -> None:
    class Tiny:
        width, n_heads = 40, 4

    def compute() -> list[dict[str, np.ndarray]]:
        return skesm.compute_outputs(SEQUENCES, named(kind), tiny_checkpoint, backend=engine, memory=tmp_path / "store")

    first, again = compute(), compute()
    for record, stored in zip(first, again, strict=True):
        value = record[named(kind)]
        shape = KINDS[kind].shape
        assert shape is not None
        assert value.shape == shape(10, Tiny())
        np.testing.assert_array_equal(value, stored[named(kind)])
    export(tmp_path / "store", tmp_path / "all.npz")
    with np.load(tmp_path / "all.npz") as arrays:
        layout = {"": {"values"}, None: {"shapes", "values", "offsets"}}.get(KINDS[kind].rows, {"values", "offsets"})
        assert {name.rpartition("/")[2] for name in arrays} == {"sequence", "length", *layout}


@pytest.mark.parametrize("kind", NAMED)
def test_sequences_in_windows(kind: str, tiny_checkpoint: Path) -> None:
    def compute(*names: str) -> dict[str, np.ndarray]:
        return skesm.compute_outputs([LONG], names, tiny_checkpoint, backend="numpy", **WINDOWS)[0]

    row = KINDS[kind]
    if row.windows is None:
        with pytest.raises(skesm.exceptions.InvalidSequenceError, match="windows"):
            compute(named(kind))
    elif row.source is not None and row.derive is not None:
        record = compute(named(kind), named(row.source))
        np.testing.assert_array_equal(record[named(kind)], row.derive(record[named(row.source)], LONG, ""))
    else:
        assert np.isfinite(compute(named(kind))[named(kind)]).all()


def test_what_engines_pool_is_what_would_be_derived(tiny_checkpoint: Path) -> None:
    """To the last bit on the NumPy engine, so that windows of one size and whole sequences are one definition."""
    pooled = [name for name, row in KINDS.items() if row.pooled_by_engines]
    assert pooled
    record = skesm.compute_outputs([LONG], [f"{k}@1" for k in (*pooled, "residues")], tiny_checkpoint, backend="numpy")
    for kind in pooled:
        derived = KINDS[kind].derive
        assert derived is not None
        np.testing.assert_array_equal(record[0][f"{kind}@1"], derived(record[0]["residues@1"], LONG, ""))


def test_a_record_that_is_not_derived_stays_itself() -> None:
    output = OutputSpec("eos", 2)
    value = np.ones(3, dtype=np.float32)
    assert source(output) == output
    assert derive({output: value}, [output], "MKT")[output] is value


@pytest.mark.parametrize("engine", ["numpy", "torch"])
def test_what_is_prefetched_is_found(engine: str, tiny_checkpoint: Path, tmp_path: Path) -> None:
    """A derived pooling too, by the embedder that asks for it."""
    options = {"backend": engine, "memory": tmp_path}
    poolings = [name for name in POOLINGS if name != "mean"]
    skesm.ESM2Embedder(tiny_checkpoint, prefetch=[f"{p}@-1" for p in poolings], **options).transform(SEQUENCES)
    for pooling in poolings:
        embedder = skesm.ESM2Embedder(tiny_checkpoint, pooling=pooling, **options)
        features = embedder.transform(SEQUENCES)
        info = embedder.cache_info()
        assert info is not None
        assert (info.hits, info.computed) == (2, 0)
        fresh = skesm.ESM2Embedder(tiny_checkpoint, pooling=pooling, backend=engine).transform(SEQUENCES)
        np.testing.assert_array_equal(features, fresh)
        assert embedder.get_feature_names_out()[0] == f"{pooling}_l2_0"


#: Where a kind may be named: in its row, where an engine computes it, and where a protocol names it.
STATED = ("outputs/", "esm2/", "protocol/", "backends/biolm", "server/")


def test_kinds_are_named_in_their_row_and_nowhere_else() -> None:
    """No branch on the name of a kind: what differs between kinds is a field of their rows."""
    package = Path(skesm.__file__).parent
    constants = {name: value for name, value in vars(kinds).items() if isinstance(value, str)}
    for path in package.rglob("*.py"):
        if path.relative_to(package).as_posix().startswith(STATED):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Compare) and ".kind" in ast.unparse(node.left):
                parts = [part for side in node.comparators for part in ast.walk(side)]
                named = {part.value for part in parts if isinstance(part, ast.Constant)}
                named |= {constants.get(part.id) for part in parts if isinstance(part, ast.Name)}
                assert not named & set(KINDS), f"{path}:{node.lineno}"
