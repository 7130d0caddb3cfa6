"""Settings of a run: data, model, features, heads, splits and seeds, as plain values."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from sklearn.model_selection import GroupKFold

from skesm._typing import Document
from skesm.benchmark._features import FEATURES
from skesm.benchmark._heads import CLASSIFIERS, HEADS
from skesm.benchmark._scores import known_scores
from skesm.exceptions import InputFileError
from skesm.model_selection import IdentityClusterKFold, LowToHighSplit, MutationCountSplit, PositionKFold
from skesm.outputs.kinds import ALL_POOLINGS

RANDOM, GROUPS, UNSEEN, LOW_TO_HIGH = "random", "groups", "unseen positions", "low to high"
#: Splits that compare sequences with the reference.
OF_VARIANTS = (UNSEEN, "modulo positions", "contiguous positions", "more mutations")
SPLITS = (RANDOM, GROUPS, *OF_VARIANTS, LOW_TO_HIGH, "clusters")

BUNDLED = "gb1"


@dataclass(frozen=True)
class RunConfig:
    """Settings of a run. A TOML file has the same keys.

    Attributes
    ----------
    data : str
        ``"gb1"``, the bundled data, or the path of a table or FASTA file.
    sequence_column, mutation_column, target_column : str or None
        Columns of the file. Mutations need a `reference`. None takes a column of a well-known name, such as ``seq`` or
        ``mutant``, and ``label`` or ``fitness``.
    offset : int
        Position of the reference's first residue in the numbering of the mutations.
    group_column : str or None
        Column of groups, for the split ``"groups"``. For ``"gb1"`` only ``"position"``.
    reference : str or None
        The wild type of a library of substitutions.
    drop_invalid : bool
        Leave out rows without a target, with a bad sequence, or with another length than the reference.
    rows : int or None
        Number of rows that are drawn with the first seed. None takes all.
    model, backend : str
        The checkpoint, and where it runs.
    features, heads, splits : tuple of str
        Names, see `make_features`, `make_heads` and `skesm.benchmark.SPLITS`.
    scores : tuple of str or None
        Names, see `compare`. None takes all of the heads' kind.
    folds : int
        Folds of each split that has several.
    seeds : tuple of int
        Seeds of folds and heads.
    higher_is_better : bool or None
        Whether high values of the target are wanted. None is yes for a file, and no for the bundled data, where a
        positive ΔΔG destabilises.
    threshold : float or None
        For classifiers: rows above it are the positive class. None takes a target of two values as it is.
    permutations : int
        Shuffled targets of the permutation test of every pair.
    learning_curve : tuple of int
        Numbers of training rows, for the first head.
    layer_profile : tuple of str
        Poolings to score in every layer, with the first head.
    """

    data: str = BUNDLED
    sequence_column: str | None = None
    mutation_column: str | None = None
    target_column: str | None = None
    offset: int = 1
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
    scores: tuple[str, ...] | None = None
    folds: int = 5
    seeds: tuple[int, ...] = (0,)
    higher_is_better: bool | None = None
    threshold: float | None = None
    permutations: int = 0
    learning_curve: tuple[int, ...] = ()
    layer_profile: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        known: dict[str, tuple[str, ...]] = {
            "heads": (*HEADS, *CLASSIFIERS),
            "splits": SPLITS,
            "layer_profile": ALL_POOLINGS,
        }
        for name, names in known.items():
            unknown = [value for value in getattr(self, name) if value not in names]
            if unknown:
                raise ValueError(f"{name}: {unknown[0]!r} is unknown. Choose from {', '.join(names)}")
        for name in ("features", "heads", "splits", "seeds"):
            if not getattr(self, name):
                raise ValueError(
                    f"{name} must not be empty" + (f". Choose from {', '.join(FEATURES)}" * (name == "features"))
                )
        kinds = {head in CLASSIFIERS for head in self.heads}
        if len(kinds) > 1:
            raise ValueError("heads: regressors and classifiers cannot be compared in one table. Make two runs")
        if self.threshold is not None and not self.classifies:
            raise ValueError(f"threshold makes two classes: it needs classifiers as heads ({', '.join(CLASSIFIERS)})")
        # the names are written down: a later version may have more scores
        object.__setattr__(self, "scores", tuple(known_scores(self.scores, classes=self.classifies)))

    @property
    def classifies(self) -> bool:
        """Whether the heads are classifiers."""
        return self.heads[0] in CLASSIFIERS

    @property
    def wants_high(self) -> bool:
        """Whether high values of the target are wanted."""
        return self.data != BUNDLED if self.higher_is_better is None else self.higher_is_better

    @property
    def main_score(self) -> str:
        """The first of the scores, which decides which pair is the best."""
        assert self.scores is not None
        return self.scores[0]

    @classmethod
    def from_mapping(cls, values: Mapping[str, object], source: str) -> RunConfig:
        """Read from the keys of a TOML file or a manifest. An unknown key is an error."""
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(f"{source}: unknown key {unknown[0]!r}. Keys are {', '.join(sorted(known))}")
        arguments: Document = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**arguments)

    @classmethod
    def from_toml(cls, path: str | os.PathLike[str]) -> RunConfig:
        """Read a TOML file."""
        try:
            values = tomllib.loads(read_text(path, "of settings"))
        except tomllib.TOMLDecodeError as error:
            raise ValueError(f"{path} is not a TOML file: {error}") from error
        return cls.from_mapping(values, os.fspath(path))

    def as_dict(self) -> Document:
        """Values that JSON can hold."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    def make_splits(self, reference: str | None, *, aligned: bool, grouped: bool) -> tuple[Document, dict[str, str]]:
        """Splitters by name, and the reasons why the data cannot have the others."""
        makers: Document = {
            RANDOM: lambda: self.folds,
            GROUPS: lambda: GroupKFold(self.folds, shuffle=True, random_state=0),
            UNSEEN: lambda: PositionKFold(self.folds, reference=reference),
            "modulo positions": lambda: PositionKFold(self.folds, reference=reference, scheme="modulo"),
            "contiguous positions": lambda: PositionKFold(self.folds, reference=reference, scheme="contiguous"),
            "more mutations": lambda: MutationCountSplit(1, reference=reference),
            LOW_TO_HIGH: lambda: LowToHighSplit(higher_is_better=self.wants_high),
            "clusters": lambda: IdentityClusterKFold(self.folds, identity=0.5),
        }
        splits, left_out = {}, {}
        for name in self.splits:
            if name in OF_VARIANTS and reference is None:
                left_out[name] = "no reference is given (--reference)"
            elif name in OF_VARIANTS and not aligned:
                left_out[name] = "some sequences do not have the reference's length (--drop-invalid leaves them out)"
            elif name == GROUPS and not grouped:
                left_out[name] = "no column of groups is named (--group-column)"
            elif name == LOW_TO_HIGH and self.classifies:
                left_out[name] = "classes have no order"
            else:
                splits[name] = makers[name]()
        return splits, left_out


def read_text(path: str | os.PathLike[str], kind: str) -> str:
    """The text of a file.

    Raises
    ------
    InputFileError
        If there is no such file, or it cannot be read as text.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise InputFileError(f"there is no file {kind} at {os.fspath(path)}") from error
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not a text in UTF-8"
        raise InputFileError(f"{os.fspath(path)} cannot be read: {reason}") from error
