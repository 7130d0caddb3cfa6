"""The loaders: what they return, and every way in which fetching can fail."""

from __future__ import annotations

import csv
import hashlib
import io
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from file_server import send, serving
from sklearn.model_selection import GroupKFold

from skesm._optional import import_optional
from skesm.datasets import (
    fetch_flip_gb1,
    fetch_fluorescence,
    fetch_proteingym,
    fetch_proteingym_table,
    fetch_stability,
    load_gb1_stability,
    load_gfp_fluorescence,
    load_variants,
)
from skesm.datasets._download import get_data_home
from skesm.datasets._sources import FILES
from skesm.exceptions import DatasetError, InputFileError, LearntDigestWarning, MissingDependencyError
from skesm.io._columns import ANY_TARGET

ROOT = Path(__file__).resolve().parents[1]
AMINO_ACIDS = set("ACDEFGHIKLMNPQRSTVWY")


# --- GB1 -------------------------------------------------------------------------------------------------


def test_gb1_rows_are_the_wild_type_with_their_mutation() -> None:
    gb1 = load_gb1_stability()
    assert gb1.data.shape == gb1.target.shape == gb1.mutations.shape == gb1.positions.shape == (813,)
    assert gb1.data.dtype == gb1.mutations.dtype == object
    assert gb1.target.dtype == np.float64
    assert gb1.positions.dtype == np.int64
    assert len(gb1.wild_type) == 55
    for sequence, mutation, position in zip(gb1.data, gb1.mutations, gb1.positions, strict=True):
        old, new, index = mutation[0], mutation[-1], position - 2
        assert type(sequence) is str
        assert int(mutation[1:-1]) == position
        assert gb1.wild_type[index] == old != new
        assert sequence == gb1.wild_type[:index] + new + gb1.wild_type[index + 1 :]
    assert set("".join(gb1.data)) <= AMINO_ACIDS
    assert len(set(gb1.data)) == len(set(gb1.mutations)) == 813


def test_gb1_values_are_those_of_the_source() -> None:
    gb1 = load_gb1_stability()
    by_mutation = dict(zip(gb1.mutations, gb1.target, strict=True))
    # Read off the source table; the last three are the rows whose source name holds more than a mutation.
    expected = {"T2A": 0.4704, "K4V": 0.2696, "E27F": -1.915, "N37P": 3.694}
    expected |= {"T2Q": -0.3391, "L7I": -0.9735, "V39I": -0.9096}
    assert {name: by_mutation[name] for name in expected} == expected
    assert np.isfinite(gb1.target).all()
    # An order-free digest of the whole table: any changed, lost or doubled row shows.
    rows = sorted(f"{s} {y!r}" for s, y in zip(gb1.data, gb1.target.tolist(), strict=True))
    digest = hashlib.sha256("\n".join(rows).encode()).hexdigest()
    assert digest == "c9eb05cc020738370680dba2d0ff9d724f8e2805a58df0f5dffe138ff0347d8d"


def test_gb1_sign_positive_destabilises() -> None:
    """Known physics: proline destabilises, and so does any change of the core; the surface tolerates much."""
    gb1 = load_gb1_stability()
    new = np.array([mutation[-1] for mutation in gb1.mutations])
    core = np.isin(gb1.positions, [3, 5, 7, 20, 26, 30, 34, 39, 52, 54])  # buried in the structure 1PGA
    for destabilising in (new == "P", core):
        assert np.median(gb1.target[destabilising]) > 1.0
        assert abs(np.median(gb1.target[~destabilising])) < 0.25


def test_gb1_positions_group_folds() -> None:
    gb1 = load_gb1_stability()
    folds = GroupKFold(n_splits=5).split(gb1.data, gb1.target, groups=gb1.positions)
    for train, test in folds:
        assert not set(gb1.positions[train]) & set(gb1.positions[test])
    assert sorted(set(gb1.positions)) == [p for p in range(2, 57) if p != 43]
    assert (np.diff(gb1.positions) >= 0).all()


def test_gb1_bunch() -> None:
    gb1 = load_gb1_stability()
    assert gb1.frame is None
    assert gb1.feature_names == ["sequence"]
    assert gb1.target_names == ["ddg"]
    assert gb1.filename == "gb1_stability.csv"
    assert import_optional(gb1.data_module, extra="demo").__name__ == "skesm.datasets.data"
    for needed in ("kcal/mol", "10.1073/pnas.1903888116", "mavenn", "MIT", "less stable", "813"):
        assert needed in gb1.DESCR
    assert pickle.loads(pickle.dumps(gb1)).wild_type == gb1.wild_type


def test_gb1_calls_do_not_share_arrays() -> None:
    first = load_gb1_stability()
    first.target[:] = 0
    assert load_gb1_stability().target.any()


def test_gb1_return_X_y() -> None:
    X, y = load_gb1_stability(return_X_y=True)
    gb1 = load_gb1_stability()
    assert X.tolist() == gb1.data.tolist()
    np.testing.assert_array_equal(y, gb1.target)


def test_gb1_as_frame() -> None:
    pd = pytest.importorskip("pandas", reason="frames need pandas")
    gb1 = load_gb1_stability(as_frame=True)
    arrays = load_gb1_stability()
    assert list(gb1.data.columns) == gb1.feature_names
    assert isinstance(gb1.target, pd.Series)
    assert gb1.target.name == "ddg"
    assert gb1.target.dtype == np.float64
    assert list(gb1.frame.columns) == ["sequence", "ddg"]
    assert gb1.data["sequence"].tolist() == gb1.frame["sequence"].tolist() == arrays.data.tolist()
    np.testing.assert_array_equal(gb1.target, arrays.target)
    X, y = load_gb1_stability(as_frame=True, return_X_y=True)
    pd.testing.assert_frame_equal(X, gb1.data)
    pd.testing.assert_series_equal(y, gb1.target)


def test_arguments_are_keyword_only() -> None:
    with pytest.raises(TypeError):
        load_gb1_stability(True)  # type: ignore[misc]
    with pytest.raises(TypeError):
        fetch_fluorescence("train")  # type: ignore[misc]


# --- optional dependencies -------------------------------------------------------------------------------

WITHOUT_PANDAS = """
import sys
sys.modules["pandas"] = None  # what Python does for a module that must not be imported
from skesm.datasets import load_gb1_stability
from skesm.exceptions import MissingDependencyError
assert load_gb1_stability().data.shape == (813,)
try:
    load_gb1_stability(as_frame=True)
except MissingDependencyError as error:
    assert isinstance(error, ImportError) and error.name == "pandas"
    assert "pip install 'matplotlib" in str(error), error
else:
    raise SystemExit("no error without pandas")
"""

WITHOUT_EXTRAS = """
import sys
import sklearn.utils  # imports pandas of its own accord where it is installed
already = set(sys.modules)
import skesm.datasets
skesm.datasets.load_gb1_stability()
brought = {"pandas", "requests", "torch", "xgboost"} & (set(sys.modules) - already)
assert not brought, brought
"""


@pytest.mark.parametrize("script", [WITHOUT_PANDAS, WITHOUT_EXTRAS], ids=["pandas hidden", "lazy imports"])
def test_in_a_fresh_process(script: str) -> None:
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT, timeout=60)


def test_import_optional_leaves_broken_packages_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that is there but lacks a part is not reported as one to install."""
    (tmp_path / "skesm_test_broken.py").write_text("import skesm_test_absent\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError) as caught:
        import_optional("skesm_test_broken", extra="demo")
    assert not isinstance(caught.value, MissingDependencyError)
    with pytest.raises(MissingDependencyError, match=r"skesm_test_absent is not installed: pip install 'torch>="):
        import_optional("skesm_test_absent.part", extra="torch")


# --- GFP, bundled ----------------------------------------------------------------------------------------


def test_gfp_bunch() -> None:
    gfp = load_gfp_fluorescence()
    assert gfp.data.shape == gfp.target.shape == (300,)
    assert gfp.data.dtype == object
    assert gfp.target.dtype == np.float64
    assert gfp.frame is None
    assert (gfp.feature_names, gfp.target_names) == (["sequence"], ["log_fluorescence"])
    assert gfp.filename == "gfp_fluorescence.csv"
    assert set("".join(gfp.data)) <= AMINO_ACIDS
    assert len(set(gfp.data)) == 300
    for needed in ("Sarkisyan", "10.1038/nature17995", "1906.08230", "log10", "CC BY 4.0", "default_rng(0)"):
        assert needed in gfp.DESCR


def test_gfp_rows_are_variants_of_the_wild_type() -> None:
    gfp = load_gfp_fluorescence()
    lengths = np.char.str_len(gfp.data.astype(str))
    assert {n: int((lengths == n).sum()) for n in set(lengths.tolist())} == {236: 8, 237: 292}
    distances = [sum(a != b for a, b in zip(s, gfp.wild_type, strict=True)) for s in gfp.data[lengths == 237]]
    assert (min(distances), max(distances)) == (1, 3)
    assert (gfp.target.min(), gfp.target.max()) == (1.2963716983795162, 3.892076969146728)
    rows = sorted(f"{s} {y!r}" for s, y in zip(gfp.data, gfp.target.tolist(), strict=True))
    digest = hashlib.sha256("\n".join(rows).encode()).hexdigest()
    assert digest == "6e56b1c12129787eda533d926b55cfeac9ee54a8633d430e79ee7bc1a1f5ecae"


def test_gfp_frame_and_tuple() -> None:
    pytest.importorskip("pandas", reason="frames need pandas")
    gfp = load_gfp_fluorescence(as_frame=True)
    assert list(gfp.frame.columns) == ["sequence", "log_fluorescence"]
    X, y = load_gfp_fluorescence(return_X_y=True)
    assert gfp.data["sequence"].tolist() == X.tolist()
    np.testing.assert_array_equal(gfp.target, y)


# --- published sets, from a folder -----------------------------------------------------------------------------------

Publish = Callable[[str, bytes], None]


@pytest.fixture
def publish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Publish:
    """Put other content in the place of a published file, which is elsewhere."""

    def put(name: str, content: bytes, url: str = "http://127.0.0.1:9/") -> None:
        digest = hashlib.sha256(content).hexdigest()
        monkeypatch.setitem(FILES, name, replace(FILES[name], url=url + name, size=len(content), sha256=digest))
        (tmp_path / name).write_bytes(content)

    return put


def table(rows: list[dict[str, Any]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def archive(folder: str, **files: bytes) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        for name, data in files.items():
            file.writestr(f"{folder}/{name}.csv", data)
            file.writestr(f"__MACOSX/{folder}/{name}.csv", b"")
    return content.getvalue()


@pytest.fixture
def validation_folder(tmp_path: Path, publish: Publish) -> Path:
    """A folder in which the bundled rows, in the format of TAPE's files, stand in for the published split."""
    sample = load_gfp_fluorescence()
    rows = [f"{sequence},{value!r}\n" for sequence, value in zip(sample.data, sample.target.tolist(), strict=True)]
    publish("fluorescence.valid.csv", "".join(["seq,label\n", *rows]).encode())
    return tmp_path


def test_fluorescence_from_a_folder(validation_folder: Path) -> None:
    gfp = fetch_fluorescence(subset="valid", data_home=validation_folder)
    assert gfp.data.shape == gfp.target.shape == gfp.split.shape == (300,)
    assert gfp.data.dtype == object
    assert gfp.target.dtype == np.float64
    assert set(gfp.split) == {"valid"}
    assert gfp.filenames == [str(validation_folder / "fluorescence.valid.csv")]
    assert gfp.target_names == ["log_fluorescence"]
    sample = load_gfp_fluorescence()
    assert gfp.data.tolist() == sample.data.tolist()
    np.testing.assert_array_equal(gfp.target, sample.target)
    assert gfp.wild_type == sample.wild_type
    for needed in ("Sarkisyan", "10.1038/nature17995", "1906.08230", "log10"):
        assert needed in gfp.DESCR


def test_fluorescence_frame_and_tuple(validation_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pandas", reason="frames need pandas")
    monkeypatch.setenv("SKESM_DATA", str(validation_folder))
    gfp = fetch_fluorescence(subset="valid", as_frame=True, download_if_missing=False)
    assert list(gfp.frame.columns) == ["sequence", "log_fluorescence"]
    X, y = fetch_fluorescence(subset="valid", return_X_y=True, download_if_missing=False)
    assert gfp.data["sequence"].tolist() == X.tolist()
    np.testing.assert_array_equal(gfp.target, y)


@pytest.mark.network
def test_the_published_validation_split(tmp_path: Path) -> None:
    gfp = fetch_fluorescence(subset="valid", data_home=tmp_path)
    assert gfp.target[0] == 3.713897705078125
    assert gfp.target[-1] == 3.3246629238128664
    lengths = np.char.str_len(gfp.data.astype(str))
    assert {n: int((lengths == n).sum()) for n in set(lengths.tolist())} == {235: 1, 236: 126, 237: 5235}
    distances = [sum(a != b for a, b in zip(s, gfp.wild_type, strict=True)) for s in gfp.data[lengths == 237]]
    assert (min(distances), max(distances)) == (1, 3)
    chosen = np.sort(np.random.default_rng(0).choice(5362, 300, replace=False))
    sample = load_gfp_fluorescence()
    assert gfp.data[chosen].tolist() == sample.data.tolist()
    np.testing.assert_array_equal(gfp.target[chosen], sample.target)


@pytest.mark.parametrize(
    "arguments", [{"subset": "validation"}, {"subset": None}, {"n_retries": -1}, {"delay": -0.5}], ids=repr
)
def test_fluorescence_bad_arguments(arguments: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must"):
        fetch_fluorescence(data_home=tmp_path, download_if_missing=False, **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("subset", ["train", "valid", "test", "all"])
def test_missing_file_says_how_to_fetch_it(subset: str, tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    with pytest.raises(DatasetError) as caught:
        fetch_fluorescence(subset=subset, data_home=folder, download_if_missing=False)  # type: ignore[arg-type]
    message = str(caught.value)
    name = f"fluorescence.{'train' if subset == 'all' else subset}.csv"
    assert f"{name} is not in {folder}" in message
    assert f"curl --fail --location --create-dirs --output '{folder / name}' https://" in message
    assert str(FILES[name].sha256) in message
    assert isinstance(caught.value, OSError)
    assert not folder.exists()


def test_damaged_local_file_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "fluorescence.valid.csv"
    path.write_text("seq,label\nMKT,1.0\n")
    with pytest.raises(DatasetError, match=r"is not the published file .* it has 18 bytes") as caught:
        fetch_fluorescence(subset="valid", data_home=tmp_path)
    assert "MKT" not in str(caught.value)
    assert path.read_text() == "seq,label\nMKT,1.0\n"


def test_unreadable_local_file(tmp_path: Path) -> None:
    (tmp_path / "fluorescence.valid.csv").mkdir()
    with pytest.raises(DatasetError, match="cannot be read"):
        fetch_fluorescence(subset="valid", data_home=tmp_path)


def test_data_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SKESM_DATA", raising=False)
    assert get_data_home() == tmp_path / "skesm_data"
    assert get_data_home("~/x") == tmp_path / "x"
    monkeypatch.setenv("SKESM_DATA", str(tmp_path / "y"))
    assert get_data_home() == tmp_path / "y"
    assert get_data_home(tmp_path / "z") == tmp_path / "z"
    assert not any(tmp_path.iterdir())


def test_fluorescence_downloads_all_splits(tmp_path: Path, publish: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole way: three files of other content stand in for the published ones, which are elsewhere."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    files = {
        f"fluorescence.{name}.csv": f"seq,label\n{residue}KT,{value}\n{residue}KV,0.5\n".encode()
        for name, residue, value in [("train", "M", 1.5), ("valid", "A", 2.5), ("test", "G", 3.5)]
    }
    home = tmp_path / "home"
    with serving() as server:
        for name, content in files.items():
            publish(name, content, f"{server.url}/")
        server.answers = [send(content) for content in files.values()]
        gfp = fetch_fluorescence(subset="all", data_home=home, n_retries=0)
        assert server.paths == [f"/{name}" for name in files]
    assert gfp.data.tolist() == ["MKT", "MKV", "AKT", "AKV", "GKT", "GKV"]
    assert gfp.target.tolist() == [1.5, 0.5, 2.5, 0.5, 3.5, 0.5]
    assert gfp.split.tolist() == ["train"] * 2 + ["valid"] * 2 + ["test"] * 2
    assert gfp.sha256 == {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    assert (gfp.licence, "10.1038/nature17995" in gfp.citation) == ("CC BY 4.0", True)
    again = fetch_fluorescence(subset="test", data_home=home, download_if_missing=False)
    assert again.data.tolist() == ["GKT", "GKV"]


def test_stability(tmp_path: Path, publish: Publish) -> None:
    publish("stability.valid.csv", b"seq,label\nGSSTTRYRF,0.5\nGSS,-0.25\n")
    found = fetch_stability(subset="valid", data_home=tmp_path)
    assert found.target.tolist() == [0.5, -0.25]
    assert found.target_names == ["stability_score"]
    for needed in ("Rocklin", "10.1126/science.aan0693", "1906.08230", "yeast"):
        assert needed in found.DESCR
    publish("stability.valid.csv", b"sequence,label\nGSS,0.5\n")
    with pytest.raises(DatasetError, match=r"stability.valid.csv has no column 'seq'. It has sequence, label"):
        fetch_stability(subset="valid", data_home=tmp_path)


def test_flip_gb1(tmp_path: Path, publish: Publish) -> None:
    rows = [
        {"sequence": "MQYKV", "target": 1.0, "set": "train", "validation": ""},
        {"sequence": "MQYKA", "target": 0.5, "set": "train", "validation": "True"},
        {"sequence": "MQAKA", "target": 2.0, "set": "test", "validation": ""},
    ]
    publish("flip_gb1_splits.zip", archive("splits", one_vs_rest=table(rows)))
    gb1 = fetch_flip_gb1(split="one_vs_rest", data_home=tmp_path)
    assert gb1.split.tolist() == ["train", "valid", "test"]
    assert gb1.mutations.tolist() == ["WT", "V5A", "Y3A:V5A"]
    assert (gb1.wild_type, gb1.target.tolist()) == ("MQYKV", [1.0, 0.5, 2.0])
    assert set(gb1.sha256) == {"flip_gb1_splits.zip", "one_vs_rest.csv"}
    assert "eLife" in gb1.citation
    with pytest.raises(DatasetError, match=r"has no sampled\.csv"):
        fetch_flip_gb1(split="sampled", data_home=tmp_path)
    with pytest.raises(ValueError, match="split must be one of"):
        fetch_flip_gb1(split="random", data_home=tmp_path)  # type: ignore[arg-type]


ASSAY = {"DMS_id": "BLAT_TOY_2000", "DMS_filename": "BLAT_TOY_2000.csv", "target_seq": "MKTAY", "seq_len": 5}
VARIANTS = [
    {"mutant": "K2R", "mutated_sequence": "MRTAY", "DMS_score": 0.5, "DMS_score_bin": 1},
    {"mutant": "K2R:A4G", "mutated_sequence": "MRTGY", "DMS_score": -1.5, "DMS_score_bin": 0},
]


def test_proteingym(tmp_path: Path, publish: Publish) -> None:
    publish("DMS_substitutions.csv", table([ASSAY]))
    publish("DMS_ProteinGym_substitutions.zip", archive("DMS_ProteinGym_substitutions", BLAT_TOY_2000=table(VARIANTS)))
    found = fetch_proteingym("BLAT_TOY_2000", data_home=tmp_path)
    assert found.data.tolist() == ["MRTAY", "MRTGY"]
    assert found.mutations.tolist() == ["K2R", "K2R:A4G"]
    assert (found.target.tolist(), found.fit.tolist(), found.folds) == ([0.5, -1.5], [True, False], {})
    assert (found.wild_type, found.assay["seq_len"]) == ("MKTAY", "5")
    assert set(found.sha256) == {"DMS_substitutions.csv", "DMS_ProteinGym_substitutions.zip", "BLAT_TOY_2000.csv"}
    assert fetch_proteingym_table(data_home=tmp_path)["BLAT_TOY_2000"]["target_seq"] == "MKTAY"
    assert list(fetch_proteingym_table(data_home=tmp_path, as_frame=True).index) == ["BLAT_TOY_2000"]
    with pytest.raises(ValueError, match=r"no substitution assay 'BLAT_ECOLX'. It has BLAT_TOY_2000"):
        fetch_proteingym("BLAT_ECOLX", data_home=tmp_path)
    with pytest.raises(ValueError, match="folds must be"):
        fetch_proteingym("BLAT_TOY_2000", folds="all", data_home=tmp_path)  # type: ignore[arg-type]


def test_proteingym_with_folds(tmp_path: Path, publish: Publish) -> None:
    publish("DMS_substitutions.csv", table([ASSAY]))
    rows = [{**VARIANTS[0], "fold_random_5": 3, "fold_modulo_5": 1, "fold_contiguous_5": 0}]
    publish("cv_folds_singles_substitutions.zip", archive("singles", BLAT_TOY_2000=table(rows)))
    found = fetch_proteingym("BLAT_TOY_2000", folds="singles", data_home=tmp_path)
    assert {name: fold.tolist() for name, fold in found.folds.items()} == {
        "random_5": [3],
        "modulo_5": [1],
        "contiguous_5": [0],
    }


def test_proteingym_unpacked(tmp_path: Path, publish: Publish) -> None:
    """The folder that unzip leaves: digests of its files are learnt."""
    publish("DMS_substitutions.csv", table([ASSAY]))
    unpacked = tmp_path / "DMS_ProteinGym_substitutions"
    unpacked.mkdir()
    (unpacked / "BLAT_TOY_2000.csv").write_bytes(table(VARIANTS))
    with pytest.warns(LearntDigestWarning, match=r"BLAT_TOY_2000\.csv"):
        found = fetch_proteingym("BLAT_TOY_2000", data_home=tmp_path, download_if_missing=False)
    assert found.target.tolist() == [0.5, -1.5]
    (unpacked / "BLAT_TOY_2000.csv").write_bytes(table(VARIANTS[:1]))
    with pytest.raises(DatasetError, match="is not the file that was seen first"):
        fetch_proteingym("BLAT_TOY_2000", data_home=tmp_path)


def test_proteingym_rows_are_checked(tmp_path: Path, publish: Publish) -> None:
    publish("DMS_substitutions.csv", table([ASSAY]))
    rows = [VARIANTS[0], {**VARIANTS[0], "mutant": "K3R"}, {**VARIANTS[1], "mutated_sequence": "MRTAY"}]
    publish("DMS_ProteinGym_substitutions.zip", archive("x", BLAT_TOY_2000=table(rows)))
    expected = r"mutations of 2 of 3 rows do not make .*\n  row 1, position 3: .*\n  row 2: another sequence"
    with pytest.raises(DatasetError, match=expected) as caught:
        fetch_proteingym("BLAT_TOY_2000", data_home=tmp_path)
    assert "MRT" not in str(caught.value)


@pytest.mark.network
@pytest.mark.parametrize("name", FILES)
def test_the_published_files_are_where_they_were(name: str, tmp_path: Path) -> None:
    """Fetches each file. ProteinGym's archives have hundreds of megabytes."""
    from skesm.datasets._download import Downloads

    assert Downloads(tmp_path, verbose=True).fetch(FILES[name]).is_file()


# --- files of a user's own -------------------------------------------------------------------------------------------

COLUMNS = {"mutation_column": "mutant", "target_column": "activity"}
TEXT = "name,mutant,sequence,activity\na,K2R,MRTAY,0.5\nb,K2R:A4G,MRTGY,1.25\nc,WT,MKTAY,1\n"


def write(path: Path, text: str = TEXT) -> Path:
    """The same table in the format of the file's ending."""
    rows = list(csv.DictReader(text.splitlines()))
    if path.suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist([{**r, "activity": float(r["activity"])} for r in rows]), path)
    elif path.suffix == ".fasta":
        head = ">{name} mutant={mutant} activity={activity}\n{sequence}\n"
        path.write_text("".join(head.format(**row) for row in rows))
    else:
        path.write_text(text)
    return path


@pytest.mark.parametrize("ending", ["csv", "parquet", "fasta"])
@pytest.mark.parametrize("columns", [{}, {"sequence_column": "sequence"}], ids=["mutations", "both"])
def test_variants_of_every_format(tmp_path: Path, ending: str, columns: dict[str, Any]) -> None:
    path = write(tmp_path / f"plate.{ending}")
    found = load_variants(path, reference="MKTAY", **COLUMNS, **columns)
    assert found.data.tolist() == ["MRTAY", "MRTGY", "MKTAY"]
    assert found.target.tolist() == [0.5, 1.25, 1.0]
    assert found.mutations.tolist() == ["K2R", "K2R:A4G", "WT"]
    assert (found.target_names, found.wild_type) == (["activity"], "MKTAY")
    X, y = load_variants(path, reference="MKTAY", **COLUMNS, **columns, as_frame=True, return_X_y=True)
    assert (list(X.columns), y.name) == (["sequence"], "activity")


def test_variants_by_sequence_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "plate.csv")
    found = load_variants(path, sequence_column="sequence", id_column="name")
    assert (found.data.tolist(), found.ids) == (["MRTAY", "MRTGY", "MKTAY"], ["a", "b", "c"])
    assert (found.target, found.mutations, found.target_names) == (None, None, [])
    assert load_variants(path, sequence_column="sequence", reference="mktay").mutations.tolist()[1] == "K2R:A4G"
    assert load_variants(write(tmp_path / "plate.fasta")).data.tolist() == found.data.tolist()


def test_variants_that_cannot_be_used(tmp_path: Path) -> None:
    text = TEXT + "d,K3R,MRTAY,1\ne,K2R,MKTAY,1\nf,K2R,MRTAY,\ng,del2,MTAY,1\n"
    path = write(tmp_path / "plate.csv", text)
    options = {"reference": "MKTAY", "sequence_column": "sequence", **COLUMNS}
    with pytest.raises(InputFileError) as caught:
        load_variants(path, **options)
    message = str(caught.value)
    assert caught.value.lines == (5, 6, 7, 8)
    assert "line 5, position 3: the reference has another residue there" in message
    assert "line 6: the mutations do not make the sequence from the reference" in message
    assert "line 7: column 'activity' is empty" in message
    assert "invalid='drop'" in message
    assert "MRTAY" not in message
    found = load_variants(path, **options, invalid="drop")
    assert (found.lines, list(found.dropped)) == ([2, 3, 4], [5, 6, 7, 8])


def test_variants_name_what_is_missing(tmp_path: Path) -> None:
    path = write(tmp_path / "plate.csv")
    with pytest.raises(ValueError, match="mutation_column needs a reference"):
        load_variants(path, mutation_column="mutant")
    foreign = path.with_name("foreign.csv")
    foreign.write_text("protein name,ddg\nMKTAY,1\n")
    with pytest.raises(
        InputFileError, match=r"no column 'sequence' or 'mutant', .*='NAME'\. Its columns are 'protein name', "
    ):
        load_variants(foreign)
    with pytest.raises(InputFileError, match=r"'sequence' or 'mutant', .*sequence_column='NAME' or mutation_column='"):
        load_variants(foreign, reference="MKTAY")
    for other in (path, write(tmp_path / "plate.parquet")):
        with pytest.raises(InputFileError, match=r"has no column .seq.\. Its columns are .name., .mutant."):
            load_variants(other, sequence_column="seq")
    shifted = path.with_name("shifted.csv")
    shifted.write_text("mutant\nK3R\nA5G\n")
    with pytest.raises(InputFileError, match=r"offset=2 would fit all rows"):
        load_variants(shifted, reference="MKTAY", mutation_column="mutant")
    assert load_variants(shifted, reference="MKTAY", mutation_column="mutant", offset=2).data[0] == "MRTAY"


def test_well_known_columns_of_variants_are_found(tmp_path: Path) -> None:
    """Sequences first, since they need no numbering; mutations only with a reference."""
    path = write(tmp_path / "plate.csv")
    found = load_variants(path, reference="MKTAY")
    assert found.taken == {"sequence_column": "sequence"}
    path.write_text("Mutant,activity\nK2R,0.5\nA4G,1\n")
    for other in (path, write(path.with_suffix(".parquet"), path.read_text())):
        found = load_variants(other, reference="MKTAY")
        assert (found.taken, found.target) == ({"mutation_column": "Mutant"}, None)  # a target is not guessed
        assert found.data.tolist() == ["MRTAY", "MKTGY"]
    with pytest.raises(ValueError, match=r"mutations in the column 'Mutant'\. Give the .*: reference='SEQUENCE'"):
        load_variants(path)
    fasta = path.with_suffix(".fasta")
    fasta.write_text(">a mutant=K2R label=1\nMRTAY\n")
    assert load_variants(fasta, reference="MKTAY").data.tolist() == ["MRTAY"]


@pytest.mark.parametrize("ending", ["csv", "parquet", "fasta"])
def test_columns_that_only_look_right_are_not_read(tmp_path: Path, ending: str) -> None:
    """Names of proteins have letters of sequences, and many tables repeat the reference beside the mutations."""
    text = "protein,mutant,activity\nGFP,K2R,1\nGFP,A4G,2\n"
    path = tmp_path / f"plate.{ending}"
    if ending != "fasta":
        found = load_variants(write(path, text), reference="MKTAY", target_column="activity")
        assert found.taken["mutation_column"] == "mutant"
        assert found.data.tolist() == ["MRTAY", "MKTGY"]
    repeated = ">a mutation=K2R\nMKTAY\n>b mutation=A4G\nmktay\n"
    if ending != "fasta":
        repeated = "seq,mutation,activity\nMKTAY,K2R,1\nmktay,A4G,2\n"
    path = path.with_stem("repeated")
    if ending == "fasta":
        path.write_text(repeated)
    else:
        write(path, repeated)
    column = "sequence" if ending == "fasta" else "seq"
    with pytest.raises(InputFileError, match=f"has the reference in column '{column}'.* mutation_column='NAME'"):
        load_variants(path, reference="MKTAY")
    asked = load_variants(path, reference="MKTAY", sequence_column=column)  # replicates of the wild type
    assert asked.data.tolist() == ["MKTAY", "MKTAY"]


@pytest.mark.parametrize("text", ["seq,Label,fitness\nMRTAY,1,0.3\n", ">a Label=1 fitness=0.3\nMRTAY\n"])
def test_a_choice_of_measured_values_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "plate"
    path.write_text(text)
    with pytest.raises(InputFileError, match=r"may hold measured values: 'Label', 'fitness'\. Name one: target_column"):
        load_variants(path, target_column=ANY_TARGET)
    assert load_variants(path, target_column="fitness").target.tolist() == [0.3]
