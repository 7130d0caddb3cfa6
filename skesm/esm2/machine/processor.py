"""The features of the processor, as far as it tells."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

#: Where Linux lists the processor's features.
CPUINFO = Path("/proc/cpuinfo")

# Features with products of bfloat16: of x86 (AVX-512, AMX), and of ARM
_BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}


def has_bfloat16() -> bool | None:
    """Whether this processor has instructions for products of bfloat16. None where the system does not tell.

    Without them, products in bfloat16 take several times as long as those in float32.

    Examples
    --------
    >>> has_bfloat16() in (True, False, None)
    True
    """
    if sys.platform == "linux":
        return _listed_by_linux()
    if sys.platform == "darwin":
        return _told_by_macos()
    return _told_by_torch()


def _listed_by_linux() -> bool | None:
    try:
        lines = CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:
        label, _, features = line.partition(":")
        if label.strip().lower() in ("flags", "features"):
            return not _BFLOAT16.isdisjoint(features.split())
    return None


def _told_by_macos() -> bool | None:
    """No Mac with an Intel processor has them. Of Apple's own, those from M2 have them."""
    value, size = ctypes.c_int(0), ctypes.c_size_t(ctypes.sizeof(ctypes.c_int))
    try:
        system = ctypes.CDLL(None)
        missing = system.sysctlbyname(
            b"hw.optional.arm.FEAT_BF16", ctypes.byref(value), ctypes.byref(size), None, ctypes.c_size_t(0)
        )
    except (OSError, AttributeError, TypeError):
        return None
    return not missing and bool(value.value)


def _told_by_torch() -> bool | None:
    """Windows does not list them. torch, if it has been imported, asks the processor itself."""
    cpu = getattr(sys.modules.get("torch"), "cpu", None)
    answers = [getattr(cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")]
    known = [bool(answer()) for answer in answers if callable(answer)]
    return any(known) if known else None
