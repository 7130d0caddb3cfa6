"""The store under the rules of Windows, imitated on any system.

There is no fcntl and no fork, a folder cannot be opened, and a file that is open can be neither renamed nor removed.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

IMITATION = """
import builtins, os, shutil, sys
import filelock, joblib, numpy, sklearn.pipeline, threadpoolctl  # what others import is theirs

POSIX = {"fcntl", "grp", "posix", "pwd", "resource", "termios"}
real_import = builtins.__import__

def guarded(name, globals=None, *arguments):
    if name.partition(".")[0] in POSIX and (globals or {}).get("__name__", "").startswith("skesm"):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return real_import(name, globals, *arguments)

builtins.__import__ = guarded
for name in ("fork", "forkpty", "register_at_fork", "O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW", "geteuid", "getuid",
             "sched_getaffinity", "statvfs", "chown"):
    if hasattr(os, name):
        delattr(os, name)

def refused(path):
    error = PermissionError(13, "The process cannot access the file because it is being used", str(path))
    error.winerror = 32
    return error

def refuse_open(path):
    path = os.path.realpath(path)
    for fd in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            continue
        if target == path or target.startswith(path + os.sep):
            raise refused(path)

def guard(name, *places):
    real = getattr(os, name)
    def call(*arguments, **options):
        for place in places:
            if os.path.lexists(arguments[place]):
                refuse_open(arguments[place])
        return real(*arguments, **options)
    setattr(os, name, call)

guard("rename", 0, 1)
guard("replace", 0, 1)
guard("unlink", 0)
guard("remove", 0)
guard("rmdir", 0)
shutil._use_fd_functions = False
real_open = os.open

def open_file(path, *arguments, **options):
    if os.path.isdir(path):
        raise refused(path)
    return real_open(path, *arguments, **options)

os.open = open_file
"""

USE = """
import warnings
from pathlib import Path
import numpy as np
from skesm import ESM2Embedder
from skesm.outputs.spec import Namespace, OutputSpec
from skesm.cache import RecordStore, export, info, prune, recall_model, remember_model, resolve_location, verify
from skesm.exceptions import StoreWarning

place = Path(sys.argv[1])
location = resolve_location(place)
namespace, mean = Namespace("toy", "sha256:00", "fp32"), OutputSpec("mean", 1)
records = {letter * 5: {mean: np.full(8, i, np.float32)} for i, letter in enumerate("ACDEFG")}
names = list(records)
with RecordStore(location, namespace) as one, RecordStore(location, namespace) as two:
    with one.claim(names[:3], [mean]) as mine:
        assert mine == [0, 1, 2]
        with two.claim(names, [mean]) as others:
            assert others == [3, 4, 5]
            two.put(names[3:], [records[name] for name in names[3:]])
        assert not two.wait(names[:3], [mean], timeout=0.05)
        one.put(names[:3], [records[name] for name in names[:3]])
    assert two.wait(names, [mean], timeout=30)
    for name, record in zip(names, two.get(names, [mean])):
        np.testing.assert_array_equal(record[mean], records[name][mean])
    remember_model(location, "toy", namespace)
    remember_model(location, "other", namespace)
    folder = one.folder
assert os.listdir(folder / "claims") == []
assert recall_model(location, "toy", "fp32").fingerprint == "sha256:00"
assert info(place)[0].sequences == 6 and verify(place)[0].sound
assert export(place, place / "out.npz") == 6

(folder / "records.sqlite").write_bytes(b"damaged" * 1000)
with warnings.catch_warnings(record=True) as caught, RecordStore(location, namespace) as store:
    warnings.simplefilter("always")
    assert store.get(names, [mean]) == [None] * 6
    store.put(names, [records[name] for name in names])
    assert None not in store.get(names, [mean])
assert [w.category for w in caught] == [StoreWarning], caught

# open in another store, a damaged file cannot be renamed: the work goes on without it
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    with RecordStore(location, namespace) as one, RecordStore(location, namespace) as two:
        one.get(names, [mean])
        with open(folder / "records.sqlite", "r+b") as file:
            file.write(bytes(4096 * 4))
        assert two.get(names, [mean]) == [None] * 6
        two.put(names, [records[name] for name in names])
assert {w.category for w in caught} == {StoreWarning}, caught

warnings.simplefilter("ignore")
X = ["MKTAYIAK", "MKT"]
embedder = ESM2Embedder("skesm-mini", memory=place)
first = embedder.fit_transform(X)
np.testing.assert_array_equal(embedder.transform(X), first)
assert embedder.cache_info().hits == 2
prune(place, model="skesm-mini")
assert not set('<>:"|?*') & set("".join(path.name for path in place.rglob("*")))
print("done")
"""


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="which files are open is read from /proc")
def test_the_store_works_where_windows_rules_hold(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", IMITATION + USE, str(tmp_path / "cache")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "done"), done.stderr
