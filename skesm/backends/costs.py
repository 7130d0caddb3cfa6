"""Costs of a call of an estimator, past or planned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from skesm.backends.base import RequestPlan


@dataclass(frozen=True)
class RunInfo:
    """The cost of a transform.

    Attributes
    ----------
    rows : int
        Rows of X.
    distinct : int
        Distinct sequences among them, and sequences that they need: a reference, copies with residues masked.
    hits : int
        Distinct sequences that were answered from the record store (by this or another process).
    computed : int
        Distinct sequences that went through the model, each once.
    windowed : int
        Rows of X that are too long for one pass and were computed in windows.
    """

    rows: int
    distinct: int
    hits: int
    computed: int
    windowed: int = 0


@dataclass(frozen=True)
class TransformPlan:
    """The estimated cost of a transform.

    Attributes
    ----------
    rows : int
        Rows of X.
    distinct : int
        Distinct sequences among them, and sequences that they need: a reference, copies with residues masked.
    stored : int
        Distinct sequences that the record store can answer.
    to_compute : int
        Distinct sequences that would go through the model.
    requests : RequestPlan or None
        Requests that would be sent. None for a model on this machine.
    windowed : int
        Rows of X that are too long for one pass and would be computed in windows.
    """

    rows: int
    distinct: int
    stored: int
    to_compute: int
    requests: RequestPlan | None
    windowed: int = 0


def add_costs(rows: int, costs: Sequence[RunInfo], *, windowed: int) -> RunInfo:
    """The cost of several requests for the same rows."""
    return RunInfo(
        rows=rows,
        distinct=sum(cost.distinct for cost in costs),
        hits=sum(cost.hits for cost in costs),
        computed=sum(cost.computed for cost in costs),
        windowed=windowed,
    )


def add_plans(rows: int, plans: Sequence[TransformPlan], *, windowed: int) -> TransformPlan:
    """The plan of several requests for the same rows."""
    requests = [plan.requests for plan in plans if plan.requests is not None]
    return TransformPlan(
        rows=rows,
        distinct=sum(plan.distinct for plan in plans),
        stored=sum(plan.stored for plan in plans),
        to_compute=sum(plan.to_compute for plan in plans),
        requests=RequestPlan(
            requests=sum(plan.requests for plan in requests),
            sequences=sum(plan.sequences for plan in requests),
            residues=sum(plan.residues for plan in requests),
            refused=sum(plan.refused for plan in requests),
            batch_size=max(plan.batch_size for plan in requests),
        )
        if requests
        else None,
        windowed=windowed,
    )
