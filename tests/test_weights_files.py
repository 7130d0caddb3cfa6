from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from safetensors.torch import save_file

from skesm.esm2.weights.files import WeightsFiles
from skesm.exceptions import CheckpointError, CheckpointNotFoundError


def write(path: Path, header: object, body: bytes = b"", size: int | None = None) -> Path:
    data = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(data) if size is None else size).to_bytes(8, "little") + data + body)
    return path


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "a.weight": torch.randn(5, 7, generator=generator),
        "b.bias": torch.randn(3, generator=generator),
        "empty": torch.zeros(0, 4),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_values_are_those_of_the_safetensors_library(
    dtype: torch.dtype, tensors: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    saved = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    save_file(saved, path, metadata={"format": "pt"})
    weights = WeightsFiles([path])
    assert set(weights) == set(tensors)
    assert len(weights) == 3
    for name, tensor in saved.items():
        assert weights[name].dtype == np.float32
        assert weights.shape(name) == tuple(tensor.shape)
        np.testing.assert_array_equal(weights[name], tensor.to(torch.float32).numpy())


def test_float32_is_a_read_only_view_of_the_file(tensors: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(tensors, path)
    weights = WeightsFiles([path])
    assert np.shares_memory(weights["a.weight"], weights["a.weight"])
    assert not weights["a.weight"].flags.writeable


def test_misaligned_tensors_are_read(tmp_path: Path) -> None:
    header = {"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    for padding in range(4):
        data = json.dumps(header).encode() + b" " * padding
        path = write(tmp_path / f"{padding}.safetensors", data, np.array([1, 2], dtype="<f4").tobytes())
        np.testing.assert_array_equal(WeightsFiles([path])["x"], [1, 2])


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("header", "body", "message"),
    [
        ({"x": ENTRY}, b"1234567", "truncated"),
        ({"x": {**ENTRY, "data_offsets": [0, 4]}}, b"12345678", "contradicts"),
        ({"x": {**ENTRY, "data_offsets": [-8, 0]}}, b"12345678", "cannot be read"),
        ({"x": {**ENTRY, "shape": [-1, -2]}}, b"12345678", "contradicts|cannot be read"),
        ({"x": {**ENTRY, "shape": "ab"}}, b"12345678", "cannot be read"),
        ({"x": {**ENTRY, "data_offsets": [0]}}, b"12345678", "cannot be read"),
        ({"x": {**ENTRY, "dtype": "F9"}}, b"12345678", "F9"),
        ({"x": {"dtype": "F32"}}, b"12345678", "cannot be read"),
        ({"x": 3}, b"12345678", "cannot be read"),
        ([1, 2], b"", "cannot be read"),
        (b"{not json", b"", "cannot be read"),
        (b"\xff\xfe\x00", b"", "cannot be read"),
    ],
)
def test_damaged_headers_are_refused(header: object, body: bytes, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "model.safetensors", header, body)
    with pytest.raises(CheckpointError, match=message) as caught:
        WeightsFiles([path])
    assert path.name in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x02}q\x00.", b"\xff" * 64, bytes(8)])
def test_other_files_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        WeightsFiles([path])


def test_a_git_lfs_pointer_is_refused(tmp_path: Path) -> None:
    """What `git clone` of a Hub repository leaves where git-lfs is not installed."""
    path = tmp_path / "model.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 31000000\n")
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        WeightsFiles([path])


# Strict as the reference implementation ------------------------------------------------------------------------------

X = b'"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'


@pytest.mark.parametrize(
    "header",
    [
        b"null",
        b'"text"',
        b"3",
        b'{"x":null}',
        b"{" + X + b"," + X + b"}",
        X.replace(b'"dtype"', b'"dtype":"F32","dtype"').join([b"{", b"}"]),
        b"{" + X.replace(b"[2]", b"[NaN]") + b"}",
        b"{" + X.replace(b"[2]", b"[Infinity]") + b"}",
        b"{" + X.replace(b"[2]", b"[2.0]") + b"}",
        b"{" + X.replace(b"[2]", b'["2"]') + b"}",
        b"{" + X.replace(b"[2]", b"[2,true]") + b"}",
        b"{" + X.replace(b"[0,8]", b"[-0,8]") + b"}",
        b"{" + X.replace(b"[0,8]", b"[0,8,8]") + b"}",
        b"{" + X.replace(b"[2]", b"[1" + b"0" * 5000 + b"]") + b"}",
        b'{"__metadata__":{"a":1},' + X + b"}",
        b'{"__metadata__":[],' + X + b"}",
        b'{"__metadata__":{"a":"\\ud800"},' + X + b"}",
        b"{" + X.replace(b'"x"', b'"\\ud800"') + b"}",
        b"{" + X + b',"y":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
        b"{" + X + b',"y":' + b'{"a":' * 200 + b"1" + b"}" * 200 + b"}",
        b"{" + X + b"}\0",
        b"\xef\xbb\xbf{" + X + b"}",
        ("{" + X.decode() + "}").encode("utf-16"),
    ],
    ids=range(23),
)
def test_headers_that_only_python_reads_are_refused(header: bytes, tmp_path: Path) -> None:
    path = write(tmp_path / "model.safetensors", header, bytes(8))
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        WeightsFiles([path])


def test_an_overflowing_shape_is_refused(tmp_path: Path) -> None:
    entry = {"dtype": "F32", "shape": [1 << 63, 4, 0], "data_offsets": [0, 0]}
    with pytest.raises(CheckpointError, match="contradicts"):
        WeightsFiles([write(tmp_path / "model.safetensors", {"x": entry})])


def _small_file() -> bytes:
    rng = np.random.default_rng(0)
    tensors = {
        "a.weight": rng.random((3, 4), dtype=np.float32),
        "b.bias": rng.random(5, dtype=np.float32).astype(np.float16),
        "c": rng.random((2, 2)),
        "empty": np.zeros((0, 3), dtype=np.float32),
        "ids": np.arange(4),
    }
    return save(tensors, metadata={"format": "pt", "note": "x"})


def _change_bytes(rng: random.Random, data: bytearray) -> None:
    for _ in range(rng.randint(1, 3)):
        data[rng.randrange(len(data))] = rng.randrange(256)


def _change_header_bytes(rng: random.Random, data: bytearray) -> None:
    end = 8 + int.from_bytes(data[:8], "little")
    for _ in range(rng.randint(1, 2)):
        data[rng.randrange(8, end)] = rng.choice(b'0123456789[]{}",:.-etrufalsn \\')


def _cut_or_extend(rng: random.Random, data: bytearray) -> None:
    if rng.random() < 0.5:
        del data[rng.randrange(len(data)) :]
    else:
        data.extend(rng.randbytes(rng.randint(1, 9)))


def _change_entries(rng: random.Random, data: bytearray) -> None:
    """Valid JSON of another meaning: gaps, overlaps, other types, shapes and metadata, an entry twice or not at all."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    names = [name for name in header if name != "__metadata__"]
    entry = header[rng.choice(names)]
    change = rng.randrange(7)
    if change == 0:
        entry["data_offsets"][rng.randrange(2)] += rng.choice([-8, -4, -1, 1, 4, 8])
    elif change == 1:
        entry["shape"] = rng.choice(
            [[16.7], ["16"], [True], [None], [], [2, 6], [12], [1] * 5, 3, [-1], [1e2], [10**30]]
        )
    elif change == 2:
        entry["dtype"] = rng.choice(
            ["F32", "F16", "BF16", "F64", "U8", "I64", "f32", "", 3, None, "BOOL", "F4", "F8_E4M3"]
        )
    elif change == 3:
        header["__metadata__"] = rng.choice([None, {}, {"a": 1}, {"a": None}, [], "x", {"a": {}}, {"a": "b"}])
    elif change == 4:
        del header[rng.choice(names)]
    elif change == 5:
        header["again"] = dict(entry)
    text = json.dumps(header)
    if change == 6:
        name = rng.choice(names)
        text = text[:-1] + f", {json.dumps(name)}: {json.dumps(header[name])}}}"
    raw = text.encode()
    data[:end] = len(raw).to_bytes(8, "little") + raw


MUTATIONS = [_change_bytes, _change_header_bytes, _cut_or_extend, _change_entries]


@pytest.mark.parametrize("mutate", MUTATIONS)
def test_what_the_reference_implementation_refuses_is_refused(
    mutate: Callable[[random.Random, bytearray], None], tmp_path: Path
) -> None:
    """Of 1,000 files each: none that the safetensors package refuses is read, and no other error is raised."""
    whole, path = _small_file(), tmp_path / "model.safetensors"
    rng, seen = random.Random(0), {"both read": 0, "both refuse": 0, "only we refuse": 0}
    for _ in range(1000):
        data = bytearray(whole)
        mutate(rng, data)
        path.unlink(missing_ok=True)
        path.write_bytes(data)
        try:
            with safe_open(path, "np") as file:
                expected = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, ValueError, OSError):
            expected = None
        try:
            weights = WeightsFiles([path])
            found = {name: weights.shape(name) for name in weights}
        except CheckpointError:
            found = None
        assert found is None or found == expected, bytes(data)
        seen["only we refuse" if found is None and expected else "both read" if found else "both refuse"] += 1
    assert seen["both refuse"] > 100
    # unknown fields, and entries that stand twice, of which the reference implementation takes one
    assert seen["only we refuse"] < 250, seen


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    pipe, loop, folder = (tmp_path / f"{name}.safetensors" for name in ("pipe", "loop", "folder"))
    os.mkfifo(pipe)
    loop.symlink_to(loop)
    folder.mkdir()
    for path in (pipe, loop, folder):
        with pytest.raises(CheckpointError, match=path.name):
            WeightsFiles([path])
    with pytest.raises(CheckpointNotFoundError, match="absent"):
        WeightsFiles([tmp_path / "absent.safetensors"])


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.bool, torch.float8_e4m3fn])
def test_only_floating_point_numbers_are_weights(dtype: torch.dtype, tmp_path: Path) -> None:
    save_file({"x": torch.ones(2, 3).to(dtype)}, tmp_path / "model.safetensors")
    weights = WeightsFiles([tmp_path / "model.safetensors"])
    assert weights.shape("x") == (2, 3)
    with pytest.raises(CheckpointError, match="tensor 'x' is"):
        weights["x"]


def test_the_index_decides_between_shards(tmp_path: Path) -> None:
    first, second = tmp_path / "1.safetensors", tmp_path / "2.safetensors"
    save_file({"x": torch.ones(2), "y": torch.ones(1)}, first)
    save_file({"x": torch.zeros(2)}, second)
    for shard, value in (("1.safetensors", 1), ("2.safetensors", 0)):
        weights = WeightsFiles([first, second], {"x": shard, "y": "1.safetensors"})
        np.testing.assert_array_equal(weights["x"], [value, value])
    with pytest.raises(CheckpointError, match="another file"):
        WeightsFiles([first, second])
    with pytest.raises(CheckpointError, match="index does not name"):
        WeightsFiles([first, second], {"x": "1.safetensors"})
    with pytest.raises(CheckpointError, match=r"'y', which 2\.safetensors does not hold"):
        WeightsFiles([first, second], {"x": "1.safetensors", "y": "2.safetensors"})


def test_a_file_that_is_overwritten_is_noticed_and_one_that_is_replaced_is_not(tmp_path: Path) -> None:
    path, new = tmp_path / "model.safetensors", tmp_path / "new.safetensors"
    save_file({"x": torch.ones(2)}, path)
    save_file({"x": torch.zeros(2)}, new)
    weights = WeightsFiles([path])
    weights.check_unchanged()
    os.link(path, tmp_path / "link")
    new.replace(path)
    weights.check_unchanged()
    np.testing.assert_array_equal(weights["x"], [1, 1])
    weights = WeightsFiles([path])
    with path.open("r+b") as file:
        file.truncate(20)
    with pytest.raises(CheckpointError, match=r"overwritten while it was in use.*rename"):
        weights.check_unchanged()


def test_the_digest_is_of_the_tensors_not_of_the_layout(tensors: dict[str, torch.Tensor], tmp_path: Path) -> None:
    whole, first, second, changed, renamed = (tmp_path / f"{i}.safetensors" for i in range(5))
    save_file(tensors, whole, metadata={"any": "thing"})
    save_file({"b.bias": tensors["b.bias"]}, first)
    save_file({name: tensor for name, tensor in tensors.items() if name != "b.bias"}, second)
    digest = WeightsFiles([whole]).digest()
    assert digest == WeightsFiles([second, first]).digest() == WeightsFiles([first, second]).digest()
    other = tensors["b.bias"].clone()
    other[1] = np.nextafter(np.float32(other[1]), np.float32(9)).item()
    save_file({**tensors, "b.bias": other}, changed)
    save_file({("c" if name == "b.bias" else name): tensor for name, tensor in tensors.items()}, renamed)
    assert len({digest, WeightsFiles([changed]).digest(), WeightsFiles([renamed]).digest()}) == 3


def test_released_tensors_leave_memory_and_can_be_read_again(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tensors = {f"layer.{i}.weight": torch.from_numpy(rng.random((1024, 2048), dtype=np.float32)) for i in range(8)}
    save_file(tensors, tmp_path / "model.safetensors")
    weights = WeightsFiles([tmp_path / "model.safetensors"])
    views = {name: weights[name] for name in weights}
    sums = {name: view.sum() for name, view in views.items()}
    before = mapped_megabytes()
    for i in range(7):
        weights.release(f"layer.{i}.")
    if sys.platform == "linux":
        assert mapped_megabytes() < before - 50  # of 7 × 8.4
    assert {name: view.sum() for name, view in views.items()} == sums


def mapped_megabytes() -> float:
    """Memory of files that this process holds; 0 where Linux's /proc is missing."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return sum(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("RssFile"))
