"""The parameters that all estimators share, documented once, and checks of parameters that hold several values."""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection, Iterable, Mapping, Set
from numbers import Integral
from typing import Any

from skesm._messages import did_you_mean
from skesm.outputs.spec import resolve_layer

#: Descriptions in numpydoc's form, by the name of the parameter.
SHARED: Mapping[str, str] = {
    "model": """\
model : str or path-like, default="esm2_t6_8M_UR50D"
    A published size (``skesm models`` lists them), a folder with a checkpoint in transformers' format, a Hub
    repository ``"organisation/name"`` (``@revision`` may follow), or ``"skesm-mini"``. The latter is a small demo
    model, bundled for trials, tests and teaching. Do not use it for research.""",
    "backend": """\
backend : {"local", "numpy", "torch", "biolm"} or Backend, default="local"
    Where the model runs. ``"local"`` is this machine, with the engine that suits it. ``"numpy"`` and ``"torch"`` choose
    the engine. ``backend="biolm"`` sends the sequences to BioLM's REST API. `skesm.backends` has objects with further
    settings, for example for several machines or another server.""",
    "memory": """\
memory : None, str, path-like or joblib.Memory, default=None
    Folder of the record store. With it, no sequence goes through the model twice, even in another fold, another grid,
    another process or tomorrow. With None nothing is stored.""",
    "long_sequences": """\
long_sequences : {"error", "truncate", "window"}, default="error"
    How to treat sequences of more than `max_length` residues. ``"error"`` refuses them. ``"truncate"`` uses their
    first residues, and warns. ``"window"`` computes them in windows of `max_length` residues that overlap, see
    `ESM2Embedder`. ``cache_info`` and ``plan`` count them.""",
    "max_length": """\
max_length : int or None, default=1022
    Residues of the longest sequence that is computed in one pass. ESM-2 was trained on sequences of up to 1022. None
    sets no limit.""",
    "window_overlap": """\
window_overlap : int or None, default=None
    The least number of residues that neighbouring windows share. None means a quarter of `max_length`.""",
    "unknown_residues": """\
unknown_residues : {"error", "X"}, default="error"
    How to treat letters that ESM-2 does not know (``J``). ``"X"`` reads them as ``X``, any residue.""",
    "prefetch": """\
prefetch : str or sequence of str, default=()
    Further outputs to store from the same forward passes, so that other settings or estimators find them: ``"mean@*"``
    (every layer), ``"max@6"``, ``"logits"``, ``"logit_means"``, ``"contact_profile"`` … It needs `memory`, and changes
    no value. Passes with masked residues store nothing else.""",
    "on_error": """\
on_error : {"raise", "nan"}, default="raise"
    How to treat rows on which the backend fails. All other rows are finished and stored first. Then ``"raise"`` raises
    a `PartialResultError`, which carries the finished rows. ``"nan"`` returns NaN in the failed rows, and warns.""",
    "n_jobs": """\
n_jobs : int or None, default=None
    Number of CPU threads. -1 uses all cores. None lets the backend choose. It changes no value.""",
    "verbose": """\
verbose : bool or "auto", default="auto"
    Show a progress bar on stderr. ``"auto"`` shows it after two seconds, on a terminal or in a notebook only.""",
}


def complete_docstring(cls: type) -> None:
    """Put the descriptions of shared parameters where the docstring of a class says ``{model}`` and ``{shared}``.

    Parameters that the docstring describes itself are left as they are. The order follows the signature.
    """
    doc = cls.__dict__.get("__doc__")
    if not doc or "{shared}" not in doc:  # python -OO has no docstrings
        return
    names = [name for name in inspect.signature(cls).parameters if name in SHARED and name != "model"]
    missing = [SHARED[name] for name in names if not re.search(rf"^    {name} : ", doc, re.MULTILINE)]
    for place, entries in (("{model}", [SHARED["model"]]), ("{shared}", missing)):
        text = "\n".join(entries).replace("\n", "\n    ")
        doc = doc.replace(place, text)
    cls.__doc__ = doc


def as_tuple(value: object) -> tuple[Any, ...]:
    """Return one or several values as a tuple.

    Examples
    --------
    >>> as_tuple("mean"), as_tuple([-1, -2])
    (('mean',), (-1, -2))
    """
    if isinstance(value, Set | Mapping):
        raise ValueError(f"a {type(value).__name__} has no order, but columns do: use a tuple or a list")
    if isinstance(value, Iterable) and not isinstance(value, str):
        return tuple(value)
    return (value,)


def several_of(parameter: str, value: object, known: Collection[str]) -> tuple[str, ...]:
    """Check one or several of the known names, and return them in the order given.

    Examples
    --------
    >>> several_of("pooling", "mean", ("mean", "max"))
    ('mean',)
    """
    given = as_tuple(value)
    chosen = tuple(name for name in given if isinstance(name, str) and name in known)
    if not chosen or len(chosen) < len(given):
        unknown = next((name for name in given if name not in chosen), "")
        raise ValueError(
            f"{parameter} must be one or several of {', '.join(known)}, got {value!r}{did_you_mean(unknown, known)}"
        )
    refuse_repeats(parameter, value, chosen)
    return chosen


def several_layers(value: object, n_layers: int, *, first: int = 0) -> tuple[int, ...]:
    """Check one or several layers, and return them counted from 0, in the order given.

    With ``first=1`` the embedding, layer 0, is an error.

    Examples
    --------
    >>> several_layers([-1, 2], n_layers=6)
    (6, 2)
    """
    given = as_tuple(value)
    layers = [int(layer) for layer in given if isinstance(layer, Integral) and not isinstance(layer, bool)]
    if not layers or len(layers) < len(given):
        raise ValueError(f"layers must be one or several whole numbers, got {value!r}")
    resolved = tuple(resolve_layer(layer, n_layers) for layer in layers)
    if min(resolved) < first:
        raise ValueError(
            f"layers={value!r}: layer 0 is the embedding, which has no attention. Choose layers from 1 to {n_layers}"
        )
    refuse_repeats("layers", value, resolved)
    return resolved


def refuse_repeats(parameter: str, value: object, chosen: Collection[object]) -> None:
    """Raise ValueError if the value of a parameter chooses something twice."""
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"{parameter}={value!r} names the same columns twice")
