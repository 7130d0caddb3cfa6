"""The record store beside `joblib.Memory`, under kills, and with a million records.

    python tests/perf/bench_store.py [--json results.json] [--only warm cold kills million share share-numpy]
                                     [--folder /on/the/disk]

`warm`: 100,000 rows of 1,280 float32 read back, per row, beside a `joblib.Memory` of one function call per sequence.
`cold`: claiming, storing and looking up, beside the compute time of the 8M model on the NumPy engine.
`kills`: 50 rounds of SIGKILL at a random moment, then a run to the end.
`share`: one and two processes, cold, that want the same 1,000 sequences of 237 residues, with a backend whose cost is a
sleep of 1/6000 s a residue: how well the work is shared, whatever else the machine does.
`share-numpy`: the same with the 8M model on the NumPy engine, one thread a process; needs two idle cores.
`million`: opening, 10,000 random look-ups and memory, with 1,000,000 records of 320 float32.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import joblib
import numpy as np
from common import random_checkpoint, random_sequences, write_results

from skesm.cache import RecordStore, sequence_digest, verify
from skesm.outputs.spec import Namespace, OutputSpec

NAMESPACE = Namespace("bench", "sha256:00", "fp32")
MEAN = OutputSpec("mean", 6)
BATCH = 64


def numbered_sequences(n: int | list[int], length: int = 200) -> list[str]:
    """Distinct sequences, quickly: a random body and the number in letters."""
    letters = np.array(list("ACDEFGHIKL"))
    body = random_sequences([length - 7])[0]
    return [
        body + "".join(letters[[int(digit) for digit in f"{i:07d}"]]) for i in (range(n) if isinstance(n, int) else n)
    ]


def fill(store: RecordStore, sequences: list[str], pool: np.ndarray, batch: int = BATCH) -> None:
    for start in range(0, len(sequences), batch):
        part = sequences[start : start + batch]
        store.put(part, [{MEAN: pool[i % len(pool)]} for i in range(start, start + len(part))])


def timed(function, *arguments):
    start = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - start, result


def warm(folder: Path, n: int = 100_000, width: int = 1280, n_joblib: int = 4000) -> dict[str, float]:
    sequences = numbered_sequences(n)
    pool = np.random.default_rng(0).standard_normal((512, width), dtype=np.float32)
    location = folder / "warm"
    with RecordStore(location, NAMESPACE) as store:
        write, _ = timed(fill, store, sequences, pool)
    files = [path for path in location.rglob("*") if path.is_file()]
    memory = joblib.Memory(folder / "joblib", verbose=0)
    cached = memory.cache(lambda sequence, i: pool[i % len(pool)])
    asked = list(zip(sequences[:n_joblib], range(n_joblib), strict=True))
    for sequence, i in asked:
        cached(sequence, i)
    ours, shuffled, theirs = [], [], []
    order = random.Random(0).sample(range(n), n)
    matrix = np.empty((n, width), np.float32)

    def read(rows):
        with RecordStore(location, NAMESPACE) as store:
            for start in range(0, n, 20_000):
                part = rows[start : start + 20_000]
                for i, record in zip(part, store.get([sequences[i] for i in part], [MEAN]), strict=True):
                    matrix[i] = record[MEAN]

    for _ in range(3):  # taking turns
        ours.append(timed(read, range(n))[0] / n)
        shuffled.append(timed(read, order)[0] / n)
        theirs.append(timed(lambda: [cached(*arguments) for arguments in asked])[0] / n_joblib)
    assert all((matrix[i] == pool[i % len(pool)]).all() for i in range(n))
    store_time, joblib_time = statistics.median(ours), statistics.median(theirs)
    return {
        "write_us_per_row": write / n * 1e6,
        "read_us_per_row": store_time * 1e6,
        "read_shuffled_us_per_row": statistics.median(shuffled) * 1e6,
        "joblib_us_per_row": joblib_time * 1e6,
        "times_joblib": joblib_time / store_time,
        "times_joblib_shuffled": joblib_time / statistics.median(shuffled),
        "files": len(files),
        "disk_over_raw": sum(path.stat().st_size for path in files) / (n * width * 4),
    }


def cold(folder: Path, n: int = 256) -> dict[str, float]:
    from skesm.backends.local import LocalBackend

    model = str(random_checkpoint(folder, "esm2_t6_8M_UR50D"))
    backend = LocalBackend(engine="numpy")
    namespace = backend.namespace(model)
    sequences = random_sequences([237] * n)
    list(backend.run(model, sequences[:8], [MEAN]))  # load the weights
    compute, overhead = [], []
    for turn in range(3):
        start = time.perf_counter()
        batches = list(backend.run(model, sequences, [MEAN]))
        compute.append(time.perf_counter() - start)
        start = time.perf_counter()
        with RecordStore(folder / f"cold{turn}", namespace) as store:
            store.get(sequences, [MEAN])
            with store.claim(sequences, [MEAN]):  # a portion, here of all that is stored in the block
                for batch in batches:
                    store.put([sequences[i] for i in batch.indices], batch.records)
        overhead.append(time.perf_counter() - start)
    return {
        "compute_ms_per_sequence": statistics.median(compute) / n * 1e3,
        "store_ms_per_sequence": statistics.median(overhead) / n * 1e3,
        "batches": len(batches),
        "overhead": statistics.median(overhead) / statistics.median(compute),
    }


def fake(sequence: str) -> np.ndarray:
    return np.random.default_rng(list(sequence_digest(sequence))).standard_normal(320, dtype=np.float32)


def drive(location: Path, log: Path, n: int, batch: int) -> None:
    sequences = numbered_sequences(n)
    with RecordStore(location, NAMESPACE) as store, open(log, "ab", buffering=0) as file:
        missing = [i for i, record in enumerate(store.get(sequences, [MEAN])) if record is None]
        while missing:
            with store.claim([sequences[i] for i in missing], [MEAN]) as mine:
                claimed = [missing[i] for i in mine]
                for start in range(0, len(claimed), batch):
                    part = claimed[start : start + batch]
                    file.write("".join(f"{i}\n" for i in part).encode())
                    store.put([sequences[i] for i in part], [{MEAN: fake(sequences[i])} for i in part])
            missing = sorted({*missing} - {*claimed})


def kills(folder: Path, rounds: int = 50, n: int = 4000, batch: int = 16) -> dict[str, float]:
    rng = random.Random(0)
    location, log = folder / "kills", folder / "log"
    worst = 0
    stopped = 0
    for _ in range(rounds):
        arguments = [sys.executable, __file__, "--drive", str(location), str(log), str(n), str(batch)]
        process = subprocess.Popen(arguments, stdout=subprocess.PIPE)
        process.stdout.readline()  # imports are done
        time.sleep(rng.uniform(0, 0.1))
        process.kill()
        stopped += process.wait() != 0
        process.stdout.close()
        computed = [int(line) for line in log.read_text().split()] if log.exists() else []
        with RecordStore(location, NAMESPACE) as store:
            stored = sum(record is not None for record in store.get(numbered_sequences(n), [MEAN]))
        worst = max(worst, len(set(computed)) - stored)  # begun, and to be done again
    before = len(computed)
    drive(location, log, n, batch)
    sequences = numbered_sequences(n)
    with RecordStore(location, NAMESPACE) as store:
        found = np.stack([record[MEAN] for record in store.get(sequences, [MEAN])])
    assert all(report.sound for report in verify(location))
    again = len(log.read_text().split()) - n
    return {
        "kills": stopped,
        "sequences": n,
        "done_before_the_last_run": before / n,
        "batch": batch,
        "most_lost_by_one_kill": worst,
        "computed_again_in_all": again,
        "bitwise_that_of_an_undisturbed_run": bool((found == np.stack([fake(s) for s in sequences])).all()),
    }


def million(folder: Path, n: int = 1_000_000, width: int = 320) -> dict[str, float]:
    location = folder / "million"
    pool = np.random.default_rng(0).standard_normal((512, width), dtype=np.float32)
    sequences = numbered_sequences(n)
    with RecordStore(location, NAMESPACE) as store:
        write, _ = timed(fill, store, sequences, pool, 1024)
    arguments = [sys.executable, __file__, "--look-up", str(location), str(n), str(width)]
    result = json.loads(subprocess.run(arguments, capture_output=True, check=True).stdout)
    size = sum(path.stat().st_size for path in location.rglob("*") if path.is_file())
    return {"write_us_per_row": write / n * 1e6, "disk_over_raw": size / (n * width * 4), **result}


def share_part(location: Path, model: Path, log: Path, residues_per_s: float) -> None:
    """One of the processes that want the same sequences; its backend sleeps if it is given a speed."""
    from skesm import ESM2Embedder
    from skesm.backends.base import Batch
    from skesm.backends.local import LocalBackend

    class Logged(LocalBackend):
        def run(self, model, sequences, outputs, *, n_jobs=None):
            if residues_per_s:
                batches = self.slept(sequences, outputs)
            else:
                batches = super().run(model, sequences, outputs, n_jobs=n_jobs)
            for batch in batches:
                with open(log, "ab", buffering=0) as file:
                    file.write("".join(f"{os.getpid()} {sequences[i]}\n" for i in batch.indices).encode())
                yield batch

        def slept(self, sequences, outputs):
            for start in range(0, len(sequences), 34):  # 8,192 tokens
                part = range(start, min(start + 34, len(sequences)))
                time.sleep(sum(len(sequences[i]) for i in part) / residues_per_s)
                yield Batch(list(part), [{output: np.ones(320, np.float32) for output in outputs} for _ in part])

    embedder = ESM2Embedder(str(model), backend=Logged(engine="numpy", num_threads=1), memory=location)
    sequences = numbered_sequences(1000, 237)
    print("ready", flush=True)
    sys.stdin.readline()
    start = time.perf_counter()
    embedder.transform(sequences)
    print(time.perf_counter() - start, flush=True)


def share(folder: Path, residues_per_s: float = 6000.0, turns: int = 2) -> dict[str, float]:
    model = random_checkpoint(folder, "esm2_t6_8M_UR50D")
    seconds: dict[int, list[float]] = {1: [], 2: []}
    passes = []
    for turn in range(turns):
        for n in (1, 2):  # in turn, so that a change of the machine's load meets both
            log = folder / f"log{turn}{n}"
            arguments = [folder / f"store{turn}{n}", model, log, residues_per_s]
            command = [sys.executable, __file__, "--share", *map(str, arguments)]
            processes = [
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(n)
            ]
            for process in processes:
                process.stdout.readline()
            for process in processes:
                process.stdin.write("go\n")
                process.stdin.flush()
            seconds[n].append(max(float(process.communicate()[0]) for process in processes))
            lines = log.read_text().split("\n")[:-1]
            passes.append(len(lines))
            assert len({line.split()[1] for line in lines}) == 1000
    one, two = statistics.median(seconds[1]), statistics.median(seconds[2])
    return {"one_s": one, "two_s": two, "times_one": one / two, "most_passes": max(passes)}


def share_numpy(folder: Path) -> dict[str, float]:
    return share(folder, residues_per_s=0.0)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def look_up(location: Path, n: int, width: int) -> dict[str, float]:
    chosen = sorted(random.Random(1).sample(range(n), 10_000), key=lambda i: hash((i, 1)))
    sequences = numbered_sequences(chosen)
    pool = np.random.default_rng(0).standard_normal((512, width), dtype=np.float32)
    before = resident_bytes()
    with RecordStore(location, NAMESPACE) as store:
        opening, _ = timed(store.get, sequences[:1], [MEAN])
        looking, records = timed(store.get, sequences, [MEAN])
    grown = resident_bytes() - before  # with the records still held
    assert all((record[MEAN] == pool[i % len(pool)]).all() for i, record in zip(chosen, records, strict=True))
    return {"open_s": opening, "look_up_10000_s": looking, "memory_growth_mb": grown / 1e6}


def main() -> None:
    parts = {"warm": warm, "cold": cold, "kills": kills, "million": million, "share": share}
    parts["share-numpy"] = share_numpy
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", nargs="+", choices=parts, default=list(parts))
    parser.add_argument("--folder", type=Path, help="where the files are made; a temporary folder by default")
    parser.add_argument("--drive", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--share", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--look-up", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.drive:
        print("ready", flush=True)
        location, log, n, batch = arguments.drive
        drive(Path(location), Path(log), int(n), int(batch))
    elif arguments.share:
        location, model, log, speed = arguments.share
        share_part(Path(location), Path(model), Path(log), float(speed))
    elif arguments.look_up:
        location, n, width = arguments.look_up
        print(json.dumps(look_up(Path(location), int(n), int(width))))
    else:
        results = {}
        for name in arguments.only:
            with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
                results[name] = parts[name](Path(folder))
        write_results(arguments.json, results)


if __name__ == "__main__":
    main()
