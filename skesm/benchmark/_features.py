"""Features by name, as the command line and a table of results call them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.pipeline import FeatureUnion
from sklearn.preprocessing import FunctionTransformer

from skesm import (
    AminoAcidComposition,
    ESM2Embedder,
    ESM2LogitSummarizer,
    ESM2VariantScorer,
    OneHotSequence,
    PositionEncoder,
    SubstitutionEncoder,
)
from skesm._progress import AUTO
from skesm._typing import Column, Estimator, Options
from skesm.benchmark._random_weights import RandomWeightsBackend
from skesm.sequences.alphabet import count_residues
from skesm.sequences.clean import clean_sequences

if TYPE_CHECKING:
    from skesm.backends import Backend

#: One-hot columns only line up where sequences are variants of one another. Beyond a tenth of the longest sequence
#: missing at the end, position n of two rows has too little in common for the baseline to be an honest one.
MAX_LENGTH_SPREAD = 0.1

#: Features that compare sequences with a reference of their length.
OF_VARIANTS = (
    *("mutated", "position", "position+substitution", "substitution", "blosum62"),
    *("zero-shot", "masked-marginal", "mutant-marginal", "augmented", "random-weights-mutated"),
)
FEATURES = ("embeddings", "logits", "one-hot", "composition", "length", "random-weights", *OF_VARIANTS)


def make_features(
    names: Iterable[str],
    X: Column,
    *,
    model: str = "skesm-mini",
    reference: str | None = None,
    backend: str | Backend = "local",
    memory: str | os.PathLike[str] | None = None,
    verbose: bool | int | str = AUTO,
) -> tuple[dict[str, Estimator], list[str]]:
    """Transformers by name, ready for `compare`.

    ==========================  ======================================================================================
    name                        columns
    ==========================  ======================================================================================
    ``embeddings``              `ESM2Embedder`: the mean of the last layer
    ``mutated``                 `ESM2Embedder`: the mutated positions, of the sequence and of the reference
    ``logits``                  `ESM2LogitSummarizer`: mean and sum
    ``zero-shot``               `ESM2VariantScorer`: wild-type marginals, one column (1 forward pass)
    ``masked-marginal``         the same of masked marginals (a pass for each mutated position)
    ``mutant-marginal``         the same of marginals of the variant (a pass for each sequence)
    ``random-weights``          as ``embeddings``, of a model that was never trained (`RandomWeightsBackend`)
    ``random-weights-mutated``  as ``mutated``, of that model
    ``one-hot``                 `OneHotSequence`
    ``augmented``               one-hot beside the zero-shot score (Hsu et al. 2022)
    ``composition``             `AminoAcidComposition`
    ``length``                  number of residues
    ``position``                `PositionEncoder`
    ``substitution``            `SubstitutionEncoder`: wild-type and new amino acids
    ``position+substitution``   `SubstitutionEncoder`: position, wild-type and new amino acids
    ``blosum62``                `SubstitutionEncoder`: BLOSUM62 and changes of hydropathy, volume and charge
    ==========================  ======================================================================================

    Parameters
    ----------
    names : iterable of str
        Names of the table above, or several joined by ``+``, whose columns stand side by side.
    X : list, tuple, array, Series, or one-column DataFrame of str
        All sequences of the comparison. Only their lengths are used.
    model : str, default="skesm-mini"
        Registry name, Hub repository id or checkpoint folder.
    reference : str or None, default=None
        The wild type of a library of substitutions. Without it, features of variants are left out.
    backend : str or Backend, default="local"
        Where the model runs.
    memory : path-like, default=None
        Folder of the record store. With it, one forward pass for each sequence serves all features.
    verbose : bool, int or "auto", default="auto"
        Show progress on stderr. ``"auto"`` shows it after two seconds on a terminal or in a notebook.

    Returns
    -------
    features : dict of str to transformer
        Those with ``mutated`` come first, because its passes store the outputs that the others need.
    notes : list of str
        Sentences for the reader of the table: what was padded or left out, and why.

    Raises
    ------
    ValueError
        If a name is unknown.

    References
    ----------
    Hsu, Nisonoff, Fannjiang and Listgarten, Learning protein fitness models from evolutionary and assay-labeled data,
    Nature Biotechnology 40, 1114-1122 (2022).

    Examples
    --------
    >>> from skesm.benchmark import make_features
    >>> X = ["ACDEFGHIKL", "ACDEFGHIK"]
    >>> features, notes = make_features(["one-hot", "length", "mutated"], X)
    >>> list(features)
    ['one-hot', 'length']
    >>> notes[0]
    'one-hot: 1 of 2 sequences is padded at the end to 10 residues'
    """
    shared: Options = {"backend": backend, "memory": memory, "verbose": verbose}
    features, left_out, notes = plan_features(names, X, model=model, reference=reference, **shared)
    return features, [*notes, *(f"{name}: left out, because {reason}" for name, reason in left_out.items())]


def plan_features(
    names: Iterable[str], X: Column, *, model: str, reference: str | None, prefetch: tuple[str, ...] = (), **shared: Any
) -> tuple[dict[str, Estimator], dict[str, str], list[str]]:
    """Return the features, the reasons for those that are left out, and notes on padding.

    `prefetch` are further outputs that a pass stores.
    """
    lengths = np.array([count_residues(s) for s in clean_sequences(X, max_length=None, unknown_residues="X")])
    makers = _makers(model, reference, int(lengths.max()), shared, ("mean@-1", "logit_means", *prefetch))
    impossible, notes = _impossible(lengths, reference)
    features: dict[str, Estimator] = {}
    left_out: dict[str, str] = {}
    names = list(names)
    # Mutated first: its passes can store the outputs that the others need, but not the other way round.
    for name in sorted(names, key=lambda name: not {"mutated", "random-weights-mutated"} & {*_parts_of(name)}):
        parts = _parts_of(name)
        missing = [part for part in parts if part in impossible]
        if missing:
            left_out[name] = impossible[missing[0]]
        elif len(parts) == 1:
            features[name] = makers[name]()
        else:
            features[name] = FeatureUnion([(part, makers[part]()) for part in parts])
    wanted = {part for name in names for part in (name, *_parts_of(name))}
    return features, left_out, [note for note in notes if note.partition(":")[0] in wanted]


def _parts_of(name: str) -> list[str]:
    """The names in a sum. ``position+substitution`` is one name."""
    parts: list[str] = []
    for piece in name.split("+"):
        if parts and parts[-1] == "position" and piece == "substitution":
            parts[-1] = "position+substitution"
        else:
            parts.append(piece)
    unknown = [part for part in parts if part not in FEATURES]
    if unknown:
        raise ValueError(f"features {name!r}: {unknown[0]!r} is unknown. Choose from {', '.join(FEATURES)}")
    if len(set(parts)) < len(parts):
        raise ValueError(f"features {name!r} name the same columns twice")
    return parts


def _makers(
    model: str, reference: str | None, longest: int, shared: Options, others: tuple[str, ...]
) -> dict[str, Callable[[], Estimator]]:
    """`others` are outputs that a pass stores for other features."""

    def zero_shot(strategy: str = "wt_marginal") -> Estimator:
        return ESM2VariantScorer(model, strategy=strategy, reference=reference, **shared)

    mutated: Options = {"pooling": "mutated", "reference": reference}
    untrained = {**shared, "backend": RandomWeightsBackend(shape_of=shared["backend"]), "prefetch": "mean@-1"}
    return {
        "embeddings": lambda: ESM2Embedder(model, prefetch=others, **shared),
        "mutated": lambda: ESM2Embedder(model, prefetch=others, **mutated, **shared),
        "logits": lambda: ESM2LogitSummarizer(model, prefetch=others, **shared),
        "random-weights": lambda: ESM2Embedder(model, **untrained),
        "random-weights-mutated": lambda: ESM2Embedder(model, **mutated, **untrained),
        "zero-shot": zero_shot,
        "masked-marginal": lambda: zero_shot("masked_marginal"),
        "mutant-marginal": lambda: zero_shot("mutant_marginal"),
        "one-hot": lambda: OneHotSequence(longest),
        "augmented": lambda: FeatureUnion([("one-hot", OneHotSequence(longest)), ("zero-shot", zero_shot())]),
        "composition": AminoAcidComposition,
        "length": lambda: FunctionTransformer(_lengths),
        "position": lambda: PositionEncoder(reference),
        "substitution": lambda: SubstitutionEncoder(reference, parts=("wild_type", "new")),
        "position+substitution": lambda: SubstitutionEncoder(reference),
        "blosum62": lambda: SubstitutionEncoder(reference, parts=("blosum62", "properties")),
    }


def _impossible(lengths: NDArray[np.intp], reference: str | None) -> tuple[dict[str, str], list[str]]:
    """Features that these sequences cannot have, each with the reason, and notes on the others."""
    impossible: dict[str, str] = {}
    notes = []
    longest = int(lengths.max())
    shorter = int((lengths < longest).sum())
    if lengths.min() < (1 - MAX_LENGTH_SPREAD) * longest:
        reason = f"lengths run from {lengths.min()} to {longest} residues"
        impossible |= dict.fromkeys(("one-hot", "augmented"), reason)
    elif shorter:
        are = "is" if shorter == 1 else "are"
        notes.append(f"one-hot: {shorter} of {len(lengths)} sequences {are} padded at the end to {longest} residues")
    if reference is None:
        impossible |= dict.fromkeys(OF_VARIANTS, "no reference is given")
    elif others := int((lengths != len(reference.strip())).sum()):
        reason = f"{others} of {len(lengths)} sequences do not have the reference's length"
        impossible |= dict.fromkeys(OF_VARIANTS, reason)
    return impossible, notes


def _lengths(X: Sequence[str]) -> NDArray[np.float64]:
    return np.array([[count_residues(sequence)] for sequence in X], dtype=np.float64)
