"""
The model on another machine
============================

The notebook that began this project sent variants of avGFP to BioLM's API, and trained XGBoost on the answers. Here is
the same story, with a server of your own in place of the service.
"""

# %%
# ``skesm serve`` answers BioLM's protocols. It prints its address when it is ready. In this example it runs on this
# machine, and you would run it on a machine with a GPU. For BioLM itself, write ``backend="biolm"`` and put
# ``BIOLM_TOKEN`` into the environment.

import subprocess
import sys

import matplotlib.pyplot as plt
from scipy.stats import spearmanr
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline, make_union
from xgboost import XGBRegressor

from skesm import ESM2Embedder, ESM2LogitSummarizer
from skesm.backends import BioLMBackend
from skesm.datasets import load_gfp_fluorescence

command = "serve --model skesm-mini --port 0 --log-level warning"
program = [sys.executable, "-m", "skesm", *command.split()]
server = subprocess.Popen(program, stdout=subprocess.PIPE, text=True)
address = server.stdout.readline().strip()

# %%
# The features are those of the notebook: the mean representation, and two statistics of the logits. Each estimator
# names the other's output in ``prefetch``, so one request brings both.

gfp = load_gfp_fluorescence()
X, y = gfp.data[:150], gfp.target[:150]
shared = {"model": "skesm-mini", "backend": BioLMBackend(address), "memory": "cache"}
statistics = ("entropy_mean", "log_likelihood_mean")
model = make_pipeline(
    make_union(
        ESM2Embedder(**shared, prefetch="logits"),
        ESM2LogitSummarizer(**shared, statistics=statistics, prefetch="mean@-1"),
    ),
    XGBRegressor(n_estimators=100, max_depth=3, learning_rate=0.1, n_jobs=1),
)
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.3, random_state=0)
predicted = model.fit(X_train, y_train).predict(X_test)
rank = spearmanr(y_test, predicted).statistic

# %%
# Every answer is in the cache now. So the second run needs no service. We stop it, and fit again.

server.terminate()
server.wait()
again = model.fit(X_train, y_train).predict(X_test)
print("the same predictions without a service:", (again == predicted).all())

# %%
# Each point is a variant that was not in the training set. There are two groups, dark and bright variants, as in the
# measurement. The model puts many dark ones among the bright: 105 rows and the demo model are too little.

figure, axes = plt.subplots(figsize=(4.8, 4.8), layout="constrained")
axes.scatter(y_test, predicted, s=18, alpha=0.6)
axes.axline((3, 3), slope=1, color="grey", linewidth=1)
axes.set(xlabel="measured log₁₀ of fluorescence", ylabel="predicted")
axes.set_title(f"avGFP, 45 variants, Spearman {rank:.2f}")
plt.show()
