"""``skesm doctor``: programs and files on this machine, one line each, with the remedy for each problem."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from skesm import __version__
from skesm._optional import install_line
from skesm.cli.arguments import HelpFormatter, examples, size

if TYPE_CHECKING:
    from skesm.cli.arguments import Commands

OK, NOTE, PROBLEM = "ok", "note", "problem"

#: Packages of the extras, and the purpose of each.
_EXTRAS = {
    "torch": ("torch", "GPUs and bfloat16"),
    "llvmlite": ("fast", "speed on CPUs"),
    "pyarrow": ("parquet", ".parquet files"),
    "h5py": ("h5", ".h5 files"),
    "openpyxl": ("excel", ".xlsx files"),
    "xgboost": ("xgboost", "the demo"),
    "distributed": ("dask", "Dask clusters"),
    "starlette": ("server", "`skesm serve`"),
}

#: A pass that reaches less of the rate of one large product has a reason.
_LEAST_SHARE = 0.1

#: The timed pass: as many proteins, of a usual length.
_PROTEINS = 48
_LENGTH = 300

_ENGINE_NAMES = {
    "numpy": "the NumPy engine",
    "compiled": "the compiled engine",
    "torch": "torch",
}


@dataclass(frozen=True)
class Finding:
    """One line.

    Attributes
    ----------
    name : str
    state : {"ok", "note", "problem"}
    text : str
    remedy : str
        Empty if nothing is to be done.
    """

    name: str
    state: str
    text: str
    remedy: str = ""


def add_doctor(commands: Commands) -> None:
    """Add the command ``doctor``."""
    parser = commands.add_parser(
        "doctor",
        help="check this machine, and name the remedy for each problem",
        description="Check everything that skesm needs here, one line each, with the remedy for each problem. "
        "Nothing is sent, unless you ask for --online. The exit status is 1 if there is a problem.",
        epilog=examples("doctor", "doctor --memory cache --model esm2-650m --json"),
        formatter_class=HelpFormatter,
    )
    parser.add_argument("--model", default="skesm-mini", help="the model of the timed pass (default: skesm-mini)")
    parser.add_argument("--memory", type=Path, metavar="FOLDER", help="a record store to look at")
    parser.add_argument("--online", action="store_true", help="ask whether the Hub can be reached")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    findings = list(_examine(args))
    if args.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        for finding in findings:
            remedy = f" → {finding.remedy}" if finding.remedy else ""
            print(f"{finding.state:<8} {finding.name:<12} {finding.text}{remedy}")
    return int(any(finding.state == PROBLEM for finding in findings))


def _examine(args: argparse.Namespace) -> Iterator[Finding]:
    yield Finding(
        "skesm", OK, f"{__version__}, Python {platform.python_version()}, {platform.machine()}, {sys.platform}"
    )
    yield from _packages()
    checks: list[tuple[str, Callable[[], Finding]]] = [
        ("engine", _engine),
        ("torch on CPU", _torch_on_cpu),
        ("processor", _processor),
        ("threads", _threads),
        ("precision", _precision),
        ("hub", lambda: _hub(online=args.online)),
        ("models", _models),
        ("credentials", _credentials),
        ("memory", lambda: _memory(args.memory)),
        ("speed", lambda: _timed_pass(args.model)),
    ]
    for name, check in checks:
        try:
            yield check()
        except Exception as error:  # one check that fails must not hide the others
            yield Finding(name, PROBLEM, f"{type(error).__name__}: {' '.join(str(error).split())}")


def _packages() -> Iterator[Finding]:
    for package, (extra, use) in _EXTRAS.items():
        try:
            yield Finding(package, OK, f"{importlib.metadata.version(package)}, for {use}")
        except importlib.metadata.PackageNotFoundError:
            yield Finding(package, NOTE, f"not installed, needed for {use}", install_line(extra))


def _engine() -> Finding:
    from skesm.backends import LocalBackend

    engine, device = LocalBackend()._resolve_engine()
    text = f"{_ENGINE_NAMES[engine]} computes, on {_device_name(device)}"
    if engine == "numpy":
        return Finding("engine", NOTE, f"{text}. The compiled engine is faster", install_line("fast"))
    return Finding("engine", OK, text)


def _device_name(device: str) -> str:
    return "the CPU" if device == "cpu" else f"the GPU ({device})"


def _torch_on_cpu() -> Finding:
    from importlib.util import find_spec

    if find_spec("torch") is None:
        return Finding("torch on CPU", OK, "not installed, and not needed")
    import torch

    from skesm.esm2.kernels import are_installed
    from skesm.esm2.torch_engine.linear import PackedLinear, choose_linear
    from skesm.esm2.torch_engine.trial import choose_exponential, exp2_by_numpy

    packed = choose_linear(torch.device("cpu"), torch.float32) is PackedLinear
    exponential = "NumPy" if choose_exponential() is exp2_by_numpy else "torch"
    products = "with weights laid out by oneDNN" if packed else "by torch.nn.functional.linear"
    attention = "compiled" if are_installed() else f"NumPy's, 2^x by {exponential}"
    text = "used only with LocalBackend('torch') or dtype='bfloat16'. The fastest ways in a trial:"
    return Finding("torch on CPU", OK, f"{text} products {products}, attention {attention}")


def _processor() -> Finding:
    from threadpoolctl import threadpool_info

    import skesm.esm2.numpy_engine  # noqa: F401  # loads NumPy's BLAS

    libraries = [
        f"{found['internal_api']} {found.get('version') or ''} ({found.get('architecture') or 'unknown kernels'})"
        for found in threadpool_info()
        if found["user_api"] == "blas"
    ]
    known = _instructions()
    text = f"{', '.join(known) or 'instruction sets unknown'}. NumPy's BLAS: {', '.join(libraries) or 'unknown'}"
    if not libraries:
        return Finding("processor", NOTE, text, "install NumPy from PyPI or conda-forge, which brings OpenBLAS")
    return Finding("processor", OK, text)


def _instructions() -> list[str]:
    from skesm.esm2.machine.processor import CPUINFO

    try:
        lines = CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features"))), [])
    return [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "sve", "bf16") if flag in flags]


def _threads() -> Finding:
    from joblib import cpu_count

    from skesm.esm2.machine.threads import default_workers

    threads, cores = default_workers(), cpu_count()
    text = f"{threads} threads on {cores} usable cores"
    if threads < cores:
        named = [name for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS") if name in os.environ]
        reason = f"unset {', '.join(named)}, or " if named else ""
        return Finding("threads", NOTE, text, f"{reason}give n_jobs=-1")
    return Finding("threads", OK, text)


def _precision() -> Finding:
    from skesm.backends import LocalBackend
    from skesm.esm2.machine.processor import has_bfloat16

    _, device = LocalBackend()._resolve_engine()
    if device != "cpu":
        return Finding("precision", OK, f"bfloat16 pays on {device}: dtype='bfloat16'")
    there = has_bfloat16()
    if there is None:
        return Finding("precision", NOTE, "the system does not tell whether bfloat16 pays here", "use float32")
    if there:
        return Finding(
            "precision", OK, "the processor has bfloat16 instructions: dtype='bfloat16' can pay (with torch)"
        )
    return Finding("precision", OK, "float32, because bfloat16 does not pay on this processor")


def _hub(*, online: bool) -> Finding:
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE)
    state = "offline by HF_HUB_OFFLINE" if constants.HF_HUB_OFFLINE else "fetches missing files"
    text = f"cache {folder}, {size(_bytes_in(folder))}, {state}"
    if not online:
        return Finding("hub", OK, text)
    import requests

    try:
        status = requests.head(constants.ENDPOINT, timeout=5, allow_redirects=True).status_code
    except requests.RequestException as error:
        remedy = "set HTTPS_PROXY, or copy a model's folder from another machine and give its path"
        return Finding("hub", PROBLEM, f"{text}, cannot be reached: {type(error).__name__}", remedy)
    return Finding("hub", OK, f"{text}, reached, status {status}")


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def _models() -> Finding:
    from skesm.esm2.spec import REGISTRY
    from skesm.exceptions import CheckpointError
    from skesm.models import where

    there = []
    for name in REGISTRY:
        try:
            where(name)
        except CheckpointError:
            continue
        there.append(name)
    if there == ["skesm-mini"]:
        remedy = "skesm models download esm2-8m"
        return Finding("models", NOTE, "only skesm-mini is on this machine, which is not for research", remedy)
    return Finding("models", OK, f"on this machine: {', '.join(there)}")


def _credentials() -> Finding:
    from skesm.backends.biolm.auth import HOSTED_ORIGIN, Auth

    if not Auth.find(os.environ.get("BIOLM_BASE_API_URL") or HOSTED_ORIGIN).present:
        return Finding(
            "credentials", NOTE, "none found for backend='biolm', needed for that backend only", "set BIOLM_TOKEN"
        )
    return Finding("credentials", OK, "found for backend='biolm'. They are not shown")


def _memory(folder: Path | None) -> Finding:
    if folder is None:
        return Finding(
            "memory", NOTE, "no record store was named", "give --memory FOLDER, the folder that is your memory="
        )
    from skesm.cache import info

    found = info(folder)
    bad = [each for each in found if each.problem]
    text = f"{folder}: {len(found)} models, {size(sum(each.disk_bytes for each in found))}"
    if bad:
        return Finding("memory", PROBLEM, f"{text}. {bad[0].problem}", f"skesm cache verify {folder}")
    if not os.access(folder, os.W_OK):
        return Finding(
            "memory", PROBLEM, f"{text}, but it cannot be written", "change its permissions, or use another folder"
        )
    return Finding("memory", OK, text)


def _timed_pass(name: str) -> Finding:
    """Sequences a minute to expect, and whether the processor does much less than it can do."""
    import numpy as np

    from skesm.backends import LocalBackend
    from skesm.exceptions import DemoModelWarning
    from skesm.outputs.spec import OutputSpec

    backend = LocalBackend()
    engine, device = backend._resolve_engine()
    spec = backend.spec(name)
    rng = np.random.default_rng(0)
    proteins = ["".join(rng.choice(list("LAGVSERTIDPKQNFYMHWC"), _LENGTH)) for _ in range(_PROTEINS)]
    outputs = [OutputSpec("mean", spec.n_layers)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DemoModelWarning)
        for _ in backend.run(name, proteins[:2], outputs):
            pass  # loads the weights
        rate = _PROTEINS * _LENGTH / _seconds(lambda: list(backend.run(name, proteins, outputs)))
    where = f"{_ENGINE_NAMES[engine]}, {_device_name(device)}"
    text = (
        f"{spec.name}: about {_rounded(rate / _LENGTH * 60)} proteins of {_LENGTH} residues a minute, or "
        f"{_rounded(rate)} residues a second ({where}; --model takes another one)"
    )
    if device == "cpu" and 2 * spec.n_parameters * rate < _LEAST_SHARE * _product_rate():
        remedy = "end other programs that use this machine, look at the lines above, and try again"
        return Finding("speed", NOTE, f"{text}. This processor can do more", remedy)
    return Finding("speed", OK, text)


def _rounded(number: float) -> str:
    """Two digits: more would not be the same in the next run.

    >>> _rounded(6049), _rounded(12.34)
    ('6,000', '12')
    """
    digits = max(0, len(str(int(number))) - 2)
    return f"{round(number, -digits):,.0f}"


def _product_rate() -> float:
    """Operations a second in one large product."""
    import numpy as np

    a = np.random.default_rng(0).standard_normal((1024, 1024), dtype=np.float32)
    return 2 * 1024**3 / min(_seconds(lambda: a @ a) for _ in range(5))


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
