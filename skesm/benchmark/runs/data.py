"""The data of a run, with the places of rows in their source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from skesm._messages import first_and_more
from skesm.benchmark.runs.config import BUNDLED, RunConfig
from skesm.datasets import load_gb1_stability
from skesm.datasets._variants import read_variants
from skesm.exceptions import InvalidSequenceError
from skesm.io._columns import ANY_TARGET
from skesm.sequences.clean import clean_reference

_GB1_GROUPS = "position"


@dataclass(frozen=True)
class RunData:
    """Sequences and measured values of a run. `places` tells a user where each row is in the source."""

    title: str
    target: str
    sequences: list[str]
    y: np.ndarray
    groups: np.ndarray | None
    row_numbers: NDArray[np.intp]
    places: str
    reference: str | None
    offset: int = 1  # position of the reference's first residue
    dropped: Mapping[int, str] = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=dict)  # of the file, by setting: those that were taken

    @property
    def aligned(self) -> bool:
        """Whether there is a reference, and all sequences have its length."""
        reference = self.reference
        return reference is not None and all(len(s.strip()) == len(reference.strip()) for s in self.sequences)

    def subset(self, n_rows: int, seed: int) -> RunData:
        """Random rows, in their original order."""
        if n_rows > len(self.sequences):
            raise ValueError(f"--rows {n_rows}: the data have only {len(self.sequences)} rows")
        return self.take(np.sort(np.random.default_rng(seed).choice(len(self.sequences), size=n_rows, replace=False)))

    def take(self, chosen: NDArray[np.intp]) -> RunData:
        """The chosen rows."""
        return replace(
            self,
            sequences=[self.sequences[i] for i in chosen],
            y=self.y[chosen],
            groups=None if self.groups is None else self.groups[chosen],
            row_numbers=self.row_numbers[chosen],
        )

    def name_places(self, error: InvalidSequenceError) -> str:
        """The error with the places in the source: rows are counted in the subset, after the header, from 0."""
        places = first_and_more((self.row_numbers[row] for row in error.rows), ", ", last=" ")
        return f"{error} ({self.places}: {places})" if places else str(error)


def load_data(config: RunConfig) -> RunData:
    """Read the data of a run."""
    data = _load_gb1(config) if config.data == BUNDLED else _read_file(config)
    data = data if config.rows is None else data.subset(config.rows, config.seeds[0])
    return _classes(config, data) if config.classifies else data


def _classes(config: RunConfig, data: RunData) -> RunData:
    if config.threshold is not None:
        return replace(data, y=data.y > config.threshold, target=f"{data.target} > {config.threshold:g}")
    if (n_values := len(np.unique(data.y))) != 2:
        raise ValueError(
            f"classifiers need a target of two values, but {data.target} has {n_values}. Say from where on a row is of "
            "the positive class: --threshold VALUE, or threshold in the settings"
        )
    return data


def _load_gb1(config: RunConfig) -> RunData:
    if config.group_column not in (None, _GB1_GROUPS):
        raise ValueError(f"the bundled data have only the group column {_GB1_GROUPS!r}")
    gb1 = load_gb1_stability()
    return RunData(
        title="GB1 stability (Nisthal et al. 2019)",
        target="ΔΔG (kcal/mol)",
        sequences=list(gb1.data),
        y=gb1.target,
        groups=gb1.positions if config.group_column else None,
        row_numbers=np.arange(len(gb1.data)),
        places="rows",
        reference=gb1.wild_type,
        offset=int(gb1.positions.min()),
    )


def _read_file(config: RunConfig) -> RunData:
    from skesm import ESM2Embedder

    reference = config.reference
    if config.mutation_column is not None and reference is None:
        raise ValueError("mutation_column needs a reference: the sequence that the mutations refer to")
    if reference is not None:
        reference = clean_reference(reference, long_sequences="window", max_length=None, unknown_residues="error")
    found = read_variants(
        config.data,
        wild_type=reference,
        sequence_column=config.sequence_column,
        mutation_column=config.mutation_column,
        target_column=config.target_column or ANY_TARGET,
        others=() if config.group_column is None else (config.group_column,),
        offset=config.offset,
        max_length=ESM2Embedder().max_length,
        invalid="drop" if config.drop_invalid else "raise",
    )
    assert found.y is not None  # a target was asked for
    data = RunData(
        title=Path(config.data).name,
        target=found.names["target_column"],
        sequences=found.sequences,
        y=found.y,
        groups=None if config.group_column is None else np.array(found.others[config.group_column]),
        row_numbers=np.array(found.lines),
        places=f"lines of {config.data}",
        reference=reference,
        offset=config.offset,
        dropped=found.dropped,
        columns=found.names,
    )
    return _of_one_length(data) if config.drop_invalid and reference else data


def _of_one_length(data: RunData) -> RunData:
    """Without the rows that cannot be compared with the reference."""
    assert data.reference is not None
    length = len(data.reference.strip())
    others = {
        int(place): f": the sequence has {len(sequence.strip())} residues, and the reference has {length}"
        for place, sequence in zip(data.row_numbers, data.sequences, strict=True)
        if len(sequence.strip()) != length
    }
    kept = np.array([int(place) not in others for place in data.row_numbers])
    if not kept.any():
        raise ValueError(f"--reference has {length} residues, and no row has as many")
    return replace(data.take(np.flatnonzero(kept)), dropped={**data.dropped, **others})
