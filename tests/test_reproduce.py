"""Published figures beside ours, and ProteinGym's window."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from skesm import ESM2VariantScorer, apply_mutations, compute_outputs
from skesm.cli import main
from skesm.datasets import fetch_proteingym, load_gb1_stability
from skesm.exceptions import DatasetError
from skesm.features.common.masked import optimal_window
from skesm.reproduce import PUBLISHED, reproduce
from skesm.reproduce._published import find_published, of_table
from skesm.sequences.alphabet import AMINO_ACIDS

GB1 = load_gb1_stability()


def test_the_window_is_proteingyms() -> None:
    """Its rule as its repository states it, for residues: in the first half, in the last half, or around."""
    for length, size in ((10, 4), (11, 4), (9, 5), (1500, 1022), (5, 8)):
        for position in range(length):
            half = size // 2
            if length <= size:
                expected = (0, length)
            elif position < half:
                expected = (0, size)
            elif position >= length - half:
                expected = (length - size, length)
            else:
                expected = (position - half, position - half + size)
            assert optimal_window(position, length, size) == expected


def test_scores_in_windows_are_those_of_the_windows(tiny_checkpoint: Path) -> None:
    reference = "MKTAYIAKQRLLEDVG"
    names = ["K2R", "I6V:R10A", "G16A"]
    scorer = ESM2VariantScorer(tiny_checkpoint, reference=reference, long_sequences="optimal", max_length=8)
    found = scorer.predict(apply_mutations(reference, names))
    single: dict[str, float] = {}
    for name in {mutation for row in names for mutation in row.split(":")}:
        position = int(name[1:-1]) - 1
        begin, end = optimal_window(position, len(reference), 8)
        masked = reference[begin:position] + "<mask>" + reference[position + 1 : end]
        logits = compute_outputs([masked], "logits", tiny_checkpoint)[0]["logits"][position - begin].astype(np.float64)
        single[name] = logits[AMINO_ACIDS.index(name[-1])] - logits[AMINO_ACIDS.index(name[0])]
    np.testing.assert_allclose(found, [sum(single[m] for m in row.split(":")) for row in names], atol=1e-6)
    assert scorer.cache_info().computed == 4
    whole = ESM2VariantScorer(tiny_checkpoint, reference=reference).predict(apply_mutations(reference, names))
    assert not np.allclose(found, whole)
    wide = scorer.set_params(max_length=16).predict(apply_mutations(reference, names))
    np.testing.assert_array_equal(wide, whole)


@pytest.mark.parametrize("parameters", [{"strategy": "wt_marginal"}, {"max_length": None}], ids=repr)
def test_windows_are_for_masked_marginals(tiny_checkpoint: Path, parameters: dict[str, object]) -> None:
    scorer = ESM2VariantScorer(tiny_checkpoint, reference="MKT", long_sequences="optimal").set_params(**parameters)
    with pytest.raises(ValueError, match="'optimal' needs strategy='masked_marginal' and a max_length"):
        scorer.predict(["MRT"])


@pytest.fixture
def assays(tmp_path: Path) -> Path:
    """A folder in ProteinGym's form, with GB1 as its assay; a higher score is fitter there."""
    folder = tmp_path / "assays"
    folder.mkdir()
    columns = {"DMS_id": "GB1_TOY", "DMS_filename": "GB1_TOY.csv", "target_seq": GB1.wild_type}
    rows = [
        [f"{m[0]}{int(m[1:-1]) - 1}{m[-1]}", s, -y, int(y < 0)]
        for m, s, y in zip(GB1.mutations[:60], GB1.data[:60], GB1.target[:60].tolist(), strict=True)
    ]
    for name, head, body in (
        ("DMS_substitutions.csv", list(columns), [list(columns.values())]),
        ("GB1_TOY.csv", ["mutant", "mutated_sequence", "DMS_score", "DMS_score_bin"], rows),
    ):
        with (folder / name).open("w", newline="") as file:
            csv.writer(file).writerows([head, *body])
    return folder


def test_reproduce_a_folder(assays: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    result = reproduce("GB1_TOY", model=tiny_checkpoint, folder=assays, memory=str(tmp_path / "store"))
    found = fetch_proteingym("GB1_TOY", folder=assays)
    scores = ESM2VariantScorer(tiny_checkpoint, reference=found.wild_type).predict(found.data)
    assert result.ours == pytest.approx(spearmanr(scores, found.target).statistic)
    assert (result.n_rows, result.published, result.difference) == (60, None, None)
    assert set(result.data) == {"DMS_substitutions.csv", "GB1_TOY.csv"}
    assert result.passes == len({m[:-1] for m in found.mutations})
    again = reproduce("GB1_TOY", model=tiny_checkpoint, folder=assays, memory=str(tmp_path / "store"))
    assert (again.ours, again.passes) == (result.ours, 0)
    assert "published   none for this model" in result.to_text()
    assert json.loads(result.write(tmp_path / "x" / "result.json").read_text())["ours"] == result.ours


def test_published_figures_beside_ours(assays: Path, tiny_checkpoint: Path) -> None:
    row = find_published("GFP_AEQVI_Sarkisyan_2016", "esm2-650m")
    assert row is not None
    assert (row.value, row.metric, len(PUBLISHED)) == (0.108, "Spearman", 13)
    table = {"X": {"DMS ID": "X", "ESM2 (3B)": "0.5", "ESM2 (8M)": ""}}
    fetched = of_table("X", "esm2_t36_3B_UR50D", table)
    assert fetched is not None
    assert fetched.value == 0.5
    assert of_table("X", "esm2-8m", table) is None
    assert of_table("X", "skesm-mini", table) is None


def test_the_command(
    assays: Path,
    tiny_checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["reproduce", "GB1_TOY", "--folder", str(assays), "--model", f"{tiny_checkpoint},{tiny_checkpoint}"]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert out.count("GB1_TOY, ") == 2
    assert "wrote GB1_TOY.json" in out
    first, second = json.loads((tmp_path / "GB1_TOY.json").read_text())
    assert first["ours"] == second["ours"]
    assert main(["reproduce", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == len(PUBLISHED)
    assert main(["reproduce", "BLAT_ECOLX_Stiffler_2015", "--offline", "--data-home", str(tmp_path / "none")]) == 1
    assert "curl --fail" in capsys.readouterr().err


def test_the_tutorial(tiny_checkpoint: Path) -> None:
    result = reproduce("biolm-tutorial", model=tiny_checkpoint)
    assert (result.metric, result.n_rows, result.passes) == ("RMSE", 40, 40)
    assert 0.3 < result.ours < 2
    assert "not known" in result.notes[0]


def test_an_unreadable_folder(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="cannot be read"):
        reproduce("GB1_TOY", folder=tmp_path)


@pytest.mark.network
@pytest.mark.parametrize("row", [row for row in PUBLISHED if row.assay.startswith("BLAT")], ids=lambda row: row.model)
def test_the_published_figures(row, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    result = reproduce(row.assay, model=row.model, memory=str(tmp_path))
    assert result.difference == pytest.approx(0, abs=0.002)
