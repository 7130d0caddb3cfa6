"""The report of a run: one HTML file with the comparison, its methods and its answers."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from skesm._optional import import_optional
from skesm.benchmark._scores import name_score
from skesm.benchmark.runs import texts
from skesm.benchmark.runs.finished import FinishedRun

if TYPE_CHECKING:
    from pandas import DataFrame

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 60rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2rem; } h3 { font-size: 1rem; }
nav { font-size: .9rem; } nav a { margin-right: 1rem; }
p, li, h1, figcaption { overflow-wrap: anywhere; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap; }
th.text, td.text { text-align: left; } td.text { white-space: normal; } td.long { min-width: 14rem; }
td.best { background: #e8f0fa; } caption { caption-side: top; text-align: left; padding: .3rem 0; }
img { max-width: 100%; height: auto; } .wide img { max-width: none; width: max(100%, 40rem); }
figure { margin: 1.5rem 0; }
@media (min-width: 64rem) {
  .broad { position: relative; left: 50%; transform: translateX(-50%); width: max-content; min-width: 100%;
    max-width: calc(100vw - 3rem); }
}
@media (min-width: 50rem) { figure.half { display: inline-block; width: 49%; } }
figcaption { font-size: .9rem; color: #555; }
.warning { border-left: 4px solid #c0392b; padding-left: .8rem; }
pre { overflow-x: auto; background: #f6f6f6; padding: .8rem; font-size: .8rem; }
"""

_HEAD = (
    '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    "<title>{title}</title><style>{style}</style>"
)

_CAPTIONS = {
    "scores": "Every row of the table with its 95 % interval. Dark bars are within noise of the best of their split.",
    "predictions": "Predictions for rows that the model was not trained on, of the best row of the split.",
    "scan": "Single mutants by position and new amino acid, measured above predicted. A dot is the reference. "
    "White was not measured.",
    "errors": "Which predictions can you trust? Errors by the distance of a variant to the nearest training sequence.",
    "learning_curve": "How much do more measurements help? The score against the number of training rows.",
    "layer_profile": "Which layer of the model is needed? A lower layer costs less.",
}


def make_report(run: FinishedRun, images: Mapping[str, bytes], not_done: Sequence[tuple[str, str, str]]) -> str:
    """The report of a run. It needs no other file and no network."""
    title = f"{run.data.title}: which features predict {run.data.target}?"
    parts = [
        f"<h1>{_text(title)}</h1>",
        *_answers(run),
        *(f'<p class="warning">Leakage: {_text(warning)}.</p>' for warning in run.comparison.warnings),
        *_scores(run),
        *_splits(run),
        "<h2>Figures</h2>",
        *(_figure(name, image) for name, image in images.items()),
        *_curves(run),
        *_leakage(run),
        *_permutations(run),
        f"<h2>Methods</h2><p>{_text(texts.methods(run.config, run.data, run.manifest, run.comparison))}</p>",
        *_not_done(run, not_done),
        "<h2>Manifest</h2><details><summary>Versions, machine, digests and settings</summary>"
        f"<pre>{_text(json.dumps(run.manifest, indent=2, ensure_ascii=False))}</pre></details>",
    ]
    head = _HEAD.format(title=_text(title), style=_STYLE)
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>\n'


def _splits_of(run: FinishedRun) -> list[str]:
    return list(dict.fromkeys(run.comparison.scores["split"]))


def _answers(run: FinishedRun) -> Iterator[str]:
    score = run.config.main_score
    yield f"<p>{_text(texts.explain_score(score))}</p><ul>"
    for split in _splits_of(run):
        name, text = texts.best_of(run.comparison, split, score)
        bold = f"<b>{_names(name)}</b> is best: " if name else ""
        yield f"<li>On split <i>{_text(split)}</i>, {bold}{_text(text)}</li>"
    yield "</ul>"
    found = {split: texts.what_the_model_adds(run.comparison, split, score) for split in _splits_of(run)}
    if any(found.values()):
        yield "<p>Does the protein language model help?</p><ul>"
        yield from (f"<li><i>{_text(split)}</i>: {_names(text)}</li>" for split, text in found.items() if text)
        yield "</ul>"


def _scores(run: FinishedRun) -> Iterator[str]:
    name = name_score(run.config.main_score)
    yield (
        f"<h2>Scores</h2><p>Mean {_text(name)} over folds, with a 95 % interval (bootstrap over the tested rows). "
        "<b>*</b> marks every row within noise of the best of its split (corrected resampled t-test, Nadeau and Bengio "
        "2003): do not choose among them by their second decimal. A dash is a score that is not defined, because all "
        "predictions of a fold are equal. <i>columns</i> is the number of columns that the features have.</p>"
    )
    yield _table(run.comparison.table(), texts=2, broad=True)
    yield "<p>A head is the regressor or classifier that learns from the features:</p><ul>"
    for head in run.config.heads:
        yield f"<li><b>{_text(head)}</b>: {_text(texts.HEADS[head])}</li>"
    yield "</ul><p>The features:</p><ul>"
    for part, text in texts.explain_features(list(run.config.features)).items():
        yield f"<li><b>{_text(part)}</b>: {_text(text)}</li>"
    yield "</ul>"
    others = [score for score in dict.fromkeys(run.comparison.scores["score"]) if score != run.config.main_score]
    if others:
        yield "<details><summary>Other scores</summary>"
        for score in others:
            yield f"<h3>{_text(name_score(score))}</h3><p>{_text(texts.explain_score(score))}</p>"
            yield _table(_means(run, score), texts=2, broad=True)
        yield "</details>"


def _means(run: FinishedRun, score: str) -> DataFrame:
    """Mean over folds: intervals of every score would take minutes."""
    scores = run.comparison.scores[run.comparison.scores["score"] == score]
    means = scores.groupby(["split", "features", "head"], sort=False)["value"].agg(lambda v: v.mean(skipna=False))
    wide = means.unstack("split", sort=False).reset_index()
    return wide.map(lambda value: value if isinstance(value, str) else "-" if value != value else f"{value:.3g}")


def _splits(run: FinishedRun) -> Iterator[str]:
    yield "<h2>Splits</h2><ul>"
    for split in _splits_of(run):
        yield f"<li><b>{_text(split)}</b>: {_text(texts.SPLITS.get(split, ''))}</li>"
    yield "</ul>"


def _figure(name: str, png: bytes) -> str:
    kind = "predictions" if name.startswith("predictions") else name
    image = f'<img alt="{_text(name.replace("_", " "))}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
    image = image if kind == "predictions" else f'<div class="wide">{image}</div>'
    half = ' class="half"' if kind == "predictions" else ""
    return f"<figure{half}>{image}<figcaption>{_text(_CAPTIONS[kind])}</figcaption></figure>"


def _curves(run: FinishedRun) -> Iterator[str]:
    if run.profile is not None:
        from skesm.benchmark._curves import best_layers

        yield (
            "<h2>Layers</h2><p>Layers and poolings within noise of the best, the cheapest first. <i>cost</i> is the "
            "share of the model's layers that must be computed.</p>"
        )
        layers = best_layers(run.profile)
        numbers = {name: [f"{value:.2f}" for value in layers[name]] for name in ("mean", "low", "high", "cost")}
        yield _table(layers.assign(**numbers), texts=0)


def _leakage(run: FinishedRun) -> Iterator[str]:
    columns = ["n_train", "n_test", "duplicates", "neighbours", "median_distance", "seen_positions"]
    groups = run.comparison.leakage.groupby("split", sort=False)
    table = groups[columns].mean().round(2).reset_index()
    table[columns[:2]] = table[columns[:2]].round().astype(int)
    table.insert(1, "folds", groups.size().to_numpy())
    yield (
        "<h2>Leakage from training sets</h2><p>Means over folds. <i>n train</i> and <i>n test</i> are rows. "
        "<i>median distance</i> counts substitutions, insertions and deletions to the nearest training sequence. "
        "Shares of the test rows: <i>duplicates</i> are in the training set too, <i>neighbours</i> are one edit or "
        "less from a training sequence. <i>seen positions</i> is the share of mutated test positions that were mutated "
        "in training.</p>"
    )
    yield _table(table.rename(columns=lambda name: name.replace("_", " ")), texts=1)


def _permutations(run: FinishedRun) -> Iterator[str]:
    tests = run.comparison.permutations
    if tests is None or not len(tests):
        return
    yield (
        "<h2>Better than chance?</h2><p>The target was shuffled and everything fitted again. <i>p</i> is the share of "
        "shuffled targets on which the row does as well. Many rows were tested, so a single small p is weak.</p>"
    )
    yield _table(tests.drop(columns=["seed", "score"]).round(4), texts=3)


def _not_done(run: FinishedRun, not_done: Sequence[tuple[str, str, str]]) -> Iterator[str]:
    yield "<h2>Not done</h2>"
    if not_done:
        frame = import_optional("pandas", "benchmark").DataFrame(not_done, columns=["kind", "name", "reason"])
        yield _table(frame, texts=3)
    yield from (f"<p>{_text(note)}.</p>" for note in run.notes)
    yield f"<p>{_text(texts.not_done(run.config.classifies))}</p>"


def _table(frame: DataFrame, texts: int, *, broad: bool = False) -> str:
    """An HTML table whose first columns are texts. A broad one may leave the column of text on a wide screen."""
    classes = [' class="text"'] * texts + [""] * (len(frame.columns) - texts)
    head = "".join(f"<th{c}>{_text(name)}</th>" for c, name in zip(classes, frame.columns, strict=True))
    body = "".join(f"<tr>{''.join(_cells(row, classes))}</tr>" for row in frame.itertuples(index=False))
    kind = "wide broad" if broad else "wide"
    return f'<div class="{kind}"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _cells(row: Iterable[object], classes: Sequence[str]) -> Iterator[str]:
    for value, shown in zip(row, classes, strict=True):
        text = str(value)
        if shown and len(text) > 40:
            shown = ' class="text long"'
        elif text.endswith("*"):
            shown = ' class="best"'
        yield f"<td{shown}>{_names(text) if shown else _text(text)}</td>"


def _text(value: object) -> str:
    return html.escape(str(value))


def _names(value: object) -> str:
    """A text with names of features, which may be broken at each plus sign."""
    return _text(value).replace("+", "+<wbr>")
