"""`simulate_rounds`: rounds of proposals, simulated on measured data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone

from skesm._optional import import_optional
from skesm._typing import Estimator
from skesm.design._acquisition import STRATEGIES
from skesm.design._propose import propose

if TYPE_CHECKING:
    from pandas import DataFrame

RANDOM = "random"


def simulate_rounds(
    pipeline: Estimator,
    X: Sequence[str],
    y: object,
    *,
    reference: str,
    strategies: str | Sequence[str] = ("greedy", RANDOM),
    n_start: int = 24,
    n_batch: int = 24,
    n_rounds: int = 4,
    n_top: int = 20,
    n_repeats: int = 5,
    diversity: float = 0.8,
    maximize: bool = True,
    random_state: int = 0,
) -> DataFrame:
    """Play rounds of measuring and proposing on data with all values known.

    Each repeat starts from random rows. In each round, the pipeline is fitted on the rows that were measured so far,
    and `propose` chooses the next ones among the others. The values of rows that were not chosen are never used.

    Parameters
    ----------
    pipeline : estimator
        A regressor of sequences, which is cloned. Give its transformers a `memory`: the same sequences come again and
        again.
    X : sequence of str
        n sequences of the reference's length. Repeats count once, with their first value.
    y : array-like of shape (n,)
        Measured values.
    reference : str
        The wild type.
    strategies : str or sequence of str, default=("greedy", "random")
        Strategies of `propose`, and ``"random"`` to compare with.
    n_start, n_batch, n_rounds : int
        Rows of the start, rows of each round, and rounds.
    n_top : int, default=20
        The best rows of X, of which the found ones are counted.
    n_repeats : int, default=5
        Random starts. All strategies share them.
    diversity, maximize
        As in `propose`.
    random_state : int, default=0
        Seed of starts and draws.

    Returns
    -------
    rounds : DataFrame
        A row for each repeat, strategy and round (0 is the start): ``measured`` (rows so far), ``best`` (best value so
        far), ``found`` (how many of the `n_top` best rows were measured), ``batch_mean`` (mean value of this round's
        rows).

    Raises
    ------
    ValueError
        If there are too few rows for so many rounds, or a strategy is unknown.
    MissingDependencyError
        If pandas is not installed.

    Examples
    --------
    >>> from skesm import SubstitutionEncoder
    >>> from skesm.datasets import load_gb1_stability
    >>> from skesm.design import simulate_rounds
    >>> from sklearn.linear_model import Ridge
    >>> from sklearn.pipeline import make_pipeline
    >>> gb1 = load_gb1_stability()
    >>> pipeline = make_pipeline(SubstitutionEncoder(gb1.wild_type), Ridge())
    >>> rounds = simulate_rounds(
    ...     pipeline,
    ...     gb1.data,
    ...     gb1.target,
    ...     reference=gb1.wild_type,
    ...     maximize=False,
    ...     n_rounds=2,
    ...     n_repeats=2,
    ... )
    >>> rounds.groupby(["strategy", "round"])["measured"].first().tolist()
    [24, 48, 72, 24, 48, 72]
    """
    pandas = import_optional("pandas", extra="demo")
    chosen = (strategies,) if isinstance(strategies, str) else tuple(strategies)
    unknown = [name for name in chosen if name not in (*STRATEGIES, RANDOM)]
    if unknown:
        raise ValueError(f"strategies must be some of {', '.join((*STRATEGIES, RANDOM))}, got {unknown[0]!r}")
    values: dict[str, float] = {}
    for sequence, value in zip(X, np.asarray(y, dtype=np.float64).tolist(), strict=True):
        values.setdefault(sequence.strip().upper(), value)
    if n_start + n_rounds * n_batch > len(values):
        raise ValueError(f"{n_rounds} rounds of {n_batch} after {n_start} rows need more than {len(values)} sequences")
    sign = 1.0 if maximize else -1.0
    ranked = sorted(values, key=lambda sequence: sign * values[sequence], reverse=True)
    library = list(values)
    rows: list[dict[str, object]] = []
    for repeat in range(n_repeats):
        seed = int(np.random.SeedSequence([random_state, repeat]).generate_state(1)[0])
        start = np.random.default_rng(seed).permutation(len(library))[:n_start]
        for strategy in chosen:
            rng = np.random.default_rng([seed, 1])
            measured: list[str] = []
            batch = [library[row] for row in start]
            for number in range(n_rounds + 1):
                if number:
                    batch = _next_batch(
                        pipeline, library, values, measured, n_batch, strategy, rng, reference, diversity, maximize
                    )
                measured += batch
                best = max(sign * values[sequence] for sequence in measured) * sign
                found = len(set(ranked[:n_top]) & set(measured))
                mean = float(np.mean([values[sequence] for sequence in batch]))
                rows.append(
                    {
                        "repeat": repeat,
                        "strategy": strategy,
                        "round": number,
                        "measured": len(measured),
                        "best": best,
                        "found": found,
                        "batch_mean": mean,
                    }
                )
    return pandas.DataFrame(rows)


def _next_batch(
    pipeline: Estimator,
    library: list[str],
    values: dict[str, float],
    measured: list[str],
    n: int,
    strategy: str,
    rng: np.random.Generator,
    reference: str,
    diversity: float,
    maximize: bool,
) -> list[str]:
    known = set(measured)
    others = [sequence for sequence in library if sequence not in known]
    if strategy == RANDOM:
        rows: NDArray[np.intp] = rng.permutation(len(others))[:n]
        return [others[row] for row in rows]
    fitted = clone(pipeline).fit(measured, [values[sequence] for sequence in measured])
    table = propose(
        fitted,
        others,
        n,
        strategy=strategy,
        diversity=diversity,
        maximize=maximize,
        reference=reference,
        random_state=int(rng.integers(2**31)),
        verbose=False,
    )
    return list(table["sequence"])
