"""What crosses the BioLM client's borders: answers, credentials, redirects, masks. Real HTTP."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import textwrap
import threading
import traceback
from pathlib import Path

import numpy as np
import pytest
from biolm_service import DIALECTS, MEAN, MODEL, WIDTH, FastBackend, assert_right, collect, make_sequences
from faulty_server import expected
from urllib3.connection import HTTPConnection

from skesm import ESM2AttentionSummarizer, ESM2LogitSummarizer, ESM2VariantScorer
from skesm.backends import BioLMBackend
from skesm.backends.biolm.auth import Auth
from skesm.backends.biolm.throttle import Timing
from skesm.exceptions import (
    AuthenticationError,
    BackendError,
    InvalidAnswerError,
    PartialResultError,
    RateLimitError,
    RequestRejectedError,
    ServiceUnavailableError,
)
from skesm.features.variant_scorer import STRATEGIES
from skesm.outputs.spec import OutputSpec

LOGITS = OutputSpec("logits")


# ------------------------------------------------------------------------------------------------ the size of answers

CHILD = """
    import sys
    from skesm.outputs.spec import OutputSpec
    from skesm.backends.biolm import BioLMBackend
    from skesm.exceptions import BackendError

    backend = BioLMBackend(sys.argv[1], dialect=sys.argv[2], timeout=60)
    try:
        list(backend.run("esm2-8m", ["MKTAYIAK"], [OutputSpec("mean", 6)]))
    except BackendError as error:
        print(type(error).__name__, error)
    # not of `resource`: there a new program begins with the peak of the process that started it
    print(next(int(line.split()[1]) // 1024 for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.parametrize("dialect", ["v1", "v3", "hub"])
@pytest.mark.parametrize("attack", [{"bomb": 1024}, {"endless": 1024}])
def test_an_answer_is_read_no_further_than_what_was_asked_for(service, dialect, attack):
    service.script({"do": attack, "times": 99})
    child = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CHILD), service.url, dialect],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    error, megabytes = child.stdout.splitlines()
    assert error.startswith("InvalidAnswerError the answer is too large for this request")
    assert int(megabytes) < 400  # the interpreter and its libraries are most of it
    assert len(service.posts) == 1


@pytest.mark.parametrize("attack", [{"bomb": 1024}, {"endless": 1024}])
def test_a_schema_without_end_is_no_schema(service, attack):
    service.script({"when": {"method": "GET"}, "do": attack})
    records, error = collect(FastBackend(service.url), make_sequences(3))
    assert error is None
    assert len(records) == 3


def test_the_largest_answers_fit():
    """Numbers of 24 characters, indented: more than any service writes."""
    from skesm.esm2.spec import find_registered
    from skesm.protocol.wire import bytes_per_answer

    spec = find_registered(MODEL)
    value = [[-1.2345678901234567e-100] * spec.width] * 70
    body = {"results": [{"residue_embeddings": [{"layer": 6, "embeddings": value}]}] * 2}
    bound = bytes_per_answer("hub", spec, [OutputSpec("residues", 6)], [70, 70])
    assert len(json.dumps(body, indent=1)) < bound < 4 * len(json.dumps(body))


# ------------------------------------------------------------------------------------------------ values


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("fault", ["number_as_text", "true", "huge", "twins"])
def test_what_is_no_number_or_another_sequences_vector_is_refused(service, dialect, fault):
    service.script({"do": {"mutate": fault}, "times": 99})
    records, error = collect(FastBackend(service.url, dialect=dialect), make_sequences(4))
    assert records == {}
    assert isinstance(error, InvalidAnswerError)
    assert len(service.posts) == 1


def test_the_same_vector_may_be_right(service):
    """The embedding layer may be the same, and letters that are no single amino acid may be read as one."""
    from skesm.esm2.spec import find_registered
    from skesm.protocol.answers import decode_answer

    spec = find_registered(MODEL)
    result = {"embeddings": [{"layer": layer, "embedding": [0.5] * WIDTH} for layer in (0, 6)]}
    for layer, sequences, good in [(0, ["MK", "KM"], True), (6, ["MX", "MB"], True), (6, ["MK", "KM"], False)]:
        arguments = ("v3", {"results": [result, result]}, [2, 2], [OutputSpec("mean", layer)], spec, sequences)
        if good:
            assert len(decode_answer(*arguments)) == 2
        else:
            with pytest.raises(InvalidAnswerError, match="the same for different sequences"):
                decode_answer(*arguments)


# ------------------------------------------------------------------------------------------------ credentials

SECRET = "s3cr3t-vAlue"
BAD = {
    "quote": f"{SECRET}\u201d",
    "newline": f"{SECRET}\nX-Other: 1",
    "control": f"{SECRET}\x07b",
    "delete": f"{SECRET}\x7fb",
}
VARIABLES = (
    "BIOLM_TOKEN",
    "BIOLMAI_TOKEN",
    "BIOLM_ACCESS",
    "BIOLM_REFRESH",
    "BIOLM_USER",
    "BIOLM_PASS",
    "BIOLM_PASSWORD",
)


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("name", VARIABLES)
def test_a_credential_that_cannot_be_sent_is_named_and_not_shown(service, monkeypatch, name, kind):
    monkeypatch.setenv("BIOLM_USER", "ada")
    monkeypatch.setenv(name, BAD[kind])
    if kind == "quote" and name in ("BIOLM_USER", "BIOLM_PASS", "BIOLM_PASSWORD"):
        Auth.find(service.url)  # these go into JSON, which carries every letter
        return
    with pytest.raises(AuthenticationError, match=f"^{name} cannot be sent") as caught:
        list(FastBackend(service.url).run(MODEL, ["MKT"], [MEAN]))
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value) + repr(caught.value.args)
    assert SECRET not in shown
    assert service.log == []


@pytest.mark.parametrize("key", ["access", "refresh"])
def test_the_credential_file_is_checked_too(service, tmp_path, key):
    content = {"access": "a", "refresh": "r", "token_url": f"{service.url}/oauth/token", key: f"{SECRET}\u2028"}
    (tmp_path / ".biolm").mkdir()
    (tmp_path / ".biolm" / "credentials").write_text(json.dumps(content))
    with pytest.raises(AuthenticationError, match=f"^{key} in .*credentials cannot be sent") as caught:
        list(FastBackend(service.url).run(MODEL, ["MKT"], [MEAN]))
    assert SECRET not in str(caught.value)
    assert service.log == []


def test_a_token_that_the_service_gives_is_checked_too(service, monkeypatch):
    monkeypatch.setenv("BIOLM_USER", "ada")
    monkeypatch.setenv("BIOLM_PASS", "lovelace")
    service.script(access="never", next_access=f"{SECRET}\u201c", login=["ada", "lovelace"])
    _, error = collect(FastBackend(service.url), ["MKT"])
    assert isinstance(error, AuthenticationError)
    assert "that the service gave" in str(error)
    assert SECRET not in "".join(traceback.format_exception(error))


@pytest.mark.parametrize("status", [500, 502, 503, 504, 520])
def test_a_login_service_that_is_down_has_refused_nothing(service, monkeypatch, status):
    monkeypatch.setenv("BIOLM_ACCESS", "expired")
    monkeypatch.setenv("BIOLM_REFRESH", "refresh-1")
    service.script(access="never", login_status=status)
    _, error = collect(FastBackend(service.url, max_attempts=2), ["MKT"])
    assert isinstance(error, ServiceUnavailableError)
    assert f"the login service fails (status {status})" in str(error)


def test_a_missing_certificate_file_is_named(monkeypatch, tmp_path):
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    for name in ("CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):
        for path in (tmp_path / "absent.pem", Path(__file__)):
            monkeypatch.setenv(name, str(path))
            with pytest.raises(ValueError, match=f"{name} names .*{path.name}"):
                BioLMBackend("https://127.0.0.1:9").plan(MODEL, ["MKT"], [MEAN])


# ------------------------------------------------------------------------------------------------ never paid twice


@pytest.mark.parametrize(
    "fault", [{"status": 502}, {"status": 500}, {"status": 404}, {"reset": True}, {"raw": "<html>"}]
)
def test_what_the_service_took_is_never_posted_again(service, fault):
    """Three batches, of which the answer of the first cannot be fetched."""
    service.script(
        {"do": {"poll": 1}},
        {"when": {"method": "GET", "path": "_result"}, "do": fault, "times": 99},
        schema_max_items=2,
    )
    sequences = make_sequences(6)
    records, error = collect(FastBackend(service.url, max_attempts=3), sequences)
    assert isinstance(error, PartialResultError)
    assert len(error.rows) == 2
    assert "is not sent twice" in str(error)
    assert sorted([*records, *error.rows]) == list(range(6))
    assert_right(records, sequences)
    bodies = [event["body"] for event in service.posts]
    assert len(bodies) == len(set(bodies)) == 3


def test_an_answer_that_is_never_ready_is_not_asked_for_again(service):
    class Impatient(FastBackend):
        _timing = Timing(backoff_base=0.01, poll_interval=0.01, answer_deadline=0.3)

    service.script({"do": {"poll": 10**6}})
    _, error = collect(Impatient(service.url), make_sequences(3))
    assert isinstance(error, ServiceUnavailableError)
    assert len(service.posts) == 1


def test_credentials_that_expire_while_an_answer_is_polled_for_are_refreshed(service, monkeypatch):
    monkeypatch.setenv("BIOLM_ACCESS", "good")
    monkeypatch.setenv("BIOLM_REFRESH", "refresh-1")
    service.script(
        {"do": {"poll": 2}}, {"when": {"method": "GET", "path": "_result"}, "do": {"status": 401}},
        access="good", refresh="refresh-1", next_access="new",
    )  # fmt: skip
    records, error = collect(FastBackend(service.url), make_sequences(3))
    assert error is None
    assert len(records) == 3
    assert len(service.posts) == 1


def test_a_service_whose_answers_can_never_be_fetched_is_not_paid_on(service):
    service.script(
        {"do": {"poll": 1}, "times": 999},
        {"when": {"method": "GET", "path": "_result"}, "do": {"status": 502}, "times": 999},
        schema_max_items=1,
    )
    _, error = collect(FastBackend(service.url, max_attempts=2), make_sequences(100))
    assert isinstance(error, ServiceUnavailableError)
    assert len(service.posts) <= 7  # three in a row, and what was under way


def test_a_circle_of_redirects_costs_one_request(service):
    service.script({"do": {"status": 307, "headers": {"Location": "/api/v1/esm2-8m/encode"}}, "times": 99})
    _, error = collect(FastBackend(service.url), make_sequences(100))
    assert isinstance(error, RequestRejectedError)
    assert "circle" in str(error)
    assert len(service.posts) == 1


def test_being_turned_away_without_end_is_a_rate_limit(service):
    service.script({"do": {"status": 429}, "times": 9999}, schema_max_items=1)
    _, error = collect(FastBackend(service.url, max_attempts=50), make_sequences(100))
    assert isinstance(error, RateLimitError)
    assert isinstance(pickle.loads(pickle.dumps(error)), RateLimitError)


def test_waits_end_where_urllib3_has_no_private_hook(service, monkeypatch):
    """A later urllib3 may connect in another way."""
    import socket

    def connect(self):
        self.sock = socket.create_connection((self.host, self.port), timeout=5)

    monkeypatch.setattr(HTTPConnection, "connect", connect)
    monkeypatch.setattr(HTTPConnection, "_new_conn", None)
    records, error = collect(FastBackend(service.url), make_sequences(20))
    assert error is None
    assert len(records) == 20
    service.script({"do": {}}, {"do": {"gate": True}, "times": 99}, schema_max_items=1)
    batches = FastBackend(service.url, max_concurrency=2).run(MODEL, make_sequences(20), [MEAN])
    next(batches)
    service.wait_for_posts(2)
    batches.close()  # ends the wait of the other worker, which the gate holds
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("skesm-biolm")]


# ------------------------------------------------------------------------------------------------ masks and defaults


@pytest.mark.parametrize("dialect", ["v2", "v3", "hub"])
def test_masked_sequences_go_to_predict(service, dialect):
    sequences = ["MKTAYIAK", "MK<mask>AYIAK", "<mask>" * 3, "MKTAYI<mask>K", "A<mask>-"]
    backend = FastBackend(service.url, dialect=dialect)
    plan = backend.plan(MODEL, sequences, [LOGITS])
    assert (plan.requests, plan.sequences, plan.residues, plan.refused) == (2, 4, 8 + 8 + 3 + 8, 1)
    records, error = collect(backend, sequences, [LOGITS])
    assert isinstance(error, PartialResultError)
    assert error.rows == (4,)
    for place, record in records.items():
        np.testing.assert_array_equal(record[LOGITS], expected(sequences[place], "logits", None, WIDTH))
    assert [(e["path"].strip("/").rpartition("/")[2], e["items"]) for e in service.posts] == [
        ("encode", 1),
        ("predict", 3),
    ]


def test_masked_answers_for_another_sequence_are_refused(service):
    """They repeat the tokens, so that another order can be seen."""
    service.script({"do": {"mutate": "reorder"}, "times": 9})
    records, error = collect(FastBackend(service.url, dialect="v3"), ["M<mask>T", "<mask>KT"], [LOGITS])
    assert records == {}
    assert isinstance(error, InvalidAnswerError)
    assert "another sequence" in str(error)


@pytest.mark.parametrize("dialect", ["v3", "hub"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_variants_are_scored_remotely(service, dialect, strategy):
    reference = "MKTAYIAKQR"
    variants = ["MKTWYIAKQR", "MKTAYIAKQA", "AKTAYIAKQR"]
    backend = FastBackend(service.url, dialect=dialect)
    scores = ESM2VariantScorer(MODEL, reference=reference, strategy=strategy, backend=backend).predict(variants)
    assert np.isfinite(scores).all()
    if strategy == "masked_marginal":
        assert [event["items"] for event in service.posts] == [3]  # one request for all copies
        table = expected("<mask>KTAYIAKQR", "logits", None, WIDTH)[0].astype(np.float64)
        letters = "LAGVSERTIDPKQNFYMHWC"
        assert scores[2] == table[letters.index("A")] - table[letters.index("M")]


def test_pseudo_perplexity_works_remotely(service):
    summarizer = ESM2LogitSummarizer(MODEL, statistics="pseudo_perplexity", backend=FastBackend(service.url))
    assert np.isfinite(summarizer.transform(["MKTAYIAK"])).all()
    assert [event["items"] for event in service.posts] == [8]


@pytest.mark.parametrize(
    ("estimator", "dialects", "setting"),
    [
        (ESM2LogitSummarizer(MODEL), ("v2", "v3", "hub"), "entropy_mean"),
        (ESM2AttentionSummarizer(MODEL), ("v2", "v3", "hub"), "received_max"),
        (ESM2AttentionSummarizer(MODEL), ("v1",), "dialect='v3'"),
        (ESM2LogitSummarizer(MODEL, statistics="pseudo_perplexity"), ("v1",), "dialect='v3'"),
        (ESM2VariantScorer(MODEL, reference="MKTAYIAK"), ("v1",), "dialect='v3'"),
    ],
)  # fmt: skip
def test_defaults_that_cannot_work_name_the_setting_that_does(service, estimator, dialects, setting):
    use = getattr(estimator, "transform", None) or estimator.predict
    for dialect in dialects:
        estimator.set_params(backend=FastBackend(service.url, dialect=dialect))
        with pytest.raises(ValueError, match=setting):
            use(["MKTWYIAK"])
    assert service.log == []


def test_the_settings_that_errors_name_do_work(service):
    backend = FastBackend(service.url, dialect="v3")
    for estimator in (
        ESM2LogitSummarizer(MODEL, statistics=("entropy_mean", "log_likelihood_mean"), backend=backend),
        ESM2AttentionSummarizer(MODEL, statistics=("received_max", "received_entropy"), backend=backend),
    ):
        assert estimator.transform(["MKTAYIAK", "MKT"]).shape == (2, 2)


def test_a_mask_where_it_cannot_be_is_refused_before_sending(service):
    for dialect, why in [("v1", "dialect='v3'"), ("hub", "local backend")]:
        records, error = collect(FastBackend(service.url, dialect=dialect), ["M<mask>T"])
        assert records == {}
        assert isinstance(error, BackendError)
        assert why in str(error)
    assert service.posts == []
