"""Parts of the server that need no socket."""

from __future__ import annotations

import json
import logging
import pickle
import re
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skesm.backends import LocalBackend
from skesm.esm2.spec import find_registered
from skesm.outputs.spec import OutputSpec
from skesm.protocol.dialects import DIALECTS
from skesm.sequences.clean import _MISSING_TEXTS, find_problems
from skesm.server import Gatekeeper, Limits, ServerConfig
from skesm.server.api.refusals import Refusal
from skesm.server.api.requests import Ask, read_ask
from skesm.server.config import ServedModel, is_loopback
from skesm.server.describe.requests import sequence_schema
from skesm.server.logs import FIELDS, JsonLines, NoFlood
from skesm.server.work.metrics import Counter, Histogram

pytest.importorskip("orjson", reason="needs the extra 'server'")


def test_to_json_gives_every_float32_back() -> None:
    from skesm.server.api.answers import to_json

    rng = np.random.default_rng(0)
    bits = rng.integers(0, 1 << 32, 100_000, dtype=np.uint64).astype(np.uint32)
    numbers = bits.view(np.float32)
    numbers = np.concatenate([numbers[np.isfinite(numbers)], np.array([0, -0.0, 1e-45, 3.4e38], np.float32)])
    back = np.array(json.loads(to_json(numbers)), dtype=np.float64).astype(np.float32)
    assert np.array_equal(back.view(np.uint32), numbers.view(np.uint32))
    across = numbers[:10].reshape(2, 5).T  # rows that do not lie end to end
    assert np.array_equal(np.array(json.loads(to_json(across))).astype(np.float32), across)


# ------------------------------------------------------------------------------------------------------ requests


def model_of(name: str, *, contacts: bool = True) -> ServedModel:
    spec = find_registered(name)
    assert spec is not None
    return ServedModel(name, spec, contacts)


def read(dialect: str, action: str, body: Any, model: ServedModel, limits: Limits | None = None) -> Ask:
    return read_ask(DIALECTS[dialect], action, json.dumps(body).encode(), model, limits or Limits())


def test_an_answer_that_is_too_large_is_refused() -> None:
    model = model_of("esm2-650m")
    item = {"sequence": "A" * 2048}
    most = {"items": [item] * 8, "params": {"include": ["per_residue"]}}
    # As documented, a full batch is fine.
    assert read("v3", "encode", most, model).values == 8 * 2048 * 1280
    body = {"items": [item] * 8, "params": {"include": ["per_residue"], "repr_layers": [32, 33]}}
    with pytest.raises(Refusal) as refused:
        read("v3", "encode", body, model)
    assert refused.value.status == 413


@pytest.mark.parametrize("contacts", [True, False])
def test_maps_count_in_the_size_of_an_answer(contacts: bool) -> None:
    model = model_of("esm2-650m", contacts=contacts)
    ask = read("v1", "encode", {"instances": [{"data": {"text": "A" * 100}}] * 2}, model)
    assert ask.values == 2 * (1280 + 100 + 33 * 100 + contacts * 100 * 100)
    assert (OutputSpec("contacts") in ask.outputs) == contacts
    items = {"items": [{"sequence": "A" * 2048}] * 8}
    attentions = {**items, "params": {"include": ["attentions"], "repr_layers": [5]}}
    assert read("hub", "encode", attentions, model).values == 8 * 33 * 2048
    with pytest.raises(Refusal) as refused:  # refused if there is no contact head, and also if there is too much
        read("hub", "encode", {**items, "params": {"include": ["contacts"]}}, model)
    assert refused.value.status == (413 if contacts else 400)


def test_the_largest_allowed_body_fits() -> None:
    limits = Limits(max_items=100, max_length=5000)
    body = {"items": [{"sequence": "<mask>" * 5000}] * 100}
    assert len(json.dumps(body)) <= limits.max_body
    ask = read("hub", "predict", body, model_of("esm2-8m"), limits)
    assert ask.residues == 500_000
    assert ask.outputs == (OutputSpec("logits"),)


@pytest.mark.parametrize("text", sorted(_MISSING_TEXTS))
@pytest.mark.parametrize("spell", [str, str.upper, str.capitalize])
def test_a_missing_value_is_refused_as_a_transform_refuses_it(text: str, spell: Callable[[str], str]) -> None:
    sequence = spell(text)
    refused = bool(find_problems([sequence, "MKT"]))
    body = {"items": [{"sequence": sequence}, {"sequence": "MKT"}]}
    with pytest.raises(Refusal) if refused else nullcontext() as refusal:
        read("hub", "encode", body, model_of("esm2-8m"))
    if refusal is not None:
        assert sequence not in str(refusal.value.body)
        assert refusal.value.body["detail"][0]["loc"] == ["body", "items", 0, "sequence"]
    pattern = sequence_schema("encode", Limits())["pattern"]
    assert (re.search(pattern, sequence) is None) == refused


# ------------------------------------------------------------------------------------------------------ configuration


def test_a_folder_can_have_a_registered_name_if_it_has_its_shape(tiny_checkpoint: Path, checkpoint_8m: Path) -> None:
    (model,) = ServerConfig((f"esm2-8m={checkpoint_8m}",)).find_models()
    assert model.names == {"esm2-8m", "esm2_t6_8m_ur50d"}
    assert model.spec.name == "esm2_t6_8M_UR50D"
    with pytest.raises(ValueError, match="does not have the shape of esm2_t6_8M_UR50D"):
        ServerConfig((f"esm2-8m={tiny_checkpoint}",)).find_models()


def test_a_folder_is_called_by_its_last_part(tiny_checkpoint: Path) -> None:
    (model,) = ServerConfig((f"{tiny_checkpoint}/",)).find_models()
    assert model.spec.name == tiny_checkpoint.name


@pytest.mark.parametrize(
    ("models", "problem"),
    [
        (("a={}", "A={}"), "same name"),
        (("a={}", "b={}", "c={}"), "3 models"),
        ((), "0 models"),
        (("a/b={}",), "path"),
        (("={}",), "path"),
    ],
)
def test_impossible_models(tiny_checkpoint: Path, models: tuple[str, ...], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        ServerConfig(tuple(m.format(tiny_checkpoint) for m in models)).find_models()


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("127.1.2.3", True), ("::1", True), ("0.0.0.0", False), ("::", False), ("", False)],
)
def test_is_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


# ------------------------------------------------------------------------------------------------------ credentials


def test_credentials_of_the_environment() -> None:
    keeper = Gatekeeper.from_environment({"SKESM_SERVER_TOKENS": " one\ntwo ", "SKESM_SERVER_USERS": "ada:pass:word"})
    assert keeper.required
    assert keeper.admits("Token two", None)
    assert keeper.admits("token one", None)
    assert not keeper.admits("Token one two", None)
    assert not keeper.admits("Token ", None)
    assert keeper.log_in("ada", "pass:word") is not None
    assert keeper.log_in("ada", "pass") is None
    assert not Gatekeeper.from_environment({}).required


@pytest.mark.parametrize("variable", ["SKESM_SERVER_TOKENS", "SKESM_SERVER_USERS"])
def test_an_empty_variable_is_not_taken_for_no_protection(variable: str) -> None:
    with pytest.raises(ValueError, match=f"{variable} is set but empty"):
        Gatekeeper.from_environment({variable: " "})


@pytest.mark.parametrize("pair", ["secretword", ":secretword", "secretword:"])
def test_a_user_needs_a_password(pair: str) -> None:
    with pytest.raises(ValueError, match="not user:password") as refused:
        Gatekeeper.from_environment({"SKESM_SERVER_USERS": pair})
    assert "secretword" not in str(refused.value)


def test_logins_end() -> None:
    now = [1000.0]
    keeper = Gatekeeper(users={"ada": "word"}, clock=lambda: now[0])
    issued = keeper.log_in("ada", "word")
    assert issued is not None
    access, refresh = issued
    now[0] += 3599
    assert keeper.admits(None, access)
    now[0] += 1
    assert not keeper.admits(None, access)
    renewed = keeper.refresh(refresh)
    assert renewed is not None
    assert keeper.admits(None, renewed)
    now[0] += 7 * 86400
    assert keeper.refresh(refresh) is None


def test_logins_of_another_server_are_not_valid() -> None:
    ours, theirs = (Gatekeeper(users={"ada": "word"}) for _ in range(2))
    issued = theirs.log_in("ada", "word")
    assert issued is not None
    assert theirs.admits(None, issued[0])
    assert not ours.admits(None, issued[0])
    assert not ours.admits(None, issued[0].replace("access.1", "access.9"))


def test_a_gatekeeper_shows_nothing() -> None:
    keeper = Gatekeeper(["secret-token"], {"ada": "secret-word"})
    config = ServerConfig(gatekeeper=keeper, backend=LocalBackend())
    assert "secret" not in repr(keeper) + repr(config) + repr(vars(keeper))
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(keeper)


# ------------------------------------------------------------------------------------------------------ what is told


def test_a_log_line_tells_an_exception_without_its_message() -> None:
    try:
        try:
            int("SECRETSEQ")
        except ValueError as error:
            raise RuntimeError("about SECRETSEQ") from error
    except RuntimeError:
        record = logging.LogRecord("skesm", logging.ERROR, __file__, 1, "it %s", ("failed",), sys.exc_info())
    record.__dict__[FIELDS] = {"tokens": 5}
    text = JsonLines().format(record)
    line = json.loads(text)
    assert "SECRETSEQ" not in text
    assert (line["message"], line["level"], line["tokens"]) == ("it failed", "error", 5)
    assert (line["exception"]["type"], line["exception"]["causes"]) == ("RuntimeError", ["ValueError"])
    assert "test_a_log_line" in line["exception"]["frames"][0]
    assert "\n" not in text


def test_metrics_text() -> None:
    counter = Counter("c", "Help.")
    counter.add(status="200")
    counter.add(2, status="200")
    assert counter.lines()[2:] == ['c{status="200"} 3']
    histogram = Histogram("h", "Help.", (1, 2))
    for value in (0.5, 1, 1.5, 9):
        histogram.observe(value)
    assert histogram.lines()[2:] == [
        'h_bucket{le="1"} 2',
        'h_bucket{le="2"} 3',
        'h_bucket{le="+Inf"} 4',
        "h_sum 12",
        "h_count 4",
    ]


def test_large_counts_are_exact() -> None:
    counter = Counter("c", "Help.")
    counter.add(123_456_789)
    assert counter.lines()[2:] == ["c 123456789"]


def test_a_key_of_the_environment_signs_logins() -> None:
    environ = {"SKESM_SERVER_USERS": "ada:word", "SKESM_SERVER_KEY": "k" * 32}
    ours, theirs = Gatekeeper.from_environment(environ), Gatekeeper.from_environment(environ)
    issued = ours.log_in("ada", "word")
    assert issued is not None
    assert theirs.admits(None, issued[0])
    assert theirs.refresh(issued[1]) is not None
    removed = Gatekeeper.from_environment({**environ, "SKESM_SERVER_USERS": "bob:word"})
    assert not removed.admits(None, issued[0])
    assert removed.refresh(issued[1]) is None
    assert "k" * 32 not in repr(vars(ours))


@pytest.mark.parametrize("key", ["", "short", " " * 40])
def test_a_key_that_can_be_guessed_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="SKESM_SERVER_KEY must have at least 32 characters"):
        Gatekeeper.from_environment({"SKESM_SERVER_KEY": key})
    with pytest.raises(ValueError, match="at least 32"):
        Gatekeeper(key="short")


def test_asyncio_is_told_by_its_first_line_once_a_second() -> None:
    message = "Task exception was never retrieved\nfuture: <Task exception=ValueError('SECRETSEQ')>"
    record = logging.LogRecord("asyncio", logging.ERROR, __file__, 1, message, (), None)
    line = json.loads(JsonLines().format(record))
    assert line["message"] == "Task exception was never retrieved"
    flood = NoFlood()
    kept = []
    for created in (0.0, 0.5, 0.9, 1.1, 1.2, 5.0):
        record.created = created
        kept.append(flood.filter(record))
    assert kept == [True, False, False, True, False, True]
