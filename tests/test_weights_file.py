from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from skesm.esm2.weights_file import WeightsFiles
from skesm.exceptions import CheckpointError


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
