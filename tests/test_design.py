"""Candidates, the batch, and rounds that are replayed."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from pandas.testing import assert_frame_equal
from sklearn.ensemble import BaggingRegressor, GradientBoostingRegressor, RandomForestRegressor
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import BayesianRidge, Ridge
from sklearn.pipeline import make_pipeline

from skesm import ESM2Embedder, SubstitutionEncoder
from skesm.cli import main
from skesm.datasets import load_gb1_stability
from skesm.design import combine_mutations, plan_proposal, propose, simulate_rounds, single_variants
from skesm.design._acquisition import STRATEGIES
from skesm.exceptions import InvalidSequenceError

GB1 = load_gb1_stability()
REFERENCE = GB1.wild_type


def fitted(regressor=None, rows: int = 400):  # type: ignore[no-untyped-def]
    pipeline = make_pipeline(SubstitutionEncoder(REFERENCE), Ridge() if regressor is None else regressor)
    return pipeline.fit(GB1.data[:rows], GB1.target[:rows])


# --- candidates ------------------------------------------------------------------------------------------------------


def test_single_variants_are_all_of_them() -> None:
    variants = list(single_variants("MKT"))
    assert len(variants) == len(set(variants)) == len(single_variants("MKT")) == 3 * 19
    assert all(sum(a != b for a, b in zip(v, "MKT", strict=True)) == 1 for v in variants)
    names = list(single_variants("MKT", positions=[12, 11], amino_acids="KR", offset=10).names())
    assert names == ["K11R", "T12K", "T12R"]


def test_combinations_are_all_of_them() -> None:
    variants = combine_mutations("MKTAY", ["K2R", "K2A:A4G", "T3S"], sizes=(1, 2, 3))
    choices = {1: "RA", 2: "S", 3: "G"}
    expected = set()
    for size in (1, 2, 3):
        for positions in itertools.combinations(choices, size):
            for letters in itertools.product(*(choices[p] for p in positions)):
                changed = list("MKTAY")
                for position, letter in zip(positions, letters, strict=True):
                    changed[position] = letter
                expected.add("".join(changed))
    found = list(variants)
    assert len(found) == len(variants) == len(expected)
    assert set(found) == expected


def test_millions_are_counted_without_being_made() -> None:
    everything = list(single_variants(REFERENCE).names())
    assert len(combine_mutations(REFERENCE, everything, sizes=(2, 3))) == 19**2 * 1485 + 19**3 * 26235
    first = next(iter(combine_mutations(REFERENCE, everything, sizes=3)))
    assert sum(a != b for a, b in zip(first, REFERENCE, strict=True)) == 3


def test_bad_candidates() -> None:
    with pytest.raises(ValueError, match="positions must lie between 1 and 3"):
        single_variants("MKT", positions=[4])
    with pytest.raises(ValueError, match="amino_acids must be some of"):
        single_variants("MKT", amino_acids="AB")
    with pytest.raises(ValueError, match="must lie between 1 and 1"):
        combine_mutations("MKT", ["K2R"], sizes=2)
    with pytest.raises(InvalidSequenceError, match="position 3"):
        combine_mutations("MKT", ["K3R"])


# --- a batch ---------------------------------------------------------------------------------------------------------


def test_greedy_takes_the_best() -> None:
    pipeline, candidates = fitted(), single_variants(REFERENCE)
    table = propose(pipeline, candidates, 12, diversity=0, chunk_size=100)
    everything = list(candidates)
    values = pipeline.predict(everything)
    best = np.argsort(-values, kind="stable")[:12]
    assert table["sequence"].tolist() == [everything[row] for row in best]
    np.testing.assert_allclose(table["predicted"], values[best])
    low = propose(pipeline, candidates, 3, diversity=0, maximize=False)
    assert low["predicted"].tolist() == sorted(low["predicted"])
    np.testing.assert_allclose(low["predicted"].iloc[0], values.min())


@pytest.mark.parametrize("chunk_size", [7, 5000])
def test_a_batch_spreads_over_positions(chunk_size: int) -> None:
    table = propose(fitted(), single_variants(REFERENCE), 20, diversity=0.8, chunk_size=chunk_size)
    positions = [name[1:-1] for name in table["mutations"]]
    assert max(map(positions.count, positions)) <= 4
    once = propose(fitted(), single_variants(REFERENCE), 20, diversity=1, chunk_size=chunk_size)
    assert len({name[1:-1] for name in once["mutations"]}) == 20


def test_too_few_positions_fill_the_batch_all_the_same() -> None:
    table = propose(fitted(), single_variants(REFERENCE, positions=[1, 2]), 30, diversity=1)
    assert len(table) == 30
    assert len(propose(fitted(), single_variants(REFERENCE, positions=[1]), 30)) == 19


def test_equal_candidates_keep_their_order() -> None:
    constant = fitted(Ridge(alpha=1e30))
    table = propose(
        constant, ["MKTAY" + REFERENCE[5:]] * 2 + ["A" + REFERENCE[1:]], 3, reference=REFERENCE, diversity=0
    )
    assert len(table) == 2  # a repeat is proposed once
    first = propose(constant, single_variants(REFERENCE), 5)
    assert first.equals(propose(constant, single_variants(REFERENCE), 5, chunk_size=10))


def test_measured_variants_and_the_reference_are_left_out() -> None:
    candidates = [REFERENCE, *GB1.data[:10]]
    table = propose(fitted(), candidates, 20, reference=REFERENCE, offset=2, exclude=set(GB1.data[:4]))
    assert sorted(table["mutations"]) == sorted(GB1.mutations[4:10])
    generated = propose(fitted(), (s for s in GB1.data[:10]), 3, diversity=0)
    assert list(generated.columns) == ["predicted", "score", "sequence"]


def test_measured_variants_are_known_however_they_are_written() -> None:
    measured = list(GB1.data[:4])
    as_written = [f" {sequence.lower()}\n" for sequence in measured]
    table = propose(fitted(), measured, 4, reference=REFERENCE, exclude=as_written)
    assert len(table) == 0


@pytest.mark.parametrize(
    "regressor",
    [BayesianRidge(), RandomForestRegressor(8, random_state=0), BaggingRegressor(Ridge(), 8, random_state=0)],
    ids=lambda regressor: type(regressor).__name__,
)
def test_strategies_with_a_deviation(regressor: object) -> None:
    pipeline, candidates = fitted(regressor), single_variants(REFERENCE, positions=range(1, 11))
    ucb = propose(pipeline, candidates, 5, strategy="ucb", beta=2.0)
    np.testing.assert_allclose(ucb["score"], ucb["predicted"] + 2 * ucb["deviation"])
    assert (ucb["deviation"] >= 0).all()
    down = propose(pipeline, candidates, 5, strategy="ucb", maximize=False)
    np.testing.assert_allclose(down["score"], down["deviation"] - down["predicted"])
    drawn = [
        propose(pipeline, candidates, 5, strategy="thompson", random_state=s, chunk_size=c)
        for s, c in [(0, 50), (0, 999)]
    ]
    # The draws do not depend on the chunks. The predictions may, in the last bits of a float32, with some BLAS kernels.
    assert_frame_equal(drawn[0], drawn[1], rtol=1e-5)
    other = propose(pipeline, candidates, 5, strategy="thompson", random_state=1)
    assert list(drawn[0]["mutations"]) != list(other["mutations"])


def test_refusals() -> None:
    pipeline, candidates = fitted(), single_variants(REFERENCE)
    with pytest.raises(ValueError, match="Ridge gives no deviation"):
        propose(pipeline, candidates, 3, strategy="ucb")
    boosted = fitted(GradientBoostingRegressor(n_estimators=2), rows=40)  # its members predict corrections
    with pytest.raises(ValueError, match="GradientBoostingRegressor gives no deviation"):
        propose(boosted, candidates, 3, strategy="thompson")
    with pytest.raises(ValueError, match="strategy must be one of"):
        propose(pipeline, candidates, 3, strategy="best")
    with pytest.raises(ValueError, match="give the reference, or set diversity=0"):
        propose(pipeline, list(candidates), 3)
    with pytest.raises(ValueError, match="must be positive"):
        propose(pipeline, candidates, 0)
    with pytest.raises(NotFittedError):
        propose(make_pipeline(SubstitutionEncoder(REFERENCE), Ridge()), candidates, 3)
    with pytest.raises(InvalidSequenceError, match="row 1"):
        propose(pipeline, [GB1.data[0], "MKT"], 3, reference=REFERENCE)


def test_a_plan_computes_nothing(tiny_checkpoint: Path, tmp_path: Path) -> None:
    embedder = ESM2Embedder(tiny_checkpoint, memory=str(tmp_path))
    pipeline = make_pipeline(embedder, Ridge()).fit(GB1.data[:10], GB1.target[:10])
    plan = plan_proposal(pipeline, GB1.data[:30], chunk_size=7)
    assert (plan.candidates, plan.stored, plan.to_compute, plan.requests) == (30, 10, 20, None)
    assert plan.residues == 30 * 55


# --- rounds ----------------------------------------------------------------------------------------------------------


def test_rounds_are_replayed() -> None:
    pipeline = make_pipeline(SubstitutionEncoder(REFERENCE), Ridge())
    arguments = {"reference": REFERENCE, "maximize": False, "n_rounds": 3, "n_repeats": 3}
    rounds = simulate_rounds(pipeline, GB1.data, GB1.target, **arguments)
    assert rounds.equals(simulate_rounds(pipeline, GB1.data, GB1.target, **arguments))
    start = rounds[rounds["round"] == 0].pivot(index="repeat", columns="strategy", values="best")
    assert (start["greedy"] == start["random"]).all()
    last = rounds[rounds["round"] == 3].groupby("strategy")[["found", "best"]].mean()
    assert last.loc["greedy", "found"] > last.loc["random", "found"]
    assert (rounds.groupby(["repeat", "strategy"])["best"].diff().dropna() <= 0).all()
    with pytest.raises(ValueError, match="need more than 813 sequences"):
        simulate_rounds(pipeline, GB1.data, GB1.target, reference=REFERENCE, n_rounds=99)


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command(tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [f"{m},{y}\n" for m, y in zip(GB1.mutations[:40], GB1.target[:40], strict=True)]
    (tmp_path / "plate.csv").write_text("mutant,ddg\n" + "".join(rows))
    (tmp_path / "wild_type.fasta").write_text(f">gb1\n{REFERENCE}\n")
    output = tmp_path / "next.csv"
    command = ["propose", str(tmp_path / "plate.csv"), str(output), "--reference", str(tmp_path / "wild_type.fasta")]
    command += ["--offset", "2", "--mutations-column", "mutant", "--target-column", "ddg", "--model"]
    command += [str(tiny_checkpoint), "--memory", str(tmp_path / "store"), "--lower-is-better", "--quiet"]
    assert main([*command, "--positions", "2,3", "--plan"]) == 0
    assert "38 candidates" in capsys.readouterr().out
    assert main([*command, "--positions", "2,3", "-n", "4", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["proposed"], report["candidates"], report["measured"]) == (4, 38, 40)
    first = output.read_bytes()
    assert first.startswith(b"mutations,predicted,score,sequence\n")
    kept = json.loads((tmp_path / "next.csv.json").read_text())
    assert kept == report
    assert REFERENCE not in json.dumps(kept)
    assert not set(GB1.mutations[:40]) & {line.split(b",")[0].decode() for line in first.splitlines()}
    assert main([*command, "--positions", "2,3", "-n", "4"]) == 0
    assert output.read_bytes() == first
    assert main([*command, "--combine", "2", "--strategy", "thompson", "-n", "3"]) == 0
    assert b":" in output.read_bytes()
    capsys.readouterr()
    (tmp_path / "plate.csv").write_text("Mutant,Fitness\n" + "".join(rows))
    guessed = [each for each in command if each not in ("--mutations-column", "mutant", "--target-column", "ddg")]
    assert main([*guessed, "--positions", "2,3", "-n", "4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["columns"] == {"mutation_column": "Mutant", "target_column": "Fitness"}
    assert output.read_bytes() == first
    (tmp_path / "plate.csv").write_text("name,ddg\n" + "".join(rows))
    assert main(guessed) == 1
    assert "Name it: --sequence-column NAME or --mutations-column NAME" in capsys.readouterr().err


def test_the_command_offers_every_strategy(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["propose", "measured.csv", "next.csv", "--reference", "MKT", "--strategy", "none"])
    assert f"(choose from {', '.join(STRATEGIES)})" in capsys.readouterr().err.replace("'", "")
