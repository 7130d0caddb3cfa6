"""What the house is built on: who may import whom, what `import skesm` brings in, and what no module may do."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "skesm"
MODULES = sorted(PACKAGE.rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

MOST_LINES = 400
MOST_FILES = 12
MOST_ANY = 40
#: Modules and folders that are still larger, until they are split.
LARGE: set[str] = set()

#: The floors of the house, from the ground up: modules and folders of skesm. Each imports only what stands before it.
FLOORS = (
    *("exceptions", "_messages", "_optional", "_progress", "_typing"),
    *("sequences", "outputs", "esm2", "protocol", "cache", "backends", "fetch"),
    *("features", "__init__", "models", "io", "datasets", "model_selection", "benchmark", "reproduce", "design"),
    *("server", "cli"),
    "__main__",
)

#: Arrows that are narrower than those of their floors: (importers, what they may not import).
FORBIDDEN = [
    # local knows nothing of remote, and remote nothing of weights
    ("skesm.backends.local", r"skesm\.(backends\.biolm|protocol)"),
    (r"skesm.(backends.biolm|protocol).*", r"skesm\.(backends\.local|esm2\.(?!spec|checkpoints\.names))"),
    # only those who asked for torch import its engine, and neither engine knows the other
    (r"skesm\.esm2\.numpy_engine\..*", r"skesm\.esm2\.torch_engine"),
    (r"skesm\.esm2\.torch_engine\..*", r"skesm\.esm2\.numpy_engine"),
    (r"skesm\.esm2\.(?!torch_engine)\w+", r"skesm\.esm2\.(torch|numpy)_engine"),
    # the server speaks the protocol; it is no client
    ("skesm.server.*", r"skesm\.backends\.biolm"),
]

#: What floors may import of others' packages; those not named may import any dependency.
THIRD_PARTY: dict[str, set[str]] = {
    "exceptions": set(),
    "_messages": set(),
    "_optional": set(),
    "_progress": {"tqdm"},
    "_typing": set(),
    "sequences": {"numpy"},
    "outputs": {"numpy"},
    "protocol": {"numpy"},
    "esm2": {"numpy", "scipy", "threadpoolctl", "huggingface_hub", "filelock", "torch", "llvmlite"},
    "cache": {"numpy", "joblib", "filelock"},
    "fetch": {"numpy"},
    "io": {"numpy", "filelock", "pyarrow", "h5py"},
    "datasets": {"numpy", "sklearn", "requests", "filelock", "pyarrow"},
}

#: Packages that come with a declared one and belong to its interface.
COMES_WITH = {"urllib3": "requests"}

#: Not imported by `import skesm`, nor by a transform on this machine. (sklearn brings pandas in by itself.)
HEAVY = (
    *("torch", "requests", "xgboost", "huggingface_hub", "matplotlib", "transformers", "starlette", "uvicorn"),
    *("llvmlite", "polars", "openpyxl", "h5py", "tqdm", "urllib.request", "http.server"),
)
#: The only module that may read torch's pickles.
READS_PICKLES = "skesm.esm2.conversion.pickled"
LATER_PARTS = (
    "skesm.server",
    "skesm.backends.biolm",
    "skesm.protocol",
    "skesm.datasets",
    "skesm.benchmark",
    "skesm.design",
    "skesm.reproduce",
    "skesm.cli",
    "skesm.io",
)


def name_of(path: Path) -> str:
    """Dotted name of a module; packages end in ``__init__``."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def floor_of(name: str) -> str:
    """The module or folder of skesm that `name` belongs to; names that skesm itself exports belong to its __init__."""
    part = name.split(".")[1] if "." in name else "__init__"
    return part if (PACKAGE / part).is_dir() or (PACKAGE / f"{part}.py").is_file() else "__init__"


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


def module_of(name: str) -> str:
    """The module that an imported name is, or comes from."""
    path = ROOT.joinpath(*name.split("."))
    if path.with_suffix(".py").is_file():
        return name
    return f"{name}.__init__" if path.is_dir() else module_of(name.rpartition(".")[0])


def test_every_module_has_its_floor() -> None:
    assert {floor_of(name_of(path)) for path in MODULES} <= set(FLOORS)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_floors(path: Path) -> None:
    floor = floor_of(name_of(path))
    imported = {floor_of(name) for name in all_imports(path) if name.partition(".")[0] == "skesm"}
    assert imported <= {*FLOORS[: FLOORS.index(floor)], floor}


def test_imports_inside_a_folder_have_no_circle() -> None:
    imported = {
        name_of(path): {module_of(name) for name in all_imports(path) if name.partition(".")[0] == "skesm"}
        - {name_of(path)}
        for path in MODULES
    }
    placed: set[str] = set()
    while rest := imported.keys() - placed:
        free = {name for name in rest if imported[name] <= placed}
        assert free, f"a circle among {sorted(rest)}"
        placed |= free


@pytest.mark.parametrize(("importers", "pattern"), FORBIDDEN)
def test_narrower_arrows(importers: str, pattern: str) -> None:
    paths = [path for path in MODULES if re.fullmatch(importers, name_of(path))]
    assert paths
    # "from skesm.protocol import wire" and "from skesm.protocol.wire import …" name the same module
    found = {f"{name_of(path)} → {name}" for path in paths for name in all_imports(path) if re.match(pattern, name)}
    own = {f"{name_of(path)} → {name}" for path in paths for name in all_imports(path) if name_of(path) in name}
    assert not found - own


def test_only_fetch_knows_backends_and_store() -> None:
    def users_of(part: str) -> set[str]:
        return {
            floor_of(name_of(path))
            for path in MODULES
            if any(floor_of(name) == part for name in all_imports(path) if name.startswith("skesm"))
        } - {part}

    # the base knows where a relative memory lay, and no store
    assert users_of("cache") <= {"features", "fetch", "cli"}
    assert users_of("fetch") <= {"features", "server"}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_third_parties(path: Path) -> None:
    floor = floor_of(name_of(path))
    others = {name.partition(".")[0] for name in all_imports(path)} - sys.stdlib_module_names - {"skesm"}
    if floor in THIRD_PARTY:
        assert others <= THIRD_PARTY[floor]
    if floor == "server" or re.search(r"\.(torch_engine|kernels)\.", name_of(path)):
        return  # imported by nobody who has not asked for a server or torch, or has not installed llvmlite
    declared = {re.match(r"[\w-]+", requirement)[0].lower() for requirement in PROJECT["dependencies"]}  # type: ignore[index]
    distributions = packages_distributions()
    at_start = {name.partition(".")[0] for name in imports_at_start(path)} & others
    needed = {distributions[name][0].lower().replace("_", "-") for name in at_start}
    assert {COMES_WITH.get(name, name) for name in needed} <= declared


# what is imported when ------------------------------------------------------------------------------------------------


def test_import_brings_in_little() -> None:
    out = in_new_process("import sys, skesm; print(*sys.modules, sep='\\n')")
    loaded = set(out.split())
    assert "skesm.features.embedder" in loaded
    assert not loaded & set(HEAVY)
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


def test_the_command_that_embeds_needs_little(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Its options name the server's defaults, so the server's modules are there, but nothing that serves."""
    (tmp_path / "in.fasta").write_text(">a\nMKT\n")
    names = ("in.fasta", "out.csv")
    arguments = ["embed", *(str(tmp_path / name) for name in names), "--model", str(tiny_checkpoint)]
    code = f"""
import sys
from skesm.cli import main
assert main({[*arguments, "--backend", "numpy", "--quiet"]!r}) in (None, 0)
print(*sys.modules, sep="\\n")
"""
    loaded = set(in_new_process(code).split())
    assert "skesm.io" in loaded
    assert not loaded & set(HEAVY)
    assert not {name for name in loaded if name.startswith(("skesm.benchmark", "skesm.design", "skesm.datasets"))}


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
    "llvmlite": ("fast", ["skesm.ESM2Embedder(folder, backend=LocalBackend('compiled')).transform(['MKT'])"]),
    "xgboost": ("benchmark", ["skesm.benchmark.make_heads(['xgboost'])"]),
    "pandas": ("demo", ["skesm.datasets.load_gb1_stability(as_frame=True)"]),
    "matplotlib": ("benchmark", ["skesm.benchmark.plot_predictions(skesm.benchmark.Comparison)"]),
    "pyarrow": ("parquet", ["skesm.cache.export(memory, memory + '/export.parquet')"]),
    "openpyxl": ("excel", ["skesm.io.read_table(spreadsheet, 'seq')"]),
    "h5py": ("h5", ["skesm.io.transform_file(skesm.ESM2Embedder(folder), spreadsheet, memory + '/features.h5')"]),
    "polars": ("", []),
    "transformers": ("", []),
}


@pytest.mark.parametrize("hidden", OPTIONAL)
def test_without(hidden: str, tiny_checkpoint: Path, tmp_path: Path) -> None:
    extra, uses = OPTIONAL[hidden]
    code = f"""
from importlib.util import find_spec
assert find_spec({hidden!r}) is None
import skesm, skesm.benchmark, skesm.cache, skesm.cli, skesm.datasets, skesm.io
from skesm.backends import LocalBackend
from skesm.exceptions import MissingDependencyError
folder, memory = {str(tiny_checkpoint)!r}, {str(tmp_path)!r}
spreadsheet = memory + "/table.xlsx"
open(spreadsheet, "wb").write(b"PK\\x03\\x04")
print(skesm.ESM2Embedder(folder, memory=memory).transform(["MKT"]).shape)
for use in {uses!r}:
    try:
        eval(use)
    except MissingDependencyError as error:
        print(error)
"""
    out = in_new_process(code, hidden=hidden).splitlines()
    assert out[0] == "(1, 40)"
    assert [line.partition(", or write ")[0] for line in out[1:]] == [
        f"{hidden} is not installed: {pip_line(extra)}"
    ] * len(uses)


def pip_line(extra: str) -> str:
    """The command that errors show: it must not ask a registry for skesm, which may be somebody else's there."""
    needed = PROJECT["optional-dependencies"].get(extra, [])
    return "pip install " + " ".join(f"'{requirement}'" for requirement in sorted(needed))


def test_nobody_is_told_to_install_skesm_from_a_registry() -> None:
    files = [*MODULES, *ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/**/*")]
    for path in files:
        if path.is_file():
            assert not re.search(r"""pip3? install (-\S+ )*['"]?skesm""", path.read_text(encoding="utf-8")), path


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
    if floor_of(name_of(path)) != "cli":
        assert not [call.lineno for call in calls_in(path) if ast.unparse(call.func) == "print"]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_pickle_is_loaded(path: Path) -> None:
    names = all_imports(path) - {"pickle.PicklingError"}  # what joblib raises for an object that cannot be hashed
    assert not {name.partition(".")[0] for name in names} & {"pickle", "cloudpickle", "dill", "shelve"}
    for call in calls_in(path):
        loads = {"joblib.load", "pandas.read_pickle", "pd.read_pickle"}
        if name_of(path) != READS_PICKLES:
            loads.add("torch.load")
        assert ast.unparse(call.func) not in loads
        assert not [k for k in call.keywords if k.arg == "allow_pickle" and ast.unparse(k.value) != "False"]


def test_torch_loads_weights_only_and_only_if_it_is_new_enough() -> None:
    """Before 2.6, ``weights_only=True`` could be led to run code (CVE-2025-32434)."""
    from skesm.esm2.conversion import pickled

    assert pickled.SAFE_SINCE == (2, 6)
    (path,) = (path for path in MODULES if name_of(path) == READS_PICKLES)
    loads = [call for call in calls_in(path) if ast.unparse(call.func).endswith("torch.load")]
    assert len(loads) == 1
    assert [ast.unparse(k.value) for k in loads[0].keywords if k.arg == "weights_only"] == ["True"]
    (reader,) = (n for n in ast.walk(tree_of(path)) if isinstance(n, ast.FunctionDef) and loads[0] in ast.walk(n))
    first = next(node for node in reader.body if not isinstance(node, ast.Expr))  # after the docstring
    assert ast.unparse(first) == "torch = import_safe_torch()"


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
    if name_of(path) != "skesm.benchmark.fits.threads":  # it puts the filters back
        assert not [call for call in calls_in(path) if ast.unparse(call.func) == "warnings.filterwarnings"]


@pytest.mark.parametrize("folder", [PACKAGE / "esm2", *(PACKAGE / "esm2").glob("*_engine")], ids=lambda f: f.name)
def test_folders_of_the_model_are_small(folder: Path) -> None:
    files = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
    assert 0 < len(files) <= 12
    assert max(len(path.read_text(encoding="utf-8").splitlines()) for path in files) <= 400


def test_modules_are_short() -> None:
    lengths = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert {name: n for name, n in lengths.items() if n > MOST_LINES and name not in LARGE} == {}


def test_folders_are_small() -> None:
    files = Counter(path.parent.relative_to(ROOT).as_posix() for path in MODULES)
    assert {folder: n for folder, n in files.items() if n > MOST_FILES and folder not in LARGE} == {}


def test_the_design_page_shows_the_floors() -> None:
    script = importlib.util.spec_from_file_location("floors", ROOT / "docs" / "floors.py")
    assert script is not None
    assert script.loader is not None
    floors = importlib.util.module_from_spec(script)
    script.loader.exec_module(floors)
    assert [name.rstrip("/").removesuffix(".py") for name, _ in floors.floors()] == [
        name for name in FLOORS if (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file()
    ]
    drawn = floors.draw(floors.floors())
    assert floors.PICTURE.read_text(encoding="utf-8") == drawn, "run python docs/floors.py"
    page = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    listed = re.findall(r"^  (\w+)(?:/|\.py)", page.split("```")[1], re.MULTILINE)
    hidden = {"__init__", "__main__"}
    assert [name for name in listed if name not in hidden] == [
        name.rstrip("/").removesuffix(".py") for name, _ in floors.floors() if name.removesuffix(".py") not in hidden
    ]


def test_no_page_installs_a_package_of_this_name_from_a_registry() -> None:
    """It would be somebody else's: skesm is installed from a copy of its repository."""
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").rglob("*.py"), *MODULES]
    found = [
        f"{page.relative_to(ROOT)}:{number}"
        for page in pages
        if page.name != "_optional.py"  # where skesm is installed, pip adds the extra's packages only
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(r"pip install [\"']?skesm", line)
    ]
    assert found == []


def test_any_is_rare() -> None:
    """`Any` turns the type checker off: a value is an `object`, has a type of its own, or a name in `skesm._typing`."""
    uses = Counter(
        name_of(path)
        for path in MODULES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Name) and node.id == "Any"
    )
    assert uses.total() <= MOST_ANY, uses.most_common(5)


def test_types_are_shipped() -> None:
    assert (PACKAGE / "py.typed").read_bytes() == b""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["skesm"]


def test_public_names_are_there() -> None:
    import skesm

    assert sorted(skesm.__all__) == [
        "AminoAcidComposition",
        "ESM2AttentionSummarizer",
        "ESM2ContactSummarizer",
        "ESM2Embedder",
        "ESM2LogitSummarizer",
        "ESM2ResidueEmbedder",
        "ESM2VariantScorer",
        "OneHotSequence",
        "PositionEncoder",
        "SubstitutionEncoder",
        "__version__",
        "apply_mutations",
        "compute_outputs",
        "variant_pipeline",
    ]
    assert all(hasattr(skesm, name) for name in skesm.__all__)
