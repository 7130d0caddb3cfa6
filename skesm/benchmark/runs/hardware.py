"""The machine that computes, as far as numbers and times depend on it."""

from __future__ import annotations

import os
import platform
import sys

from joblib import cpu_count
from threadpoolctl import threadpool_info

from skesm._typing import Document
from skesm.esm2.machine.processor import CPUINFO

#: Instruction sets on which the choice of kernels depends, as Linux names them.
INSTRUCTION_SETS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "sve", "bf16")


def describe_hardware() -> Document:
    """Processor, its instruction sets, cores, memory, and the kernels of the linear algebra.

    Values that the system does not tell are left out.
    """
    lines = _cpuinfo()
    name = lines.get("model name") or platform.processor() or platform.machine()
    flags = (lines.get("flags") or lines.get("Features") or "").split()
    found: Document = {
        "processor": name,
        "instruction_sets": [flag for flag in INSTRUCTION_SETS if flag in flags],
        "cores": cpu_count(),
        "blas": sorted({_library(found) for found in threadpool_info() if found["user_api"] == "blas"}),
    }
    if memory := _memory():
        found["memory_gib"] = memory
    return found


def _library(found: Document) -> str:
    return f"{found['internal_api']} {found.get('version') or ''} ({found.get('architecture') or 'unknown kernels'})"


def _cpuinfo() -> dict[str, str]:
    """The fields of the first processor."""
    try:
        lines = CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    return fields


def _memory() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):  # Windows
        return None


def peak_memory() -> float | None:
    """The most memory that this process has held, in GiB."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30, 2)
