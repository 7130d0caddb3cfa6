"""A relative `memory`: what it means, and what happens when an estimator is loaded in another folder."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.pipeline import make_pipeline

from skesm import ESM2Embedder
from skesm.exceptions import StoreWarning

X = ["MKTAYIAK", "MKT"]


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    return tmp_path / "here", tmp_path / "there"


def kinds(checkpoint: Path) -> dict[str, Any]:
    return {
        "str": ESM2Embedder(checkpoint, memory="cache"),
        "Path": ESM2Embedder(checkpoint, memory=Path("cache")),
        "Memory": ESM2Embedder(checkpoint, memory=joblib.Memory("cache", verbose=0)),
    }


@pytest.mark.parametrize("kind", ["str", "Path", "Memory"])
def test_a_relative_memory_lies_in_the_current_folder_and_a_move_is_told(
    folders: tuple[Path, Path], tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    here, there = folders
    monkeypatch.chdir(here)
    embedder = kinds(tiny_checkpoint)[kind]
    expected = embedder.transform(X)
    assert (here / "cache" / "joblib" / "skesm").is_dir()
    saved = pickle.dumps(make_pipeline(embedder))
    pickle.loads(saved).transform(X)  # in the same folder there is nothing to tell

    monkeypatch.chdir(there)
    loaded = pickle.loads(saved)
    with pytest.warns(StoreWarning, match="is a relative path") as caught:
        np.testing.assert_array_equal(loaded.transform(X), expected)
    assert str(here / "cache") in str(caught[0].message)
    assert loaded[0].cache_info().computed == 2
    loaded.transform(X)  # now there is a store, and nothing is told
    assert loaded[0].cache_info().hits == 2

    monkeypatch.chdir(here)
    back = pickle.loads(saved)
    back.transform(X)
    assert back[0].cache_info().hits == 2


def test_a_new_path_ends_it_and_so_does_a_store_that_is_gone(
    folders: tuple[Path, Path], tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = folders
    monkeypatch.chdir(here)
    embedder = ESM2Embedder(tiny_checkpoint, memory="cache")
    embedder.transform(X)
    saved = pickle.dumps(embedder)
    monkeypatch.chdir(there)
    moved = pickle.loads(saved).set_params(memory=here / "cache")
    moved.transform(X)
    assert moved.cache_info().hits == 2
    again = pickle.loads(pickle.dumps(pickle.loads(saved)))  # saved a second time, before any use
    with pytest.warns(StoreWarning, match="is a relative path"):
        again.plan(X)
    joblib.Memory(here / "cache", verbose=0).clear(warn=False)
    pickle.loads(saved).transform(X)


def test_parameters_and_clones_stay_as_they_are(
    folders: tuple[Path, Path], tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folders[0])
    embedder = ESM2Embedder(tiny_checkpoint, memory="cache")
    loaded = pickle.loads(pickle.dumps(embedder))
    assert loaded.get_params() == embedder.get_params()
    assert loaded.memory == "cache"
    assert vars(clone(loaded)) == vars(embedder)
    for memory in (None, folders[1], joblib.Memory(None)):
        other = ESM2Embedder(tiny_checkpoint, memory=memory)
        assert vars(pickle.loads(pickle.dumps(other))).keys() == vars(other).keys()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pickle.loads(pickle.dumps(ESM2Embedder(tiny_checkpoint, memory=3)))  # wrong, but not for saving to say
