"""Runs that are interrupted, killed or shared out, and the recipes for clusters."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from filelock import FileLock

from skesm import ESM2Embedder
from skesm.backends import LocalBackend, ParallelBackend
from skesm.cli import main
from skesm.exceptions import BackendError, InputFileError
from skesm.io import Shard, transform_file, transform_folder

ROOT = Path(__file__).parents[1]
SEQUENCES = ["MKTAYIAKQRGSH", "MKTAYGG", "GSHMSLFDFF", "MKTAYIAKQRGSH", "AW"]
IDS = ["P1", "P2", "P3", "P4", "P5"]


def write_fasta(path: Path, ids: list[str], sequences: list[str]) -> Path:
    path.write_text("".join(f">{name}\n{sequence}\n" for name, sequence in zip(ids, sequences, strict=True)))
    return path


@pytest.fixture
def fasta(tmp_path: Path) -> Path:
    return write_fasta(tmp_path / "proteins.fasta", IDS, SEQUENCES)


@pytest.fixture
def embedder(tiny_checkpoint: Path) -> ESM2Embedder:
    return ESM2Embedder(tiny_checkpoint)


# interrupted runs -----------------------------------------------------------------------------------------------------


class Failing(LocalBackend):
    """Fails for good at its third use."""

    uses = 0

    def run(self, *arguments: Any, **options: Any) -> Any:
        type(self).uses += 1
        if type(self).uses == 3:
            raise BackendError("down")
        return super().run(*arguments, **options)


def many(path: Path, n: int = 500) -> Path:
    """Several chunks of sequences."""
    rng = np.random.default_rng(0)
    sequences = ["".join(rng.choice(list("LAGVSERTIDPKQNFYMHWC"), 200)) for _ in range(n)]
    return write_fasta(path, [f"s{i}" for i in range(n)], sequences)


def test_an_interrupted_run_goes_on(tmp_path: Path, tiny_checkpoint: Path) -> None:
    path, output = many(tmp_path / "many.fasta"), tmp_path / "out.npz"
    whole = transform_file(ESM2Embedder(tiny_checkpoint), path, tmp_path / "whole.npz")
    assert whole.computed == 500
    with pytest.raises(BackendError, match="down"):
        transform_file(ESM2Embedder(tiny_checkpoint, backend=Failing()), path, output)
    assert not output.exists()
    other = transform_file(ESM2Embedder(tiny_checkpoint, layers=1), path, tmp_path / "out.npz")
    assert other.resumed == 0  # the parts are those of other features
    Failing.uses = 0
    with pytest.raises(BackendError, match="down"):
        transform_file(ESM2Embedder(tiny_checkpoint, backend=Failing()), path, output)
    report = transform_file(ESM2Embedder(tiny_checkpoint), path, output)
    assert (report.rows, report.resumed, report.computed) == (500, 326, 174)
    assert output.read_bytes() == (tmp_path / "whole.npz").read_bytes()
    assert transform_file(ESM2Embedder(tiny_checkpoint), path, output).unchanged


def test_a_killed_process_leaves_no_output_and_the_next_writes_the_same_bytes(
    tmp_path: Path, tiny_checkpoint: Path
) -> None:
    path = many(tmp_path / "many.fasta", 400)
    transform_file(ESM2Embedder(tiny_checkpoint), path, tmp_path / "whole.parquet")
    output = tmp_path / "out.parquet"
    command = [sys.executable, "-m", "skesm", "embed", str(path), str(output), "--model", str(tiny_checkpoint)]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL)
    parts = tmp_path / "out.parquet.parts"
    while not list(parts.glob("*/*.npz")) and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=60)
    transform_file(ESM2Embedder(tiny_checkpoint), path, output)
    assert output.read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert not [name for name in os.listdir(tmp_path) if name.endswith((".parts", ".tmp"))]


def test_memory_answers_other_files_in_other_orders(tmp_path: Path, fasta: Path, tiny_checkpoint: Path) -> None:
    embedder = ESM2Embedder(tiny_checkpoint, memory=tmp_path / "memory")
    transform_file(embedder, fasta, tmp_path / "one.csv")
    other = write_fasta(tmp_path / "other.fasta", ["x", "y"], [SEQUENCES[2], "MKV"])
    report = transform_file(embedder, other, tmp_path / "two.csv")
    assert (report.hits, report.computed) == (1, 1)


def test_two_processes_do_not_write_one_output(tmp_path: Path, fasta: Path, embedder: ESM2Embedder) -> None:
    (tmp_path / "out.csv.parts").mkdir()
    with (
        FileLock(tmp_path / "out.csv.parts" / "lock"),
        pytest.raises(InputFileError, match="another process is writing"),
    ):
        transform_file(embedder, fasta, tmp_path / "out.csv")


# shards ---------------------------------------------------------------------------------------------------------------


def code_of(page: str, language: str, heading: str) -> str:
    """The first block of code in a language below a heading of a page of the documentation."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2]
    return text.partition(f"```{language}\n")[2].partition("```")[0]


def test_the_script_for_slurm(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """Three jobs at the same time, each with a store of its own; then one store of all."""
    path, folder, stores = many(tmp_path / "many.fasta", 50), tmp_path / "parts", tmp_path / "stores"
    script = tmp_path / "embed.sh"
    script.write_text(code_of("clusters.md", "sh elsewhere", "An array of jobs"))
    program = tmp_path / "bin" / "skesm"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m skesm "$@"\n')
    program.chmod(0o755)
    settings = {
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "TMPDIR": str(tmp_path),
        "INPUT": str(path),
        "OUTPUT": str(folder),
        "MODEL": str(tiny_checkpoint),
        "STORES": str(stores),
        "SLURM_ARRAY_JOB_ID": "7",
        "SLURM_ARRAY_TASK_COUNT": "3",
        "SLURM_CPUS_PER_TASK": "1",
    }
    jobs = [
        subprocess.Popen(["bash", str(script)], env={**os.environ, **settings, "SLURM_ARRAY_TASK_ID": str(i)})
        for i in (1, 2, 3)
    ]
    assert [job.wait(timeout=120) for job in jobs] == [0, 0, 0]
    manifest = json.loads((folder / "_manifest.json").read_text())
    assert manifest["complete"]
    assert manifest["rows"] == 50
    files = [folder / part["file"] for part in manifest["parts"]]
    assert [file.name for file in files] == [f"part-0000{i}-of-00003.parquet" for i in (1, 2, 3)]
    assert pd.read_parquet(folder, columns=["id", "features"])["id"].tolist() == [f"s{i}" for i in range(50)]
    assert pl.read_parquet(folder / "*.parquet").height == 50
    nodes = [str(stores / str(i)) for i in (1, 2, 3)]
    assert main(["cache", "merge", str(stores / "all"), *nodes]) == 0
    whole = transform_file(ESM2Embedder(tiny_checkpoint, memory=stores / "all"), path, tmp_path / "whole.parquet")
    assert (whole.hits, whole.computed) == (50, 0)


def test_the_recipe_for_dask_dataframes(tiny_checkpoint: Path) -> None:
    import dask

    table = pd.DataFrame({"id": IDS, "sequence": SEQUENCES})
    names: dict[str, Any] = {"table": table, "model": tiny_checkpoint}
    with dask.config.set(scheduler="synchronous"):
        exec(code_of("clusters.md", "python", "A Dask cluster"), names)
    result = names["result"]
    np.testing.assert_array_equal(result.to_numpy(), ESM2Embedder(tiny_checkpoint).transform(SEQUENCES))
    assert result.columns[0] == "mean_l2_0"


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore")  # Ray warns of its own parts, and of the size of this machine
def test_the_recipe_for_ray(tiny_checkpoint: Path) -> None:
    import ray
    from joblib import parallel_config
    from ray.util.joblib import register_ray

    table = pd.DataFrame({"id": IDS, "sequence": SEQUENCES})
    ray.init(num_cpus=2, include_dashboard=False, logging_level="error", object_store_memory=100 << 20)
    try:
        names: dict[str, Any] = {"table": table, "model": str(tiny_checkpoint), "__name__": "__main__"}
        exec(code_of("clusters.md", "python sketch", "Ray Data"), names)
        found = dict(zip(names["result"]["id"], names["result"]["features"], strict=True))
        expected = ESM2Embedder(tiny_checkpoint).transform(SEQUENCES)
        np.testing.assert_array_equal(np.stack([found[name] for name in IDS]), expected)
        register_ray()
        with (
            parallel_config(backend="ray", n_jobs=2),
            pytest.raises(ValueError, match="RayBackend is the active backend"),
        ):
            ESM2Embedder(tiny_checkpoint, backend=ParallelBackend()).transform(SEQUENCES)
    finally:
        ray.shutdown()


def test_several_files_into_a_folder(tmp_path: Path, fasta: Path, embedder: ESM2Embedder) -> None:
    more = write_fasta(tmp_path / "more.fasta", ["Q1"], ["MKV"])
    reports = transform_folder(embedder, [fasta, more], tmp_path / "parts")
    assert [report.rows for report in reports] == [5, 1]
    assert json.loads((tmp_path / "parts" / "_manifest.json").read_text())["rows"] == 6


def test_a_shard_of_bad_rows(tmp_path: Path, embedder: ESM2Embedder) -> None:
    path = tmp_path / "bad.txt"
    path.write_text("M-T\nMKT\nMKV\nM1\nMKL\nM2\n")
    found = [
        transform_folder(embedder, [path], tmp_path / "parts", shard=Shard(i, 2), invalid="drop")[0] for i in (1, 2)
    ]
    assert [(report.rows, report.missing) for report in found] == [(2, 1), (1, 2)]


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "a/b"])
def test_wrong_shards(text: str) -> None:
    with pytest.raises(ValueError, match="a shard is written i/n"):
        Shard.parse(text)
