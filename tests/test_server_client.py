"""Our client against our server, in every dialect: the features of the local backend."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import requests

from skesm import (
    ESM2AttentionSummarizer,
    ESM2ContactSummarizer,
    ESM2Embedder,
    ESM2LogitSummarizer,
    ESM2ResidueEmbedder,
    ESM2VariantScorer,
)
from skesm.backends import LocalBackend
from skesm.backends.biolm import BioLMBackend
from skesm.exceptions import (
    AuthenticationError,
    InvalidAnswerError,
    PartialResultError,
    RequestRejectedError,
)
from skesm.features.variant_scorer import STRATEGIES
from skesm.outputs.kinds import KINDS, POOLINGS
from skesm.outputs.spec import OutputSpec, Record, parse_outputs
from skesm.protocol.dialects import DIALECTS

pytest.importorskip("starlette", reason="needs the extra 'server'")
pytest.importorskip("uvicorn", reason="needs the extra 'server'")

MODEL = "esm2-8m"
TOKEN = "a-token"
USER, PASSWORD = "ada", "a-password"
COMMAND = (sys.executable, "-m", "skesm", "serve")


@contextmanager
def running(folder: Path, *options: str) -> Iterator[str]:
    """A server that has random weights of the 8M shape, under its registered name."""
    environ = {**os.environ, "SKESM_SERVER_TOKENS": TOKEN, "SKESM_SERVER_USERS": f"{USER}:{PASSWORD}"}
    command = [*COMMAND, "--model", f"{MODEL}={folder}", "--port", "0", "--threads", "1", *options]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environ
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def url(checkpoint_8m: Path) -> Iterator[str]:
    with running(checkpoint_8m) as url:
        yield url


def count_requests(url: str, dialect: str, status: int) -> int:
    """Requests to `encode` that were answered so."""
    labels = {f'dialect="{dialect}"', 'action="encode"', f'status="{status}"'}
    counts = re.findall(r"^skesm_requests_total\{(.*)\} (\d+)$", requests.get(f"{url}/metrics", timeout=60).text, re.M)
    return sum(int(count) for found, count in counts if set(found.split(",")) == labels)


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing from the environment of the tests, but this."""
    for name in [name for name in os.environ if name.startswith("BIOLM")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("BIOLM_TOKEN", TOKEN)


@pytest.fixture(scope="module")
def sequences(proteins: list[str]) -> list[str]:
    short = [p[:60] for p in proteins[:20]]
    return [*short, *short[:5], "ACDXBZUO"]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_features_are_those_of_the_local_backend(
    url: str, dialect: str, sequences: list[str], checkpoint_8m: Path
) -> None:
    local = LocalBackend(num_threads=1)
    remote = BioLMBackend(url, dialect=dialect)
    layers = [-1] if dialect == "v1" else [-1, 2]
    poolings = [name for name in POOLINGS if DIALECTS[dialect].carrier(KINDS[name].source_in(None) or name)]
    assert "mean" in poolings
    ours = ESM2Embedder(MODEL, layers=layers, pooling=poolings, backend=remote).transform(sequences)
    expected = ESM2Embedder(str(checkpoint_8m), layers=layers, pooling=poolings, backend=local).transform(sequences)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-6)
    # And to the last bit, since JSON carries every float32 unchanged.
    assert np.array_equal(ours, expected)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_logits_are_those_of_the_local_backend(
    url: str, dialect: str, sequences: list[str], checkpoint_8m: Path
) -> None:
    name = "logit_means" if dialect == "v1" else "logits"
    outputs = parse_outputs([name], 6)
    distinct = list(dict.fromkeys(sequences))

    def records(backend: LocalBackend | BioLMBackend, model: str) -> dict[int, np.ndarray]:
        found = {}
        for batch in backend.run(model, distinct, outputs):
            found |= {i: record[OutputSpec(name)] for i, record in zip(batch.indices, batch.records, strict=True)}
        return found

    ours = records(BioLMBackend(url, dialect=dialect), MODEL)
    expected = records(LocalBackend(num_threads=1), str(checkpoint_8m))
    assert ours.keys() == expected.keys()
    for place, value in expected.items():
        np.testing.assert_allclose(ours[place], value, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_contacts_and_attention_are_those_of_the_local_backend(
    url: str, dialect: str, sequences: list[str], checkpoint_8m: Path
) -> None:
    names = ["mean@6", "contacts"] + ([] if dialect == "v1" else ["attention_received@1", "attention_received@6"])
    outputs = parse_outputs(names, 6)
    distinct = list(dict.fromkeys(sequences))

    def records(backend: LocalBackend | BioLMBackend, model: str) -> dict[int, Record]:
        found: dict[int, Record] = {}
        for batch in backend.run(model, distinct, outputs):
            found |= dict(zip(batch.indices, batch.records, strict=True))
        return found

    ours = records(BioLMBackend(url, dialect=dialect), MODEL)
    expected = records(LocalBackend(num_threads=1), str(checkpoint_8m))
    assert ours.keys() == expected.keys() == set(range(len(distinct)))
    for place, record in expected.items():
        assert ours[place].keys() == record.keys() == set(outputs)
        for output, value in record.items():
            assert np.array_equal(ours[place][output], value), str(output)


def test_features_of_contacts_attention_and_residues_are_those_of_the_local_backend(
    url: str, sequences: list[str], checkpoint_8m: Path
) -> None:
    local, remote = LocalBackend(num_threads=1), BioLMBackend(url, dialect="v3")
    for transformer in (
        ESM2ContactSummarizer(MODEL, statistics=["density_short", "contact_order", "mass_q75"]),
        ESM2AttentionSummarizer(MODEL, statistics=["received_max", "received_entropy"], layers=(2, -1)),
        ESM2ResidueEmbedder(MODEL, outputs=("logits", "attention_received@3", "residues@-1"), positions=[9, 2]),
    ):
        X = sequences if "positions" not in transformer.get_params() else [s for s in sequences if len(s) == 60]
        ours = transformer.set_params(backend=remote).fit_transform(X)
        expected = transformer.set_params(backend=local, model=str(checkpoint_8m)).fit_transform(X)
        np.testing.assert_array_equal(ours, expected)


def test_a_plan_for_attention_counts_the_requests_that_come(url: str) -> None:
    """One length in each request, eight sequences at most."""
    many = ["A" * n + residue for n in (3, 4, 9) for residue in "CDEFGHIKLM"]
    backend, outputs = BioLMBackend(url), [OutputSpec("attention_received", 6)]

    before = count_requests(url, "hub", 200)
    plan = backend.plan(MODEL, many, outputs)
    assert (plan.requests, plan.sequences) == (6, 30)
    assert sum(len(batch.indices) for batch in backend.run(MODEL, many, outputs)) == 30
    assert count_requests(url, "hub", 200) - before == plan.requests


def test_a_server_without_a_contact_head_says_so_at_once(
    checkpoint_8m: Path, without_contact_head: Callable[[Path], Path]
) -> None:
    """A long job is not paid for in pieces: no sequence is the reason."""
    outputs = [OutputSpec("contacts")]
    many = ["A" * n + "W" for n in range(1, 100)]
    with running(without_contact_head(checkpoint_8m)) as url:
        for dialect in ("v2", "v3", "hub"):
            with pytest.raises(RequestRejectedError, match="has no contact head"):
                list(BioLMBackend(url, dialect=dialect).run(MODEL, many, outputs))
        with pytest.raises(InvalidAnswerError, match="contacts is missing"):
            list(BioLMBackend(url, dialect="v1").run(MODEL, many, outputs))
        for dialect in ("v2", "v3", "hub"):
            assert 3 <= count_requests(url, dialect, 400) <= 7  # three in a row, and what was under way


def test_the_client_learns_the_limits_of_the_server(url: str) -> None:
    outputs = [OutputSpec("mean", 6)]
    for dialect in ("v3", "hub"):
        plan = BioLMBackend(url, dialect=dialect).plan(MODEL, ["MKT" * n for n in range(1, 18)], outputs)
        assert (plan.requests, plan.batch_size) == (3, 8)
        refused = BioLMBackend(url, dialect=dialect).plan(MODEL, ["A" * 2049, "MKT"], outputs)
        assert (refused.sequences, refused.refused) == (1, 1)


def test_the_client_works_through_a_queue_that_is_too_small(sequences: list[str], checkpoint_8m: Path) -> None:
    """Two of the client's four requests fit: it comes back when it is told to, and loses nothing."""
    many = [s[i:] for s in sequences[:20] for i in range(2)]
    expected = ESM2Embedder(str(checkpoint_8m), backend=LocalBackend(num_threads=1)).transform(many)
    with running(checkpoint_8m, "--queue", "700") as url:
        features = ESM2Embedder(MODEL, backend=BioLMBackend(url, dialect="v3")).transform(many)
        metrics = requests.get(f"{url}/metrics", timeout=60).text
    assert np.array_equal(features, expected)
    assert 'status="429"' in metrics


def test_login_with_user_and_password(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BIOLM_TOKEN")
    monkeypatch.setenv("BIOLM_USER", USER)
    monkeypatch.setenv("BIOLM_PASS", PASSWORD)
    summaries = ESM2LogitSummarizer(MODEL, backend=BioLMBackend(url, dialect="v1")).transform(["MKT", "MKTAYIAK"])
    assert summaries.shape == (2, 2)
    monkeypatch.setenv("BIOLM_PASS", "wrong")
    with pytest.raises(AuthenticationError, match="refused the login"):
        ESM2LogitSummarizer(MODEL, backend=BioLMBackend(url, dialect="v1")).transform(["MKT"])


def test_a_refused_cookie_is_refreshed(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    body = {"username": USER, "password": PASSWORD}
    issued = requests.post(f"{url}/api/auth/token/", json=body, timeout=60).json()
    monkeypatch.delenv("BIOLM_TOKEN")
    monkeypatch.setenv("BIOLM_ACCESS", "too-old")
    monkeypatch.setenv("BIOLM_REFRESH", issued["refresh"])
    assert ESM2Embedder(MODEL, backend=BioLMBackend(url, dialect="v1")).transform(["MKT"]).shape == (1, 320)


def test_a_wrong_token_is_an_error_that_says_so(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIOLM_TOKEN", "wrong")
    with pytest.raises(AuthenticationError, match="BIOLM_TOKEN"):
        ESM2Embedder(MODEL, backend=BioLMBackend(url, dialect="v3")).transform(["MKT"])


@pytest.mark.parametrize("dialect", ["v1", "v3", "hub"])
def test_what_the_server_refuses_is_isolated(url: str, dialect: str) -> None:
    """A sequence too long for the server, found out only by asking it in v1."""
    backend = BioLMBackend(url, dialect=dialect)
    batches = backend.run(MODEL, ["MKT", "A" * 2049, "MKTAYIAK"], [OutputSpec("mean", 6)])
    done: set[int] = set()

    def take_all() -> None:
        for batch in batches:
            done.update(batch.indices)

    with pytest.raises(PartialResultError) as failed:
        take_all()
    assert failed.value.rows == (1,)
    assert done == {0, 2}


def test_derived_outputs_work_remotely_too(url: str, checkpoint_8m: Path) -> None:
    """A remote service answers residues and logits; what compares with a reference is made of them here."""
    reference, variants = "MKTAYIAKQR", ["MKTWYIAKQR", "AKTAYIAKQG", "MKTAYIAKQR"]
    remote, local = BioLMBackend(url), LocalBackend(num_threads=1)
    embedder = ESM2Embedder(MODEL, pooling=("mean", "mutated"), reference=reference, backend=remote)
    expected = ESM2Embedder(checkpoint_8m, pooling=("mean", "mutated"), reference=reference, backend=local)
    np.testing.assert_allclose(embedder.transform(variants), expected.transform(variants), rtol=0, atol=1e-6)
    scorer = ESM2VariantScorer(MODEL, reference=reference, backend=remote)
    for strategy in STRATEGIES:
        known = ESM2VariantScorer(checkpoint_8m, strategy=strategy, reference=reference, backend=local)
        scores = scorer.set_params(strategy=strategy).predict(variants)
        np.testing.assert_allclose(scores, known.predict(variants), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dialect", ["v2", "v3", "hub"])
def test_masked_passes_are_those_of_the_local_backend(url: str, dialect: str, checkpoint_8m: Path) -> None:
    sequences = ["MKTAYIAKQR", "GSHMSLF<mask>FFK"]
    summarizer = ESM2LogitSummarizer(MODEL, statistics=["pseudo_perplexity", "entropy_mean"])
    ours = summarizer.set_params(backend=BioLMBackend(url, dialect=dialect)).transform(sequences)
    local = LocalBackend(num_threads=1)
    expected = summarizer.set_params(backend=local, model=str(checkpoint_8m)).transform(sequences)
    np.testing.assert_allclose(ours, expected, rtol=1e-6)
