"""Answers of `skesm serve`, and the descriptions that it publishes."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.special import log_softmax
from server_process import (
    AMINO_ACIDS,
    MODEL,
    N_LAYERS,
    PATHS,
    PROTOCOL,
    Local,
    Server,
    includable,
    received,
    running,
    same,
)

from skesm.backends.biolm.limits import read_limits
from skesm.outputs.spec import OutputSpec

pytest.importorskip("starlette", reason="needs the extra 'server'")
pytest.importorskip("uvicorn", reason="needs the extra 'server'")


def test_v1_answers_everything_it_always_answers(server: Server, local: Local) -> None:
    sequences = ["MKTAYIAK", "GG", "MKTAYIAK", "ACDXBZUO"]
    records = local(sequences, "mean@-1", "logit_means", "contacts", "attention_received@*")
    results = server.encode("v1", sequences)
    for place, (result, record) in enumerate(zip(results, records, strict=True)):
        assert set(result) == {"name", "mean_representations", "logits", "contacts", "attentions"}
        assert result["name"] == str(place)
        assert list(result["mean_representations"]) == [str(N_LAYERS)]
        assert same(result["mean_representations"]["2"], record[OutputSpec("mean", 2)])
        assert same(result["logits"], record[OutputSpec("logit_means")])
        assert same(result["contacts"], record[OutputSpec("contacts")])
        assert same(result["attentions"], received(record))


KEYS = {
    "v2": ("mean_representations", "representations", "bos_representations"),
    "v3": ("embeddings", "per_token_embeddings", "bos_embeddings"),
    "hub": ("embeddings", "residue_embeddings", "bos_embeddings"),
}


@pytest.mark.parametrize("dialect", PROTOCOL)
@pytest.mark.parametrize("per_residue", ["per_residue", "per_token"])
def test_encode_answers_all_outputs(server: Server, local: Local, dialect: str, per_residue: str) -> None:
    sequences = ["MKTAYIAK", "GG"]
    names = [f"{kind}@{layer}" for kind in ("mean", "cls", "residues") for layer in (0, 2)]
    records = local(sequences, *names, "logits", "contacts", "attention_received@*")
    include = ["mean", per_residue, "bos", "logits", "contacts", "attentions"]
    results = server.encode(dialect, sequences, repr_layers=[-1, 2, 0], include=include)
    for result, record in zip(results, records, strict=True):
        for key, kind, inner in zip(
            KEYS[dialect], ("mean", "residues", "cls"), ("embedding", "embeddings", "embedding"), strict=True
        ):
            if dialect == "v2":
                layers = {int(layer): value for layer, value in result[key].items()}
            else:
                assert all(set(entry) == {"layer", inner} for entry in result[key])
                layers = {entry["layer"]: entry[inner] for entry in result[key]}
            assert list(layers) == [0, 2]  # ascending, duplicates merged
            for layer, value in layers.items():
                assert same(value, record[OutputSpec(kind, layer)])
        assert same(result["logits"], record[OutputSpec("logits")])
        assert same(result["contacts"], record[OutputSpec("contacts")])
        assert same(result["attentions"], received(record))  # of all layers, whatever repr_layers says
        assert result.get("vocab_tokens", list(AMINO_ACIDS)) == list(AMINO_ACIDS)
        assert ("vocab_tokens" in result) == (dialect != "v2")


@pytest.mark.parametrize("dialect", PROTOCOL)
def test_params_default_to_the_mean_of_the_last_layer(server: Server, local: Local, dialect: str) -> None:
    (record,) = local(["MKT"], "mean@2")
    response = server.post(PATHS[dialect].format(MODEL), {"items": [{"sequence": "MKT"}]})
    (result,) = response.json()["results"]
    assert result.pop("sequence_index", 0) == 0
    (key,) = {key for key, value in result.items() if value is not None}
    value = result[key]["2"] if dialect == "v2" else result[key][0]["embedding"]
    assert key == KEYS[dialect][0]
    assert same(value, record[OutputSpec("mean", 2)])
    # The hub names what was not asked for; the hosted service does not.
    assert len(result) == (7 if dialect == "hub" else 1)


@pytest.mark.parametrize("path", ["/api/v2/{}/predict/", "/api/v3/{}/predict/", "/api/v1/{}/predict"])
def test_predict(server: Server, local: Local, path: str) -> None:
    sequences = ["MK<mask>AY", "<mask>"]
    records = local(sequences, "logits")
    response = server.post(path.format(MODEL), {"items": [{"sequence": s} for s in sequences]})
    results = response.json()["results"]
    assert [result["sequence_tokens"] for result in results] == [["M", "K", "<mask>", "A", "Y"], ["<mask>"]]
    for result, record in zip(results, records, strict=True):
        assert same(result["logits"], record[OutputSpec("logits")])
        assert result["vocab_tokens"] == list(AMINO_ACIDS)


def test_log_prob_sums_over_the_canonical_residues(server: Server, local: Local) -> None:
    sequences = ["MKTAYIAK", "MXB", "XX"]
    response = server.post(f"/api/v1/{MODEL}/log_prob", {"items": [{"sequence": s} for s in sequences]})
    given = [result["log_prob"] for result in response.json()["results"]]
    expected = []
    for sequence, record in zip(sequences, local(sequences, "logits"), strict=True):
        scores = log_softmax(record[OutputSpec("logits")].astype(np.float64), axis=1)
        own = [row[AMINO_ACIDS.index(r)] for row, r in zip(scores, sequence, strict=True) if r in AMINO_ACIDS]
        expected.append(sum(own))
    np.testing.assert_allclose(given, expected, rtol=1e-12)


def test_gaps_are_encoded_as_the_services_do(server: Server) -> None:
    (result,) = server.encode("v3", ["MK-T"], include=["per_residue"])
    assert len(result["per_token_embeddings"][0]["embeddings"]) == 4


@pytest.mark.parametrize("accept", ["gzip, deflate", "identity"])
def test_answers_are_gzipped_for_those_who_take_it(server: Server, accept: str) -> None:
    body = {"items": [{"sequence": "MKTAYIAK"}], "params": {"include": ["logits", "mean"]}}
    response = server.post(PATHS["v3"].format(MODEL), body, headers={"Accept-Encoding": accept}, stream=True)
    raw = response.raw.read(decode_content=False)
    compressed = response.headers.get("Content-Encoding") == "gzip"
    assert compressed == (accept != "identity")
    assert response.headers["Vary"] == "Accept-Encoding"
    assert int(response.headers["Content-Length"]) == len(raw)
    assert json.loads(gzip.decompress(raw) if compressed else raw)["results"]


def test_every_request_has_a_line(server: Server) -> None:
    server.encode("v3", ["MKTAYIAK", "GG"])
    line = next(line for line in reversed(server.log_lines()) if line["message"] == "request")
    assert {key: line[key] for key in ("dialect", "action", "model", "sequences", "residues", "status")} == {
        "dialect": "v3",
        "action": "encode",
        "model": MODEL,
        "sequences": 2,
        "residues": 10,
        "status": 200,
    }
    assert line["milliseconds"] > 0


def test_the_example_of_the_notebook() -> None:
    """It starts its own server, asks both ways, and fails if they do not agree."""
    example = Path(__file__).resolve().parents[1] / "examples" / "biolm_notebook.py"
    done = subprocess.run([sys.executable, str(example)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "mean_representations (8, 192)" in done.stdout
    assert "the notebook's way" in done.stdout


# ------------------------------------------------------------------------------------------------------ descriptions


@pytest.mark.parametrize("dialect", ["v2", "v3"])
def test_schema(server: Server, dialect: str) -> None:
    schema = server.get(f"/api/{dialect}/schema/{MODEL}/encode/").json()
    limits = read_limits(schema, PATHS[dialect].format(MODEL))
    assert (limits.max_items, limits.max_length) == (8, 2048)
    assert {"contacts", "attentions"} <= set(includable(server, dialect))
    assert server.get(f"/api/{dialect}/schema/{MODEL}/fold/").status_code == 404
    assert server.get(f"/api/{dialect}/schema/other/encode/").status_code == 404


def test_openapi_describes_every_path(server: Server) -> None:
    document = server.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    for dialect in ("v2", "v3", "hub"):
        limits = read_limits(document, PATHS[dialect].format(MODEL))
        assert (limits.max_items, limits.max_length) == (8, 2048)
    for path, item in document["paths"].items():
        if "post" in item:
            assert server.post(path, {}).status_code in (400, 422), path  # it is there: it reads the body
        else:
            assert server.get(path.replace("{model}", MODEL).replace("{action}", "encode")).status_code == 200, path


def test_health(server: Server) -> None:
    answer = server.get("/").json()
    assert (answer["status"], answer["models"]) == ("ok", [MODEL])


def test_limits_are_settable(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with running(tiny_checkpoint, tmp_path / "log", "--max-items", "2", "--max-length", "5") as server:
        limits = read_limits(server.get(f"/api/v3/schema/{MODEL}/encode/").json(), "")
        assert (limits.max_items, limits.max_length) == (2, 5)
        too_many = server.post(PATHS["hub"].format(MODEL), {"items": [{"sequence": "MKT"}] * 3})
        assert too_many.json()["detail"][0]["ctx"]["max_length"] == 2
        too_long = server.post(PATHS["hub"].format(MODEL), {"items": [{"sequence": "MKTAYI"}]})
        assert too_long.json()["detail"][0]["type"] == "string_too_long"
        # A mask counts as one residue.
        predict = {"items": [{"sequence": "MK<mask>AY"}]}
        assert server.post(f"/api/v1/{MODEL}/predict", predict).status_code == 200
