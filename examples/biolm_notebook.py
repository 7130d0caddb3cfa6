"""Eight sequences by BioLM's first API, the way of the notebook that began it all, and the way of skesm's estimators.

Everything runs on this machine: the script starts ``skesm serve`` on a free port of 127.0.0.1 with the demo model. For
BioLM itself leave out the server, set ``BASE_URL`` to ``https://biolm.ai``, ``MODEL`` to ``esm2_t33_650M_UR50D`` and
``LAST_LAYER`` to ``"33"``, and put an account's ``BIOLM_USER`` and ``BIOLM_PASS`` in the environment.

Needs ``pip install ".[server]"`` in a copy of the repository.
"""

from __future__ import annotations

import atexit
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time

import numpy as np
import requests

from skesm import ESM2Embedder, ESM2LogitSummarizer
from skesm.backends.biolm import BioLMBackend
from skesm.datasets import load_gb1_stability

MODEL = "skesm-mini"
LAST_LAYER = "6"

# %% A server --------------------------------------------------------------------------------------------------------

os.environ.update(BIOLM_USER="demo", BIOLM_PASS=secrets.token_urlsafe())
server = subprocess.Popen(
    [sys.executable, "-m", "skesm", "serve", "--model", MODEL, "--port", "0", "--log-level", "warning"],
    env={**os.environ, "SKESM_SERVER_USERS": f"{os.environ['BIOLM_USER']}:{os.environ['BIOLM_PASS']}"},
    stdout=subprocess.PIPE,
    text=True,
)
atexit.register(server.terminate)
BASE_URL = server.stdout.readline().strip()

sequences = list(load_gb1_stability().data[:8])

# %% The notebook's way: log in, post, take the answer apart ---------------------------------------------------------

begun = time.perf_counter()

login = requests.post(
    f"{BASE_URL}/api/auth/token/",
    headers={"Content-Type": "application/json"},
    data=json.dumps({"username": os.environ["BIOLM_USER"], "password": os.environ["BIOLM_PASS"]}),
)
tokens = login.json()

url = f"{BASE_URL}/api/v1/models/{MODEL}/transform/"
headers = {
    "Cookie": "access={};refresh={}".format(tokens["access"], tokens["refresh"]),
    "Content-Type": "application/json",
}
payload = json.dumps({"instances": [{"data": {"text": sequence}} for sequence in sequences]})
response = requests.post(url, headers=headers, data=payload)
predictions = response.json()["predictions"]

features = np.array([prediction["mean_representations"][LAST_LAYER] for prediction in predictions])
logits = [np.array(prediction["logits"]) for prediction in predictions]
logit_features = np.array([[values.mean(), values.sum()] for values in logits])

notebook_seconds = time.perf_counter() - begun
print("mean_representations", np.array(features).shape)
print("logits of the first sequence", logits[0].shape, "sum", logits[0].sum(), "mean", logits[0].mean())

# %% The estimators' way ---------------------------------------------------------------------------------------------

begun = time.perf_counter()

memory = tempfile.TemporaryDirectory()
# User and password come from the environment. The logits are stored with the embeddings: there is one request.
shared = {"backend": BioLMBackend(BASE_URL, dialect="v1"), "memory": memory.name, "prefetch": "logit_means"}
same_features = ESM2Embedder(MODEL, **shared).fit_transform(sequences)
same_logit_features = ESM2LogitSummarizer(MODEL, statistics=("mean", "sum"), **shared).fit_transform(sequences)

estimator_seconds = time.perf_counter() - begun
memory.cleanup()
print("ESM2Embedder", same_features.shape, "ESM2LogitSummarizer", same_logit_features.shape)

# %% They agree ------------------------------------------------------------------------------------------------------

np.testing.assert_allclose(same_features, features, rtol=0, atol=1e-6)
np.testing.assert_allclose(same_logit_features, logit_features, rtol=1e-6)
print(f"the notebook's way {notebook_seconds:.2f} s, the estimators' way {estimator_seconds:.2f} s")
