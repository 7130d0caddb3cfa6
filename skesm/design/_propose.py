"""`propose`: the batch of variants to make next."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Sized
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from skesm._optional import import_optional
from skesm._progress import AUTO, Progress
from skesm._typing import Estimator
from skesm.design._acquisition import STRATEGIES, check_deviation, planners, predict, score
from skesm.design._batch import Candidate, Pool
from skesm.design._candidates import Variants
from skesm.exceptions import MissingDependencyError
from skesm.model_selection._splitters import RandomState
from skesm.sequences.clean import clean_reference
from skesm.sequences.mutations import name_mutations
from skesm.sequences.variants import check_lengths, differences

if TYPE_CHECKING:
    from pandas import DataFrame

#: Candidates that are kept beside those of each position, for each that is proposed.
_KEPT = 20
_REMEDY = "Leave them out"


@dataclass(frozen=True)
class ProposalPlan:
    """The estimated cost of `propose`.

    Attributes
    ----------
    candidates : int
        Candidates to predict.
    residues : int
        Their residues in all.
    to_compute : int
        Sequences that would go through a model, by all transformers of the pipeline.
    stored : int
        Sequences that the record store has.
    requests : int or None
        Requests that a remote backend would send. None for a model on this machine.
    """

    candidates: int
    residues: int
    to_compute: int
    stored: int
    requests: int | None


def propose(
    pipeline: Estimator,
    candidates: Iterable[str],
    n: int,
    *,
    strategy: str = "greedy",
    diversity: float = 0.8,
    maximize: bool = True,
    beta: float = 1.0,
    exclude: Collection[str] = (),
    reference: str | None = None,
    offset: int = 1,
    chunk_size: int = 2048,
    random_state: RandomState = None,
    verbose: bool | int | str = AUTO,
) -> DataFrame:
    """Choose the variants to make and measure next.

    The pipeline predicts every candidate, in chunks, so memory does not grow with their number. The best are ranked,
    and the batch is spread over positions.

    Parameters
    ----------
    pipeline : estimator
        Any fitted regressor of sequences, usually a Pipeline such as `skesm.variant_pipeline`.
    candidates : Variants or iterable of str
        Sequences to choose from: `single_variants`, `combine_mutations`, a list, or a generator. It is read once.
    n : int
        Size of the batch. There are fewer rows if there are fewer candidates.
    strategy : {"greedy", "ucb", "thompson"}, default="greedy"
        How the candidates are ranked. ``"greedy"`` takes the predicted value. ``"ucb"`` takes the upper confidence
        bound, which is the value plus `beta` deviations. ``"thompson"`` draws from the normal distribution of value and
        deviation, independently for each candidate. The latter two need a regressor that gives a deviation, see Notes.
    diversity : float, default=0.8
        0 takes the best, wherever they are mutated. With 0.8, at most a fifth of the batch mutates any one position.
        With 1, each position is mutated once at the most. If there are too few such candidates, the limit is raised
        until the batch is full.
    maximize : bool, default=True
        Whether high values are wanted. A ΔΔG, for example, is usually wanted low.
    beta : float, default=1.0
        Weight of the deviation with ``"ucb"``.
    exclude : collection of str, default=()
        Sequences that are not proposed, such as those that were measured.
    reference : str or None, default=None
        The sequence to name mutations by. `Variants` have their own. It is needed unless ``diversity=0``.
    offset : int, default=1
        Position of the first residue of `reference`. `Variants` have their own.
    chunk_size : int, default=2048
        Candidates that are predicted at a time.
    random_state : int, RandomState or None, default=None
        Seed of the draws of ``"thompson"``.
    verbose : bool or "auto", default="auto"
        Show a progress bar on stderr.

    Returns
    -------
    table : DataFrame, or dict of str to list without pandas
        Rows in the order in which they were chosen, the best first: ``mutations`` (with a reference), ``predicted``,
        ``deviation`` (if the strategy uses it), ``score`` (the higher, the better), ``sequence``. Of equal candidates
        the first comes first, so the same input gives the same table.

    Raises
    ------
    NotFittedError
        If the pipeline was not fitted.
    InvalidSequenceError
        If candidates do not have the reference's length.
    ValueError
        If a parameter is not one of the allowed values, or the regressor gives no deviation.

    See Also
    --------
    plan_proposal : The cost, before you start.
    simulate_rounds : A strategy, simulated on data that you have.

    Notes
    -----
    Start with ``"greedy"``. In a benchmark of ways to estimate uncertainty, sampling by uncertainty was often unable to
    do better than greedy [1]_. Regressors that give a deviation: those with ``predict(X, return_std=True)``
    (GaussianProcessRegressor, BayesianRidge, ARDRegression), and ensembles (RandomForestRegressor,
    ExtraTreesRegressor, BaggingRegressor), whose members are compared.

    The model extrapolates if candidates have more mutations than the rows it learnt from, or mutate other positions.
    The table does not tell: `skesm.model_selection` and `skesm.benchmark.compare` measure it on your data.

    References
    ----------
    .. [1] K. P. Greenman, A. P. Amini and K. K. Yang, "Benchmarking uncertainty quantification for protein
       engineering", PLoS Computational Biology 21, e1012639 (2025). https://doi.org/10.1371/journal.pcbi.1012639

    Examples
    --------
    >>> from skesm import variant_pipeline
    >>> from skesm.datasets import load_gb1_stability
    >>> from skesm.design import propose, single_variants
    >>> gb1 = load_gb1_stability()
    >>> measured, ddg = gb1.data[:60], gb1.target[:60]
    >>> pipeline = variant_pipeline(gb1.wild_type, model="skesm-mini").fit(measured, ddg)
    >>> candidates = single_variants(gb1.wild_type, positions=[2, 3, 4], offset=2)
    >>> options = {"maximize": False, "exclude": set(measured), "diversity": 1}
    >>> table = propose(pipeline, candidates, 3, **options)
    >>> list(table.columns)
    ['mutations', 'predicted', 'score', 'sequence']
    >>> len({mutation[:-1] for mutation in table["mutations"]})  # positions
    3
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy must be one of {', '.join(STRATEGIES)}, got {strategy!r}")
    if n < 1 or chunk_size < 1 or not 0 <= diversity <= 1:
        raise ValueError(
            f"n and chunk_size must be positive, and diversity from 0 to 1: {n}, {chunk_size}, {diversity}"
        )
    check_is_fitted(pipeline)
    if strategy != "greedy":
        check_deviation(pipeline)
    reference, offset = _reference_of(candidates, reference, offset)
    if reference is None and diversity:
        raise ValueError("diversity compares positions: give the reference, or set diversity=0")
    rng = np.random.default_rng(check_random_state(random_state).randint(2**31))
    pool = Pool(n, _KEPT * n)
    excluded = set(map(_plain, exclude))
    total = len(candidates) if isinstance(candidates, Sized) else 0
    place = 0
    with Progress(verbose, total=total, description="skesm", unit="seq") as progress:
        for chunk in _chunks(candidates, chunk_size):
            new = [sequence for sequence in chunk if sequence not in excluded and sequence != reference]
            if new:
                mean, std = predict(pipeline, new, deviation=strategy != "greedy")
                scores = score(strategy, mean, std, sign=1.0 if maximize else -1.0, beta=beta, rng=rng)
                positions = _positions(new, reference)
                for row, sequence in enumerate(new):
                    spread = None if std is None else float(std[row])
                    found = (float(scores[row]), float(mean[row]), spread)
                    pool.add(Candidate(place + row, *found, sequence, positions[row]))
            place += len(new)
            progress.update(len(chunk))
    # 1 - 0.8 is a little more than 0.2
    chosen = pool.choose(n, max(1, math.ceil(n * (1 - diversity) - 1e-9)))
    return _table(chosen, reference, offset, deviation=strategy != "greedy")


def plan_proposal(pipeline: Estimator, candidates: Iterable[str], *, chunk_size: int = 2048) -> ProposalPlan:
    """Estimate the cost of `propose`, without computing anything or sending a sequence.

    Parameters
    ----------
    pipeline : estimator
        As in `propose`.
    candidates : Variants or iterable of str
        As in `propose`. It is read once.
    chunk_size : int, default=2048
        Candidates that are looked at together.

    Returns
    -------
    plan : ProposalPlan

    Examples
    --------
    >>> from skesm import variant_pipeline
    >>> from skesm.datasets import load_gb1_stability
    >>> from skesm.design import plan_proposal, single_variants
    >>> gb1 = load_gb1_stability()
    >>> measured, ddg = gb1.data[:60], gb1.target[:60]
    >>> pipeline = variant_pipeline(gb1.wild_type, model="skesm-mini").fit(measured, ddg)
    >>> plan_proposal(pipeline, single_variants(gb1.wild_type)).candidates
    1045
    """
    n_candidates = residues = to_compute = stored = 0
    requests: int | None = None
    steps = list(planners(pipeline))
    for chunk in _chunks(candidates, chunk_size):
        n_candidates += len(chunk)
        residues += sum(map(len, chunk))
        for plan in (step.plan(chunk) for step in steps):
            to_compute += plan.to_compute
            stored += plan.stored
            if plan.requests is not None:
                requests = (requests or 0) + plan.requests
    return ProposalPlan(n_candidates, residues, to_compute, stored, requests)


def _reference_of(candidates: object, reference: str | None, offset: int) -> tuple[str | None, int]:
    if isinstance(candidates, Variants):
        return candidates.reference, candidates.offset
    if reference is None:
        return None, offset
    return clean_reference(reference, long_sequences="window", max_length=None, unknown_residues="error"), offset


def _chunks(candidates: Iterable[str], size: int) -> Iterator[list[str]]:
    if isinstance(candidates, str):
        raise ValueError("candidates is a single string: wrap it in a list")
    sequences = map(_plain, candidates)
    while chunk := list(itertools.islice(sequences, size)):
        yield chunk


def _plain(sequence: str) -> str:
    """Letters as the transformers read them."""
    return sequence.strip().upper()


def _positions(sequences: list[str], reference: str | None) -> list[tuple[int, ...]]:
    if reference is None:
        return [()] * len(sequences)
    check_lengths(sequences, reference, _REMEDY)
    return [tuple(differences(sequence, reference).tolist()) for sequence in sequences]


def _table(chosen: list[Candidate], reference: str | None, offset: int, *, deviation: bool) -> DataFrame:
    columns: dict[str, list[object]] = {}
    if reference is not None:
        columns["mutations"] = [name_mutations(candidate.sequence, reference, offset) for candidate in chosen]
    columns["predicted"] = [candidate.mean for candidate in chosen]
    if deviation:
        columns["deviation"] = [candidate.std for candidate in chosen]
    columns["score"] = [candidate.score for candidate in chosen]
    columns["sequence"] = [candidate.sequence for candidate in chosen]
    try:
        pandas = import_optional("pandas", extra="demo")
    except MissingDependencyError:
        return columns
    return pandas.DataFrame(columns)
