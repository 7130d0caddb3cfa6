"""One HTML file that tells what was compared, how, and what to think of it."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from skesm.benchmark._comparison import Comparison
from skesm.benchmark.runs.config import RunConfig
from skesm.benchmark.runs.data import RunData


class FinishedRun(Protocol):
    """What a report tells of a run."""

    @property
    def config(self) -> RunConfig:
        """Settings."""

    @property
    def data(self) -> RunData:
        """Sequences and measured values."""

    @property
    def comparison(self) -> Comparison:
        """Scores."""

    @property
    def manifest(self) -> dict[str, Any]:
        """What the numbers depend on."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What was left out or padded."""


_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 60rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap; }
th:first-child, td:first-child, th:nth-child(2), td:nth-child(2) { text-align: left; }
img { max-width: 100%; height: auto; } .warning { border-left: 4px solid #c0392b; padding-left: .8rem; }
pre { overflow-x: auto; background: #f6f6f6; padding: .8rem; font-size: .8rem; }
"""

_HEAD = (
    '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    "<title>{title}</title><style>{style}</style>"
)

#: What each split asks, for a reader who meets it for the first time.
_SPLITS = {
    "random": "Random folds. Test variants have mutations at positions that were also mutated in training.",
    "groups": "Folds of whole groups of the file's group column.",
    "unseen positions": "Folds of positions. Test variants are mutated at positions that were not mutated in training.",
    "modulo positions": "Positions dealt in turn along the chain (ProteinGym's modulo folds).",
    "contiguous positions": "Segments of the chain (ProteinGym's contiguous folds), the hardest split by position.",
    "more mutations": "Trained on variants with one mutation, tested on variants with more.",
    "low to high": "Trained on the lower 80 % of the values, tested on the highest.",
    "clusters": "Folds of clusters at 50 % sequence identity.",
}


def write_report(path: Path, run: FinishedRun, figures: Mapping[str, Any]) -> None:
    """Write the report of a run; it needs no other file and no network."""
    score = run.config.scores[0]
    best = [_best(run, split, score) for split in run.comparison.scores["split"].unique()]
    parts = [
        f"<h1>{_text(run.data.title)}: which features predict {_text(run.data.target)}?</h1>",
        _paragraphs(best),
        *(f'<p class="warning">{_text(warning)}</p>' for warning in run.comparison.warnings),
        f"<h2>Scores</h2><p>Mean {_text(score)} over folds, with a 95 % interval (bootstrap over the tested rows). "
        "<b>*</b> marks every row within noise of the best of its split (corrected resampled t-test, Nadeau and Bengio "
        "2003). A dash is a score that is not defined, because all predictions of a fold are equal.</p>",
        _table(run.comparison.table(score)),
        "<h2>Splits</h2>",
        _paragraphs(f"<b>{_text(s)}</b>: {_text(_SPLITS.get(s, ''))}" for s in run.comparison.scores["split"].unique()),
        "<h2>Figures</h2>",
        *(
            f'<p><img alt="{_text(name)}" src="data:image/png;base64,{_png(figure)}"></p>'
            for name, figure in figures.items()
        ),
        "<h2>What training sets give away</h2><p>Shares of the test rows: <i>duplicates</i> are in the training set "
        "too, <i>neighbours</i> are one edit or less from a training sequence. <i>seen positions</i> is the share of "
        "mutated test positions that were mutated in training.</p>",
        _table(_mean_leakage(run)),
        "<h2>Methods</h2>",
        _paragraphs([_methods(run)]),
        "<h2>What was not done</h2>",
        _paragraphs([*map(_text, run.notes), _NOT_DONE]),
        "<h2>Manifest</h2><details><summary>Versions, digests and settings</summary>"
        f"<pre>{_text(json.dumps(run.manifest, indent=2, ensure_ascii=False))}</pre></details>",
    ]
    head = _HEAD.format(title=_text(run.data.title), style=_STYLE)
    page = f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>\n'
    path.write_text(page, encoding="utf-8")


_NOT_DONE = (
    "The scores are of one data set. The best row was chosen among all rows on the same folds, so expect a little less "
    "on new data. Classifiers were not compared."
)


def _best(run: FinishedRun, split: str, score: str) -> str:
    summary = run.comparison.summary(score)
    rows = summary[(summary["split"] == split) & summary["within_noise"]]
    if rows.empty:
        return f"{_text(split)}: {_text(score)} is not defined."
    top = rows.loc[rows["difference"].abs().idxmin()]
    names = f"<b>{_text(top['features'])}</b> with {_text(top['head'])}"
    others = f", and {len(rows) - 1} others are within noise of it" if len(rows) > 1 else ""
    interval = f"{_text(score)} {top['mean']:.2f} [{top['low']:.2f}, {top['high']:.2f}]"
    return f"Split <b>{_text(split)}</b>: {names} is best, {interval}{others}."


def _methods(run: FinishedRun) -> str:
    """A paragraph for a paper."""
    config, manifest = run.config, run.manifest
    versions, data = manifest["versions"], manifest["data"]
    sizes = f"{data['rows']} rows, {data['distinct_sequences']} distinct sequences"
    return _text(
        f"Features were computed by skesm {versions['skesm']} with the checkpoint {manifest['model']['name']} "
        f"(fingerprint {manifest['model']['fingerprint'][:16]}). {', '.join(config.heads)} were compared by "
        f"cross-validation (scikit-learn {versions['scikit-learn']}; {config.folds} folds; seeds "
        f"{', '.join(map(str, config.seeds))}) on {run.data.title} ({sizes}; SHA-256 {data['sha256'][:16]}). Scalers "
        "and penalties were fitted on the training rows of each fold. Intervals are bootstrap percentiles over test "
        "rows. Differences were tested by the corrected resampled t-test (Nadeau and Bengio 2003)."
    )


def _mean_leakage(run: FinishedRun) -> Any:
    columns = ["n_train", "n_test", "duplicates", "neighbours", "median_distance", "seen_positions"]
    table = run.comparison.leakage.groupby("split", sort=False)[columns].mean().round(2).reset_index()
    table.insert(1, "folds", run.comparison.leakage.groupby("split", sort=False).size().to_numpy())
    return table.rename(columns=lambda name: name.replace("_", " "))


def _table(frame: Any) -> str:
    head = "".join(f"<th>{_text(name)}</th>" for name in frame.columns)
    rows = ("".join(f"<td>{_text(value)}</td>" for value in row) for row in frame.itertuples(index=False))
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _paragraphs(texts: Iterable[str]) -> str:
    return "".join(f"<p>{text}</p>" for text in texts)


def _png(figure: Any) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return base64.b64encode(buffer.getvalue()).decode()


def _text(value: object) -> str:
    return html.escape(str(value))
