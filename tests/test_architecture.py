"""What the house is built on: who may import whom, what `import skesm` brings in, and what no module may do."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "skesm"
MODULES = sorted(PACKAGE.rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

MOST_LINES = 450

#: Each unit, a module or a package of skesm, and the units that it may import. Arrows point upwards only.
ARROWS: dict[str, set[str]] = {
    "exceptions": set(),
    "_alphabet": set(),
    "_optional": {"exceptions"},
    "_outputs": {"_alphabet"},
    "_pooling": {"_outputs"},
    "_variants": {"_alphabet", "exceptions"},
    "_contacts": {"_outputs"},
    "_derived": {"_alphabet", "_contacts", "_outputs", "_variants"},
    "_summaries": {"_outputs", "_alphabet", "_variants"},
    "_sequences": {"_alphabet", "exceptions"},
    "_reference": {"_sequences", "_variants"},
    "esm2": {"_alphabet", "_optional", "_outputs", "_pooling", "exceptions"},
    "cache": {"_optional", "_outputs", "exceptions"},
    "backends": {"_alphabet", "_optional", "_outputs", "esm2", "exceptions"},
    "_windows": {"_alphabet", "_outputs", "backends", "esm2", "exceptions"},
    "_road": {"_alphabet", "_derived", "_outputs", "_windows", "backends", "cache", "esm2", "exceptions"},
    "_run": {"_alphabet", "_outputs", "_road", "_windows", "backends", "esm2", "exceptions"},
    "_masked": {"_alphabet", "_outputs", "_run", "_variants"},
    "_base": {"_alphabet", "_outputs", "_road", "_run", "_sequences", "backends", "esm2", "exceptions"},
    "_embedder": {"_base", "_derived", "_outputs", "_reference", "_run", "_variants", "backends", "esm2"},
    "_logit_summarizer": {"_base", "_masked", "_outputs", "_run", "_summaries", "_variants", "backends", "esm2"},
    "_contact_summarizer": {"_base", "_contacts", "_outputs", "_run", "backends", "esm2"},
    "_attention_summarizer": {"_base", "_outputs", "_run", "backends", "esm2"},
    "_residue_embedder": {"_alphabet", "_base", "_outputs", "_run", "_variants", "backends", "esm2"},
    "_compute_outputs": {"_base", "_outputs", "_run", "_variants", "backends"},
    "_variant_scorer": {
        *("_alphabet", "_base", "_masked", "_outputs", "_reference", "_run", "_summaries", "_variants", "backends"),
    },
    "__init__": {
        *("_attention_summarizer", "_compute_outputs", "_contact_summarizer", "_embedder", "_logit_summarizer"),
        *("_residue_embedder", "_variant_scorer"),
    },
    "datasets": {"_optional", "exceptions"},
    "benchmark": {"__init__", "_optional", "backends", "exceptions"},
    "server": {"__init__", "_alphabet", "_optional", "_outputs", "_road", "backends", "esm2", "exceptions"},
    "cli": {"__init__", "_optional", "backends", "benchmark", "cache", "datasets", "esm2", "exceptions", "server"},
    "__main__": {"cli"},
}

#: Arrows inside and between packages that are narrower than those of their unit: (importers, what they may not import).
FORBIDDEN = [
    # the protocol is shared with the server, which needs no client
    ("skesm.backends.biolm_wire", r"skesm\.backends\.(?!biolm_wire)"),
    # local knows nothing of remote, and remote nothing of weights
    ("skesm.backends.local", r"skesm\.backends\.biolm"),
    (r"skesm.backends.biolm.*", r"skesm\.(backends\.local|esm2\.(?!spec))"),
    # only those who asked for torch import its engine, and neither engine knows the other
    (r"skesm\.esm2\.numpy_engine\..*", r"skesm\.esm2\.torch_engine"),
    (r"skesm\.esm2\.torch_engine\..*", r"skesm\.esm2\.numpy_engine"),
    (r"skesm\.esm2\.(?!torch_engine)\w+", r"skesm\.esm2\.(torch|numpy)_engine"),
    # the server speaks the protocol; it is no client
    ("skesm.server.*", r"skesm\.backends\.biolm(_auth|_job|_throttle|_transport)?$"),
]

#: What units may import of others' packages; those not named may import any dependency.
THIRD_PARTY: dict[str, set[str]] = {
    "exceptions": set(),
    "_alphabet": set(),
    "_optional": set(),
    "_outputs": {"numpy"},
    "_pooling": {"numpy"},
    "_variants": {"numpy"},
    "_contacts": {"numpy"},
    "_derived": {"numpy"},
    "_summaries": {"numpy"},
    "_windows": {"numpy"},
    "_masked": {"numpy"},
    "_sequences": {"numpy"},
    "esm2": {"numpy", "scipy", "threadpoolctl", "huggingface_hub", "torch"},
    "cache": {"numpy", "joblib"},
    "_road": {"tqdm"},
    "datasets": {"numpy", "sklearn", "requests"},
}

#: Packages that come with a declared one and belong to its interface.
COMES_WITH = {"urllib3": "requests"}

#: Not imported by `import skesm`, nor by a transform on this machine. (sklearn brings pandas in by itself.)
HEAVY = ("torch", "requests", "xgboost", "huggingface_hub", "matplotlib", "transformers", "starlette", "uvicorn")
LATER_PARTS = ("skesm.server", "skesm.backends.biolm", "skesm.datasets", "skesm.benchmark", "skesm.cli")


def name_of(path: Path) -> str:
    """Dotted name of a module; packages end in ``__init__``."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def unit_of(name: str) -> str:
    """Top module or package inside skesm that `name` belongs to."""
    part = name.split(".")[1] if "." in name else "__init__"
    return part if part in ARROWS or (PACKAGE / part).is_dir() or (PACKAGE / f"{part}.py").is_file() else "__init__"


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports_in(nodes: Iterator[ast.AST] | list[ast.stmt]) -> set[str]:
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def all_imports(path: Path) -> set[str]:
    return imports_in(ast.walk(tree_of(path)))


def imports_at_start(path: Path) -> set[str]:
    """What is imported when the module is: not in functions, not for type checkers only."""

    def statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
        for node in body:
            yield node
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                yield from statements(node.orelse)
            elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                for field in ("body", "orelse", "finalbody"):
                    yield from statements(getattr(node, field, []))

    return imports_in(list(statements(tree_of(path).body)))


def calls_in(path: Path) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call))


def in_new_process(code: str, *, hidden: str = "") -> str:
    """Run code in a fresh interpreter in which the package `hidden` looks as if it were not installed."""
    hide = f"""
import sys
class Hiding:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] == {hidden!r} else self.finder.find_spec(name, path, target)
    def __getattr__(self, name):
        return getattr(self.finder, name)
sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", (hide if hidden else "") + code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# arrows ---------------------------------------------------------------------------------------------------------------


def test_every_module_has_its_place() -> None:
    assert {unit_of(name_of(path)) for path in MODULES} == set(ARROWS)


def test_arrows_have_no_circle() -> None:
    placed: set[str] = set()
    while rest := [unit for unit in ARROWS if unit not in placed]:
        free = {unit for unit in rest if ARROWS[unit] <= placed}
        assert free, f"a circle among {rest}"
        placed |= free


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_arrows(path: Path) -> None:
    unit = unit_of(name_of(path))
    imported = {unit_of(name) for name in all_imports(path) if name.partition(".")[0] == "skesm"}
    assert imported <= ARROWS[unit] | {unit}


@pytest.mark.parametrize(("importers", "pattern"), FORBIDDEN)
def test_narrower_arrows(importers: str, pattern: str) -> None:
    paths = [path for path in MODULES if re.fullmatch(importers, name_of(path))]
    assert paths
    # "from skesm.backends import biolm_wire" and "from skesm.backends.biolm_wire import …" name the same module
    found = {f"{name_of(path)} → {name}" for path in paths for name in all_imports(path) if re.match(pattern, name)}
    own = {f"{name_of(path)} → {name}" for path in paths for name in all_imports(path) if name_of(path) in name}
    assert not found - own


def test_only_the_road_knows_backends_and_store() -> None:
    def users_of(part: str) -> set[str]:
        return {
            unit_of(name_of(path))
            for path in MODULES
            if any(unit_of(name) == part for name in all_imports(path) if name.startswith("skesm"))
        } - {part}

    assert users_of("cache") <= {"_road", "cli"}
    assert users_of("_road") <= {"_base", "_run", "server"}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_third_parties(path: Path) -> None:
    unit = unit_of(name_of(path))
    others = {name.partition(".")[0] for name in all_imports(path)} - sys.stdlib_module_names - {"skesm"}
    if unit in THIRD_PARTY:
        assert others <= THIRD_PARTY[unit]
    if unit == "server" or ".torch_engine." in name_of(path):
        return  # imported by nobody who has not asked for a server, or for torch
    declared = {re.match(r"[\w-]+", requirement)[0].lower() for requirement in PROJECT["dependencies"]}  # type: ignore[index]
    distributions = packages_distributions()
    at_start = {name.partition(".")[0] for name in imports_at_start(path)} & others
    needed = {distributions[name][0].lower().replace("_", "-") for name in at_start}
    assert {COMES_WITH.get(name, name) for name in needed} <= declared


# what is imported when ------------------------------------------------------------------------------------------------


def test_import_brings_in_little() -> None:
    out = in_new_process("import sys, skesm; print(*sys.modules, sep='\\n')")
    loaded = set(out.split())
    assert "skesm._embedder" in loaded
    assert not loaded & {*HEAVY, "http.server"}
    assert not {name for name in loaded if name.startswith(LATER_PARTS)}


def test_a_transform_on_this_machine_needs_little(tiny_checkpoint: Path, tmp_path: Path) -> None:
    code = f"""
import sys, threading
from skesm import ESM2Embedder
ESM2Embedder({str(tiny_checkpoint)!r}, backend="numpy", memory={str(tmp_path)!r}).transform(["MKT"])
assert threading.active_count() == 1, threading.enumerate()
print(*sys.modules, sep="\\n")
"""
    loaded = set(in_new_process(code).split())
    assert not loaded & set(HEAVY)
    assert not {name for name in loaded if name.startswith(LATER_PARTS)}


def test_import_starts_no_thread_and_writes_nothing() -> None:
    code = "import threading, logging, warnings, skesm; print(threading.active_count(), len(logging.root.handlers))"
    assert in_new_process(code) == "1 0\n"


#: What needs an optional package: package → (extra that errors name, uses). Those without uses are never needed.
OPTIONAL: dict[str, tuple[str, list[str]]] = {
    "torch": (
        "torch",
        [
            "skesm.ESM2Embedder(folder, backend='torch').transform(['MKT'])",
            "skesm.ESM2Embedder(folder, backend=LocalBackend(dtype='bfloat16')).transform(['MKT'])",
            "skesm.ESM2Embedder(folder, backend=LocalBackend(device='cuda')).transform(['MKT'])",
        ],
    ),
    "xgboost": ("demo", ["skesm.benchmark.default_regressors()"]),
    "pandas": ("demo", ["skesm.datasets.load_gb1_stability(as_frame=True)"]),
    "matplotlib": ("demo", ["skesm.benchmark.plot_predictions(skesm.benchmark.Comparison)"]),
    "pyarrow": ("parquet", ["skesm.cache.export(memory, memory + '/export.parquet')"]),
    "polars": ("", []),
    "transformers": ("", []),
}


@pytest.mark.parametrize("hidden", OPTIONAL)
def test_without(hidden: str, tiny_checkpoint: Path, tmp_path: Path) -> None:
    extra, uses = OPTIONAL[hidden]
    code = f"""
from importlib.util import find_spec
assert find_spec({hidden!r}) is None
import skesm, skesm.benchmark, skesm.cache, skesm.cli, skesm.datasets
from skesm.backends import LocalBackend
from skesm.exceptions import MissingDependencyError
folder, memory = {str(tiny_checkpoint)!r}, {str(tmp_path)!r}
print(skesm.ESM2Embedder(folder, memory=memory).transform(["MKT"]).shape)
for use in {uses!r}:
    try:
        eval(use)
    except MissingDependencyError as error:
        print(error)
"""
    out = in_new_process(code, hidden=hidden).splitlines()
    assert out == ["(1, 40)"] + [f"{hidden} is not installed: pip install 'skesm[{extra}]'"] * len(uses)


def test_extras_that_errors_name_exist() -> None:
    named = {
        call.args[1].value if len(call.args) > 1 else call.keywords[0].value.value
        for path in MODULES
        for call in calls_in(path)
        if ast.unparse(call.func) == "import_optional"
    }
    assert len(named) > 1
    assert named <= set(PROJECT["optional-dependencies"])


# what no module may do ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_nothing_is_printed_outside_the_command_line(path: Path) -> None:
    if path.name != "cli.py":
        assert not [call.lineno for call in calls_in(path) if ast.unparse(call.func) == "print"]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_pickle_is_loaded(path: Path) -> None:
    assert not {name.partition(".")[0] for name in all_imports(path)} & {"pickle", "cloudpickle", "dill", "shelve"}
    for call in calls_in(path):
        assert ast.unparse(call.func) not in {"torch.load", "joblib.load", "pandas.read_pickle", "pd.read_pickle"}
        assert not [k for k in call.keywords if k.arg == "allow_pickle" and ast.unparse(k.value) != "False"]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_error_is_swallowed(path: Path) -> None:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"line {node.lineno}: bare except"
            broad = ast.unparse(node.type) in {"Exception", "BaseException"}
            assert not (broad and all(isinstance(s, ast.Pass) for s in node.body)), f"line {node.lineno}"
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("suppress"):
            assert not {"Exception", "BaseException"} & {ast.unparse(a) for a in node.args}, f"line {node.lineno}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_logging_is_not_configured(path: Path) -> None:
    assert not [call for call in calls_in(path) if ast.unparse(call.func).startswith("logging.basicConfig")]
    assert not [call for call in calls_in(path) if ast.unparse(call.func) == "warnings.filterwarnings"]


@pytest.mark.parametrize("folder", [PACKAGE / "esm2", *(PACKAGE / "esm2").glob("*_engine")], ids=lambda f: f.name)
def test_folders_of_the_model_are_small(folder: Path) -> None:
    files = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
    assert 0 < len(files) <= 12
    assert max(len(path.read_text(encoding="utf-8").splitlines()) for path in files) <= 400


def test_modules_are_short() -> None:
    lengths = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert {name: n for name, n in lengths.items() if n >= MOST_LINES} == {}


def test_types_are_shipped() -> None:
    assert (PACKAGE / "py.typed").read_bytes() == b""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["skesm"]


def test_public_names_are_there() -> None:
    import skesm

    assert sorted(skesm.__all__) == [
        "ESM2AttentionSummarizer",
        "ESM2ContactSummarizer",
        "ESM2Embedder",
        "ESM2LogitSummarizer",
        "ESM2ResidueEmbedder",
        "ESM2VariantScorer",
        "__version__",
        "compute_outputs",
    ]
    assert all(hasattr(skesm, name) for name in skesm.__all__)
