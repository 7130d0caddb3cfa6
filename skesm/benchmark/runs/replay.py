"""A run repeated from its manifest, row by row."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from skesm._optional import import_optional
from skesm.benchmark.runs.config import RunConfig, read_text
from skesm.benchmark.runs.folder import MANIFEST, SCORES
from skesm.benchmark.runs.run import Run, run_benchmark

if TYPE_CHECKING:
    from pandas import DataFrame

_KEYS = ["split", "features", "head", "seed", "fold", "score"]
_NO_SETTINGS = "dropped_lines"  # found in the data, and not chosen


@dataclass(frozen=True)
class Replay:
    """The result of a replay.

    Attributes
    ----------
    rows : DataFrame
        One for each split, features, head and score: ``identical``, the number of folds that agree to the last bit,
        ``folds``, and ``largest_difference``.
    reasons : tuple of str
        Differences between the two manifests. Empty if there are none.
    run : Run
        The new run.
    """

    rows: DataFrame
    reasons: tuple[str, ...]
    run: Run

    @property
    def identical(self) -> bool:
        """Whether every score agrees to the last bit."""
        return bool((self.rows["identical"] == self.rows["folds"]).all())

    def to_text(self) -> str:
        """One line for each row of scores, then the reasons."""
        lines = []
        for row in self.rows.itertuples():
            name = f"{row.split} | {row.features} | {row.head} | {row.score}"
            if row.identical == row.folds:
                lines.append(f"identical  {name}")
            else:
                lines.append(
                    f"different  {name}: {row.folds - row.identical} of {row.folds} folds, "
                    f"by at most {row.largest_difference:.2g}"
                )
        if self.reasons:
            lines += ["", "Differences between the two runs:", *(f"  {reason}" for reason in self.reasons)]
        elif not self.identical:
            lines += ["", "The manifests agree: the difference comes from the machine's kernels or the code itself."]
        return "\n".join(lines)


def replay(manifest: str | os.PathLike[str], *, data: str | os.PathLike[str] | None = None, **options: Any) -> Replay:
    """Repeat a run, and compare its scores with those that stand beside its manifest.

    Parameters
    ----------
    manifest : path-like
        ``manifest.json`` of a run's folder, with ``scores.csv`` beside it.
    data : path-like, default=None
        Where the data are, if not where the manifest says. Whether they are the same is seen by their digest.
    **options : object
        `memory`, `n_jobs` and `verbose`, as for `run_benchmark`.

    Returns
    -------
    replay : Replay

    Raises
    ------
    InputFileError
        If there is no such file.
    ValueError
        If the file is no manifest of a run.
    """
    pandas = import_optional("pandas", "benchmark")
    path = Path(manifest)
    path = path / MANIFEST if path.is_dir() else path
    text = read_text(path, "of a run")
    try:
        before = json.loads(text)
        settings = {k: v for k, v in before["parameters"].items() if k != _NO_SETTINGS}
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not the manifest of a run") from error
    config = RunConfig.from_mapping(settings, os.fspath(path))
    config = config if data is None else replace(config, data=os.fspath(data))
    scores = io.StringIO(read_text(path.with_name(SCORES), "of the run's scores"))
    expected = pandas.read_csv(scores, dtype={"value": str}, keep_default_na=False)
    expected["value"] = [float(value) for value in expected["value"]]  # to the last bit, whatever pandas' default is
    run = run_benchmark(config, **options)
    return Replay(_compare(expected, run.comparison.scores), tuple(_differences(before, run.manifest)), run)


def _compare(expected: DataFrame, found: DataFrame) -> DataFrame:
    both = expected[[*_KEYS, "value"]].merge(found[[*_KEYS, "value"]], on=_KEYS, how="outer", suffixes=("", "_new"))
    old, new = both["value"].to_numpy(), both["value_new"].to_numpy()
    both["identical"] = (old == new) | (np.isnan(old) & np.isnan(new))
    both["difference"] = np.where(both["identical"], 0.0, np.abs(old - new))
    groups = both.groupby(["split", "features", "head", "score"], sort=False)
    return groups.agg(
        identical=("identical", "sum"), folds=("identical", "size"), largest_difference=("difference", "max")
    ).reset_index()


def _differences(before: Mapping[str, object], after: Mapping[str, object]) -> Iterator[str]:
    for part in (
        "versions",
        "platform",
        "hardware",
        "data",
        "model",
        "digests",
        "parameters",
        "features",
        "regressors",
    ):
        old, new = before.get(part), after[part]
        if old == new or old is None:  # earlier versions wrote less
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            for key in sorted({*old, *new}):
                if old.get(key) != new.get(key):
                    yield f"{part}, {key}: {_compare_values(old.get(key), new.get(key))}"
        else:
            yield f"{part}: {_compare_values(old, new)}"


def _compare_values(old: object, new: object) -> str:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return f"not the same for {', '.join(sorted(k for k in {*old, *new} if old.get(k) != new.get(k)))}"
    return f"{_short(old)} then, {_short(new)} now"


def _short(value: object) -> str:
    text = "absent" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
