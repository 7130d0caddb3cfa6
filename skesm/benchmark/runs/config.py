"""What a run is: data, model, features, heads, splits and seeds, as plain values."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from sklearn.model_selection import GroupKFold

from skesm.benchmark._features import FEATURES
from skesm.benchmark._heads import HEADS
from skesm.benchmark._scores import SCORES
from skesm.model_selection import IdentityClusterKFold, LowToHighSplit, MutationCountSplit, PositionKFold

RANDOM, GROUPS, UNSEEN = "random", "groups", "unseen positions"
#: Splits that compare sequences with the reference.
OF_VARIANTS = (UNSEEN, "modulo positions", "contiguous positions", "more mutations")
SPLITS = (RANDOM, GROUPS, *OF_VARIANTS, "low to high", "clusters")

BUNDLED = "gb1"


@dataclass(frozen=True)
class RunConfig:
    """Settings of a run; a TOML file has the same keys.

    Attributes
    ----------
    data : str
        ``"gb1"``, the bundled data, or the path of a table or FASTA file.
    sequence_column, target_column : str
        Columns of the file.
    group_column : str or None
        Column of groups, for the split ``"groups"``. For ``"gb1"`` only ``"position"``.
    reference : str or None
        The wild type of a library of substitutions.
    drop_invalid : bool
        Leave out rows without a target or with a bad sequence.
    rows : int or None
        Number of rows that are drawn with the first seed; None takes all.
    model, backend : str
        The checkpoint, and where it runs.
    features, heads, splits, scores : tuple of str
        Names, see `make_features`, `make_heads` and `skesm.benchmark.SPLITS`.
    folds : int
        Folds of each split that has several.
    seeds : tuple of int
        Seeds of folds and heads.
    higher_is_better : bool
        Whether high values of the target are wanted.
    """

    data: str = BUNDLED
    sequence_column: str = "seq"
    target_column: str = "label"
    group_column: str | None = None
    reference: str | None = None
    drop_invalid: bool = False
    rows: int | None = None
    model: str = "skesm-mini"
    backend: str = "local"
    features: tuple[str, ...] = (
        *("mutated", "embeddings", "position+substitution", "mutated+position+substitution"),
        *("one-hot", "composition"),
    )
    heads: tuple[str, ...] = ("ridge", "xgboost")
    splits: tuple[str, ...] = (RANDOM, UNSEEN)
    scores: tuple[str, ...] = tuple(SCORES)
    folds: int = 5
    seeds: tuple[int, ...] = (0,)
    higher_is_better: bool = True

    def __post_init__(self) -> None:
        for name, known in (("heads", HEADS), ("splits", SPLITS), ("scores", SCORES)):
            unknown = [value for value in getattr(self, name) if value not in known]
            if unknown:
                raise ValueError(f"{name}: {unknown[0]!r} is unknown; choose from {', '.join(known)}")
        for name in ("features", "heads", "splits", "scores", "seeds"):
            if not getattr(self, name):
                raise ValueError(
                    f"{name} must not be empty" + (f"; choose from {', '.join(FEATURES)}" * (name == "features"))
                )

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], source: str) -> RunConfig:
        """Read from the keys of a TOML file or a manifest; an unknown key is an error."""
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(f"{source}: unknown key {unknown[0]!r}; keys are {', '.join(sorted(known))}")
        arguments: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**arguments)

    @classmethod
    def from_toml(cls, path: str | os.PathLike[str]) -> RunConfig:
        """Read a TOML file."""
        try:
            values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except tomllib.TOMLDecodeError as error:
            raise ValueError(f"{path} is not a TOML file: {error}") from error
        return cls.from_mapping(values, os.fspath(path))

    def as_dict(self) -> dict[str, Any]:
        """Values that JSON can hold."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    def make_splits(self, reference: str | None, *, aligned: bool, grouped: bool) -> tuple[dict[str, Any], list[str]]:
        """Splitters by name, and notes on those that the data cannot have."""
        makers: dict[str, Any] = {
            RANDOM: lambda: self.folds,
            GROUPS: lambda: GroupKFold(self.folds, shuffle=True, random_state=0),
            UNSEEN: lambda: PositionKFold(self.folds, reference=reference),
            "modulo positions": lambda: PositionKFold(self.folds, reference=reference, scheme="modulo"),
            "contiguous positions": lambda: PositionKFold(self.folds, reference=reference, scheme="contiguous"),
            "more mutations": lambda: MutationCountSplit(1, reference=reference),
            "low to high": LowToHighSplit,
            "clusters": lambda: IdentityClusterKFold(self.folds, identity=0.5),
        }
        splits, notes = {}, []
        for name in self.splits:
            if name in OF_VARIANTS and not aligned:
                notes.append(f"{name}: left out, because it needs a reference, and sequences of its length")
            elif name == GROUPS and not grouped:
                notes.append(f"{name}: left out, because no column of groups is named")
            else:
                splits[name] = makers[name]()
        if not splits:
            raise ValueError("none of the splits can be made: " + "; ".join(notes))
        return splits, notes
