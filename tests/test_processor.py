from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from skesm.backends import LocalBackend
from skesm.esm2.machine import processor
from skesm.esm2.machine.processor import has_bfloat16
from skesm.exceptions import SlowNumericsWarning
from skesm.outputs.spec import OutputSpec


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("processor\t: 0\nflags\t\t: fpu sse avx2 avx512f avx512_bf16 avx512_fp16\n", True),
        ("flags\t\t: fpu avx2 amx_bf16 amx_tile\n", True),
        ("flags\t\t: fpu sse avx2 avx512f avx512_vnni\nvmx flags\t: bf16\n", False),
        ("Features\t: fp asimd bf16 i8mm\n", True),
        ("Features\t: fp asimd\n", False),
        ("cpu\t\t: POWER9\n", None),
        (None, None),
    ],
)
def test_bfloat16_instructions_are_found(
    text: str | None, expected: bool | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if text is not None:
        (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(processor, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(processor.sys, "platform", "linux")
    assert has_bfloat16() is expected


@pytest.mark.parametrize("platform", ["darwin", "win32", "freebsd"])
def test_other_systems_are_asked_without_a_crash(platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor.sys, "platform", platform)
    assert has_bfloat16() in (True, False, None)


def test_bfloat16_without_instructions_warns(make_checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder: Path = make_checkpoint(1, 24, 2)
    (tmp_path / "cpuinfo").write_text("flags\t\t: fpu sse avx2\n")
    monkeypatch.setattr(processor, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(processor.sys, "platform", "linux")
    with pytest.warns(SlowNumericsWarning, match="no bfloat16 instructions"):
        list(LocalBackend(device="cpu", dtype="bfloat16").run(folder, ["MKT"], [OutputSpec("mean", 1)]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(LocalBackend(engine="torch", device="cpu").run(folder, ["MKT"], [OutputSpec("mean", 1)]))
