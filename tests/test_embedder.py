"""scikit-learn's contract, for the stateless transformers, on a real checkpoint."""

from __future__ import annotations

import gc
import pickle
import shutil
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pytest
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.experimental import enable_halving_search_cv  # noqa: F401  # importing it enables the next
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, HalvingGridSearchCV, cross_val_score
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_html_repr, get_tags

import skesm
from skesm import ESM2Embedder, ESM2LogitSummarizer
from skesm.backends import LocalBackend
from skesm.exceptions import CheckpointNotFoundError, InvalidSequenceError, TruncationWarning
from skesm.features.base import _ESM2Transformer
from skesm.outputs.kinds import POOLINGS
from skesm.sequences.alphabet import MASK_SYMBOL

WIDTH, N_LAYERS = 40, 2  # of tiny_checkpoint
PUBLIC = [getattr(skesm, name) for name in skesm.__all__]
TRANSFORMERS: list[Any] = [each for each in PUBLIC if isinstance(each, type) and issubclass(each, _ESM2Transformer)]
#: Transformers that learn nothing.
KINDS = [each for each in TRANSFORMERS if not get_tags(each()).requires_fit]
EACH = pytest.mark.parametrize("kind", KINDS)
SEQUENCES = ["MKTAYIAKQR", "GSHMSLFDFFKNKGS", "MKTAYIAKQR", "W", "ACDEFGHIKLMNPQRSTVWYX"]

Matrix = NDArray[np.float32]


@pytest.fixture
def without_weights(tmp_path: Path, tiny_checkpoint: Path) -> Path:
    """A checkpoint folder from which only the weights are missing: whoever needs them fails."""
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "model"))
    (folder / "model.safetensors").unlink()
    return folder


@pytest.fixture(scope="session")
def other_checkpoint(make_checkpoint: Callable[..., Path]) -> Path:
    """3 layers, 24 channels."""
    return make_checkpoint(3, 24, 4, seed=1)


# values ---------------------------------------------------------------------------------------------------------------


def hidden_states(folder: Path, sequence: str) -> list[NDArray[Any]]:
    """Layers 0 to n of transformers' model, each of shape (L + 2, d)."""
    import torch
    from transformers import EsmModel

    from skesm.esm2.tokenizer import tokenize

    model = EsmModel.from_pretrained(folder, add_pooling_layer=False).eval()
    tokens = torch.from_numpy(tokenize(sequence).astype(np.int64))[None]
    with torch.no_grad():
        states = model(tokens, output_hidden_states=True).hidden_states
    return [state[0].numpy() for state in states]


def test_columns_are_layers_and_poolings_of_the_model(tiny_checkpoint: Path) -> None:
    layers = (1, -1, 0)
    rows = ESM2Embedder(tiny_checkpoint, layers=layers, pooling=("eos", "mean", "max", "cls")).transform(SEQUENCES)
    for row, sequence in zip(rows, SEQUENCES, strict=True):
        states = hidden_states(tiny_checkpoint, sequence)
        blocks = []
        for layer in layers:
            x = states[layer]
            blocks += [x[-1], x[1:-1].mean(axis=0), x[1:-1].max(axis=0), x[0]]
        np.testing.assert_allclose(row, np.concatenate(blocks), rtol=0, atol=1e-5)  # the promise of DESIGN


def test_several_settings_are_single_ones_side_by_side(tiny_checkpoint: Path) -> None:
    together = ESM2Embedder(tiny_checkpoint, layers=[2, 0], pooling=["max", "mean"]).transform(SEQUENCES)
    single = [
        ESM2Embedder(tiny_checkpoint, layers=layer, pooling=pooling).transform(SEQUENCES)
        for layer in (2, 0)
        for pooling in ("max", "mean")
    ]
    np.testing.assert_array_equal(together, np.hstack(single))


def test_features_do_not_depend_on_the_other_rows(tiny_checkpoint: Path, proteins: list[str]) -> None:
    embedder = ESM2Embedder(tiny_checkpoint, layers=[1, 2], pooling=POOLINGS)
    rows = embedder.transform(proteins)
    order = np.random.default_rng(0).permutation(len(proteins))
    np.testing.assert_array_equal(embedder.transform([proteins[i] for i in order]), rows[order])
    np.testing.assert_array_equal(embedder.transform(proteins * 2), np.vstack([rows, rows]))
    np.testing.assert_array_equal(np.vstack([embedder.transform([p]) for p in proteins[:20]]), rows[:20])
    for n_jobs in (1, 2, 3):
        np.testing.assert_array_equal(embedder.set_params(n_jobs=n_jobs).transform(proteins), rows)
    small = LocalBackend(tokens_per_batch=1)
    np.testing.assert_array_equal(embedder.set_params(backend=small).transform(proteins), rows)


def test_repeated_rows_are_right(tiny_checkpoint: Path) -> None:
    embedder = ESM2Embedder(tiny_checkpoint)
    distinct = ["MKT", "GSH", "WCY"]
    singles = {s: embedder.transform([s])[0] for s in distinct}
    X = ["WCY", "MKT", "WCY", "WCY", "GSH", "MKT"]
    np.testing.assert_array_equal(embedder.transform(X), [singles[s] for s in X])


def test_mask_is_one_residue(tiny_checkpoint: Path) -> None:
    rows = ESM2Embedder(tiny_checkpoint).transform([f"MK{MASK_SYMBOL}T", "MKXT"])
    state = hidden_states(tiny_checkpoint, f"MK{MASK_SYMBOL}T")[-1]
    assert len(state) == 6
    np.testing.assert_allclose(rows[0], state[1:-1].mean(axis=0), rtol=0, atol=1e-5)
    assert np.abs(rows[0] - rows[1]).max() > 1e-3


# the array ------------------------------------------------------------------------------------------------------------


@EACH
@pytest.mark.parametrize("rows", [["W"], SEQUENCES])
def test_array_is_float32_contiguous_and_writable(kind: Any, rows: list[str], tiny_checkpoint: Path) -> None:
    estimator = kind(tiny_checkpoint)
    for features in (estimator.transform(rows), estimator.fit_transform(rows)):
        assert features.shape == (len(rows), len(estimator.get_feature_names_out()))
        assert features.dtype == np.float32
        assert features.flags.c_contiguous
        assert features.flags.writeable
        assert features.flags.owndata
        assert np.isfinite(features).all()


@EACH
def test_writing_into_features_spoils_nothing(kind: Any, tiny_checkpoint: Path, tmp_path: Path) -> None:
    estimator = kind(tiny_checkpoint, memory=tmp_path)
    for _ in range(2):  # computed, then read from the store
        features = estimator.transform(SEQUENCES)
        before = features.copy()
        features[:] = 0
        np.testing.assert_array_equal(estimator.transform(SEQUENCES), before)


CONTAINERS: dict[str, Callable[[list[str]], Any]] = {
    "tuple": tuple,
    "object array": lambda s: np.array(s, dtype=object),
    "str array": np.array,
    "(n, 1) array": lambda s: np.array(s, dtype=object)[:, None],
    "pandas object": lambda s: pd.Series(s, dtype=object),
    "pandas string": lambda s: pd.Series(s, dtype="string"),
    "pandas Arrow": lambda s: pd.Series(s, dtype="string[pyarrow]"),
    "pandas DataFrame": lambda s: pd.DataFrame({"seq": s}),
    "polars Series": pl.Series,
    "polars DataFrame": lambda s: pl.DataFrame({"seq": s}),
}


@EACH
@pytest.mark.parametrize("name", CONTAINERS)
def test_every_container_gives_the_same_rows(kind: Any, name: str, tiny_checkpoint: Path) -> None:
    estimator = kind(tiny_checkpoint)
    X = CONTAINERS[name](SEQUENCES)
    before = deepcopy(X)
    features = estimator.transform(X)
    np.testing.assert_array_equal(features, estimator.transform(SEQUENCES))
    np.testing.assert_array_equal(estimator.fit(X).transform(X), features)
    np.testing.assert_array_equal(np.asarray(X), np.asarray(before))
    assert type(features) is np.ndarray


# set_output -----------------------------------------------------------------------------------------------------------


@EACH
@pytest.mark.parametrize("method", ["transform", "fit_transform"])
def test_pandas_output_keeps_index_and_order(kind: Any, method: str, tiny_checkpoint: Path) -> None:
    estimator = kind(tiny_checkpoint)
    plain = estimator.transform(SEQUENCES)
    estimator.set_output(transform="pandas")
    index = pd.Index(["e", "a", "d", "b", "c"], name="protein")
    series = pd.Series(SEQUENCES, index=index, name="seq")
    for X in (series, series.to_frame()):
        frame = getattr(estimator, method)(X)
        assert isinstance(frame, pd.DataFrame)
        pd.testing.assert_index_equal(frame.index, index)
        assert frame.columns.tolist() == estimator.get_feature_names_out().tolist()
        assert set(frame.dtypes) == {np.dtype(np.float32)}
        np.testing.assert_array_equal(frame.to_numpy(), plain)
    assert getattr(estimator, method)(SEQUENCES).index.tolist() == [0, 1, 2, 3, 4]


@EACH
@pytest.mark.parametrize("method", ["transform", "fit_transform"])
def test_polars_output(kind: Any, method: str, tiny_checkpoint: Path) -> None:
    estimator = kind(tiny_checkpoint)
    plain = estimator.transform(SEQUENCES)
    estimator.set_output(transform="polars")
    for X in (pl.Series("seq", SEQUENCES), pl.DataFrame({"seq": SEQUENCES}), SEQUENCES):
        frame = getattr(estimator, method)(X)
        assert isinstance(frame, pl.DataFrame)
        assert frame.columns == estimator.get_feature_names_out().tolist()
        assert set(frame.dtypes) == {pl.Float32}
        np.testing.assert_array_equal(frame.to_numpy(), plain)


# names and parameters, without weights --------------------------------------------------------------------------------


def test_feature_names_come_from_parameters_and_config_alone(without_weights: Path) -> None:
    names = ESM2Embedder(without_weights, layers=[0, -1], pooling=["max", "cls"]).get_feature_names_out()
    assert names.dtype == object
    assert names.shape == (4 * WIDTH,)
    assert names[::WIDTH].tolist() == ["max_l0_0", "cls_l0_0", "max_l2_0", "cls_l2_0"]
    assert names[WIDTH - 1] == "max_l0_39"
    assert len(set(names)) == len(names)
    union = FeatureUnion([("e", ESM2Embedder(without_weights)), ("s", ESM2LogitSummarizer(without_weights))])
    assert union.get_feature_names_out()[-2:].tolist() == ["s__logit_mean", "s__logit_sum"]


def test_feature_names_of_a_published_size_need_no_file_at_all() -> None:
    assert ESM2Embedder("esm2_t36_3B_UR50D").get_feature_names_out()[-1] == "mean_l36_2559"


@EACH
def test_fit_loads_nothing(kind: Any, without_weights: Path) -> None:
    estimator = kind(without_weights)
    assert estimator.fit(SEQUENCES, y=range(5)) is estimator
    with pytest.raises(CheckpointNotFoundError, match=r"holds neither model\.safetensors"):
        estimator.transform(SEQUENCES)


WRONG_PARAMETERS: list[tuple[dict[str, Any], str]] = [
    ({"layers": 3}, "layer 3 does not exist"),
    ({"layers": -4}, "layer -4 does not exist"),
    ({"layers": [0, 3]}, "layer 3 does not exist"),
    ({"layers": 1.0}, "'layers' parameter"),
    ({"layers": "1"}, "'layers' parameter"),
    ({"layers": None}, "'layers' parameter"),
    ({"layers": True}, "layers must be one or several whole numbers"),
    ({"layers": []}, "layers must be one or several whole numbers"),
    ({"layers": [0.5]}, "layers must be one or several whole numbers"),
    ({"layers": [2, -1]}, "names the same columns twice"),
    ({"pooling": "median"}, "'pooling' parameter"),
    ({"pooling": []}, "pooling must be one or several of mean, max, std, cls, eos"),
    ({"pooling": ["mean", "median"]}, "pooling must be one or several of mean, max, std, cls, eos"),
    ({"pooling": [["mean"]]}, "pooling must be one or several of mean, max, std, cls, eos"),
    ({"pooling": ["mean", "mean"]}, "names the same columns twice"),
    ({"model": 8}, "'model' parameter"),
    ({"backend": "cuda"}, "'backend' parameter"),
    ({"backend": LocalBackend(engine="jax")}, "'engine' parameter of LocalBackend"),
    ({"backend": LocalBackend(dtype="float16")}, "'dtype' parameter of LocalBackend"),
    ({"backend": LocalBackend(tokens_per_batch=0)}, "'tokens_per_batch' parameter of LocalBackend"),
    ({"memory": 3}, "'memory' parameter"),
    ({"long_sequences": "cut"}, "'long_sequences' parameter"),
    ({"max_length": 0}, "'max_length' parameter"),
    ({"max_length": 10.5}, "'max_length' parameter"),
    ({"unknown_residues": "drop"}, "'unknown_residues' parameter"),
    ({"prefetch": 3}, "'prefetch' parameter"),
    ({"prefetch": [3]}, "name an output by a str"),
    ({"prefetch": "median@1"}, "unknown output 'median'"),
    ({"prefetch": ["mean@7"]}, "layer 7 does not exist"),
    ({"n_jobs": 1.5}, "'n_jobs' parameter"),
    ({"verbose": "yes"}, "'verbose' parameter"),
]


@pytest.mark.parametrize(("params", "message"), WRONG_PARAMETERS)
def test_wrong_parameters_are_told_by_every_method(params: dict[str, Any], message: str, without_weights: Path) -> None:
    embedder = ESM2Embedder(**{"model": without_weights, **params})  # the constructor only assigns
    for method in (embedder.fit, embedder.transform, embedder.fit_transform, embedder.get_feature_names_out):
        with pytest.raises(ValueError, match=message):
            method(SEQUENCES)


@pytest.mark.parametrize("layers", [np.int64(1), np.array([0, 1]), range(2), (1,)])
def test_whole_numbers_of_any_kind_name_layers(layers: Any, tiny_checkpoint: Path) -> None:
    plain = layers.tolist() if hasattr(layers, "tolist") else list(layers)
    np.testing.assert_array_equal(
        clone(ESM2Embedder(tiny_checkpoint, layers=layers)).transform(SEQUENCES),
        ESM2Embedder(tiny_checkpoint, layers=plain).transform(SEQUENCES),
    )


def test_constructor_only_assigns() -> None:
    layers, prefetch, backend = [1, 2], ["logits"], LocalBackend()
    embedder = ESM2Embedder("no/such-model", layers=layers, prefetch=prefetch, backend=backend, memory="nowhere")
    assert (embedder.layers, embedder.prefetch, embedder.backend) == (layers, prefetch, backend)
    assert embedder.layers is layers
    assert embedder.prefetch is prefetch
    assert embedder.backend is backend
    assert set(vars(embedder)) == set(embedder.get_params(deep=False))


@EACH
def test_clone_copies_parameters_and_nothing_else(kind: Any, tiny_checkpoint: Path, tmp_path: Path) -> None:
    memory = joblib.Memory(tmp_path, verbose=0)
    estimator = kind(tiny_checkpoint, backend=LocalBackend("numpy"), memory=memory, prefetch=["mean@1"], n_jobs=2)
    estimator.transform(SEQUENCES)
    copy = clone(estimator)
    assert copy.backend is not estimator.backend
    assert repr(copy) == repr(estimator)
    assert copy.cache_info() is None
    np.testing.assert_array_equal(copy.transform(SEQUENCES), estimator.transform(SEQUENCES))


def test_parameters_at_any_depth(tiny_checkpoint: Path) -> None:
    pipeline = Pipeline([("embedder", ESM2Embedder(tiny_checkpoint, backend=LocalBackend())), ("ridge", Ridge())])
    pipeline.set_params(embedder__backend__dtype="bfloat16", embedder__layers=(0, 1), embedder__backend__num_threads=1)
    params = pipeline.get_params()
    assert params["embedder__backend__dtype"] == "bfloat16"
    assert params["embedder__layers"] == (0, 1)
    assert clone(pipeline).get_params()["embedder__backend__num_threads"] == 1
    with pytest.raises(ValueError, match="Invalid parameter 'weights'"):
        pipeline.set_params(embedder__backend__weights=1)


def test_new_parameters_are_used_at_once(tiny_checkpoint: Path, other_checkpoint: Path) -> None:
    embedder = ESM2Embedder(tiny_checkpoint).fit(SEQUENCES)
    first = embedder.transform(SEQUENCES)
    second = embedder.set_params(model=other_checkpoint).transform(SEQUENCES)
    np.testing.assert_array_equal(second, ESM2Embedder(other_checkpoint).transform(SEQUENCES))
    assert second.shape == (5, 24)
    assert len(embedder.get_feature_names_out()) == 24
    assert np.abs(embedder.set_params(layers=0).transform(SEQUENCES) - second).max() > 0.01
    np.testing.assert_array_equal(
        embedder.set_params(model=str(tiny_checkpoint), layers=-1).transform(SEQUENCES), first
    )


# bad rows -------------------------------------------------------------------------------------------------------------


@EACH
@pytest.mark.parametrize("method", ["fit", "transform", "fit_transform"])
@pytest.mark.parametrize(
    ("X", "rows"),
    [
        (["WCHWMY", None, "W1"], (1, 2)),
        (["WCHWMY", "WCHWMY*"], (1,)),
        (["W" * 1023], (0,)),
        (pd.Series(["WCHWMY", float("nan")]), (1,)),
        ("WCHWMY", ()),
        ([], ()),
        (pd.DataFrame({"a": ["WCHWMY"], "b": ["WCHWMY"]}), ()),
    ],
)
def test_bad_rows_stop_everything_before_the_weights(
    kind: Any, method: str, X: Any, rows: tuple[int, ...], without_weights: Path, tmp_path: Path
) -> None:
    estimator = kind(without_weights, memory=tmp_path / "memory")
    with pytest.raises(InvalidSequenceError) as caught:
        getattr(estimator, method)(X)
    assert caught.value.rows == rows
    assert "WCHW" not in str(caught.value)
    assert estimator.cache_info() is None
    assert not (tmp_path / "memory").exists()


@EACH
def test_truncation_warns_at_each_transform(kind: Any, tiny_checkpoint: Path) -> None:
    estimator = kind(tiny_checkpoint, max_length=4, long_sequences="truncate")
    for _ in range(2):
        with pytest.warns(TruncationWarning, match="1 of 2 sequences .* rows 1"):
            rows = estimator.transform(["MKTA", "MKTAY"])
    np.testing.assert_array_equal(rows[0], rows[1])


# state ----------------------------------------------------------------------------------------------------------------


@EACH
def test_nothing_is_learnt(kind: Any, tiny_checkpoint: Path) -> None:
    estimator = kind(tiny_checkpoint, backend=LocalBackend())
    before = deepcopy(vars(estimator)), deepcopy(vars(estimator.backend))
    unfitted = estimator.transform(SEQUENCES)
    np.testing.assert_array_equal(estimator.fit(SEQUENCES[:1]).transform(SEQUENCES), unfitted)
    estimator.get_feature_names_out()
    assert {k: repr(v) for k, v in vars(estimator).items()} == {k: repr(v) for k, v in before[0].items()}
    assert vars(estimator.backend) == before[1]


@EACH
def test_tags(kind: Any) -> None:
    tags = get_tags(kind())
    assert not tags.requires_fit
    assert tags.input_tags.string
    assert not tags.input_tags.two_d_array
    assert tags.transformer_tags.preserves_dtype == []
    assert not tags.target_tags.required


@EACH
def test_pickles_are_small_and_hold_no_weights(kind: Any, tiny_checkpoint: Path, tmp_path: Path) -> None:
    pipeline = make_pipeline(kind(tiny_checkpoint, backend=LocalBackend()), Ridge())
    pipeline.fit(SEQUENCES, range(5))
    estimator = pipeline[0]
    data = pickle.dumps(estimator)
    assert len(data) < 2_000
    assert b"numpy" not in data.replace(b"numpy_engine", b"")
    joblib.dump(pipeline, tmp_path / "pipeline.joblib")
    assert (tmp_path / "pipeline.joblib").stat().st_size < 10_000
    np.testing.assert_array_equal(pickle.loads(data).transform(SEQUENCES), estimator.transform(SEQUENCES))
    np.testing.assert_array_equal(
        joblib.load(tmp_path / "pipeline.joblib").predict(SEQUENCES), pipeline.predict(SEQUENCES)
    )


@EACH
def test_threads_may_share_an_estimator(kind: Any, make_checkpoint: Callable[..., Path], proteins: list[str]) -> None:
    fresh = make_checkpoint(2, 32, 4, seed=2)  # not yet loaded: the threads race for loading, too
    estimator = kind(fresh)
    start = threading.Barrier(8)

    def transform(_: int) -> Matrix:
        start.wait(60)
        return estimator.transform(proteins)  # type: ignore[no-any-return]

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(transform, range(8)))
    alone = kind(fresh).transform(proteins)
    for result in results:
        np.testing.assert_array_equal(result, alone)


def test_threads_may_use_different_models(
    tiny_checkpoint: Path, other_checkpoint: Path, make_checkpoint: Callable[..., Path]
) -> None:
    models = [tiny_checkpoint, other_checkpoint, make_checkpoint(1, 16, 2, seed=3)]  # one more than are kept
    alone = [ESM2Embedder(model).transform(SEQUENCES) for model in models]
    jobs = [i % 3 for i in range(12)]
    with ThreadPoolExecutor(4) as pool:
        rows = list(pool.map(lambda i: ESM2Embedder(models[i]).transform(SEQUENCES), jobs))
    for i, result in zip(jobs, rows, strict=True):
        np.testing.assert_array_equal(result, alone[i])


@EACH
def test_html(kind: Any, without_weights: Path) -> None:
    html = estimator_html_repr(make_pipeline(kind(without_weights), StandardScaler()))
    assert kind.__name__ in html
    assert kind(without_weights)._repr_html_()


# with others ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def data(gfp: tuple[list[str], NDArray[Any]]) -> tuple[list[str], NDArray[Any]]:
    """40 GFP variants, cut to 50 residues."""
    sequences, y = gfp
    return [sequence[40:90] for sequence in sequences[:40]], y[:40]


@pytest.mark.parametrize("regressor", ["ridge", "xgboost"])
def test_pipeline(regressor: str, data: Any, tiny_checkpoint: Path) -> None:
    from xgboost import XGBRegressor

    X, y = data
    model = Ridge() if regressor == "ridge" else XGBRegressor(n_estimators=5, n_jobs=1, random_state=0)
    pipeline = make_pipeline(ESM2Embedder(tiny_checkpoint), StandardScaler(), model)
    predicted = pipeline.fit(X, y).predict(X)
    features = StandardScaler().fit_transform(ESM2Embedder(tiny_checkpoint).transform(X))
    np.testing.assert_array_equal(predicted, clone(model).fit(features, y).predict(features))
    assert pipeline[:-1].get_feature_names_out()[-1] == "mean_l2_39"
    scores = cross_val_score(pipeline, X, y, cv=2)
    assert np.isfinite(scores).all()


def test_union(tiny_checkpoint: Path) -> None:
    union = FeatureUnion([("e", ESM2Embedder(tiny_checkpoint)), ("s", ESM2LogitSummarizer(tiny_checkpoint))], n_jobs=2)
    rows = union.fit_transform(SEQUENCES)
    assert rows.shape == (5, WIDTH + 2)
    np.testing.assert_array_equal(rows[:, :WIDTH], ESM2Embedder(tiny_checkpoint).transform(SEQUENCES))
    frame = union.set_output(transform="pandas").transform(pd.Series(SEQUENCES, index=list("abcde")))
    assert frame.index.tolist() == list("abcde")
    assert frame.columns[-1] == "s__logit_sum"


@pytest.mark.parametrize("column", ["seq", ["seq"]])
@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_column_by_name(column: Any, library: str, tiny_checkpoint: Path) -> None:
    table = {"charge": [1.0, 2.0, 3.0, 4.0, 5.0], "seq": SEQUENCES}
    X = pd.DataFrame(table) if library == "pandas" else pl.DataFrame(table)
    columns = ColumnTransformer([("esm2", ESM2Embedder(tiny_checkpoint), column)], remainder="passthrough")
    rows = columns.fit_transform(X)
    np.testing.assert_array_equal(
        rows[:, :WIDTH].astype(np.float32), ESM2Embedder(tiny_checkpoint).transform(SEQUENCES)
    )
    assert rows[:, -1].tolist() == table["charge"]
    assert columns.get_feature_names_out()[[0, -1]].tolist() == ["esm2__mean_l2_0", "remainder__charge"]
    frame = columns.set_output(transform=library).transform(X)
    assert list(frame.columns) == columns.get_feature_names_out().tolist()


def search_space(models: list[Path]) -> dict[str, list[Any]]:
    return {"embedder__model": models, "embedder__layers": [1, -1], "embedder__pooling": ["mean", ("max", "cls")]}


def test_grid_search_in_processes(data: Any, tiny_checkpoint: Path, other_checkpoint: Path, tmp_path: Path) -> None:
    X, y = data
    pipeline = Pipeline([("embedder", ESM2Embedder()), ("scaler", StandardScaler()), ("ridge", Ridge())])
    space = search_space([tiny_checkpoint, other_checkpoint])
    search = GridSearchCV(pipeline, space, cv=2, n_jobs=2, error_score="raise").fit(X, y)
    scores = search.cv_results_["mean_test_score"]
    assert len(set(scores)) == 8  # a setting that is not used would leave scores equal
    for params, score in zip(search.cv_results_["params"], scores, strict=True):
        here = cross_val_score(clone(pipeline).set_params(**params), X, y, cv=2).mean()
        assert score == pytest.approx(here, rel=1e-3)  # BLAS threads differ in Ridge; features do not
    pipeline.set_params(embedder__memory=tmp_path)
    stored = GridSearchCV(pipeline, space, cv=2, n_jobs=2, error_score="raise").fit(X, y)
    np.testing.assert_array_equal(stored.cv_results_["mean_test_score"], scores)


def test_halving_search_in_processes(data: Any, tiny_checkpoint: Path, other_checkpoint: Path) -> None:
    X, y = data
    pipeline = Pipeline([("embedder", ESM2Embedder()), ("scaler", StandardScaler()), ("ridge", Ridge())])
    space = search_space([tiny_checkpoint, other_checkpoint])
    search = HalvingGridSearchCV(
        pipeline, space, cv=2, n_jobs=2, random_state=0, min_resources=10, error_score="raise"
    ).fit(X, y)
    assert search.n_candidates_[0] == 8
    assert search.n_iterations_ > 1
    assert search.predict(X).shape == (40,)


def test_cache_info_keeps_no_estimator_alive(tiny_checkpoint: Path) -> None:
    embedder = ESM2Embedder(tiny_checkpoint)
    embedder.transform(SEQUENCES)
    gone = weakref.ref(embedder)
    del embedder
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("name", ["layers", "pooling"])
def test_what_has_no_order_names_no_columns(tiny_checkpoint: Path, name: str) -> None:
    with pytest.raises(ValueError, match="has no order"):
        ESM2Embedder(tiny_checkpoint, **{name: {"layers": {0, 1}, "pooling": {"mean", "max"}}[name]}).transform(["MKT"])
