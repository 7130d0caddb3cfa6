"""
Which layer, which pooling?
===========================

Search over layers and poolings like over any other parameter. One pass of each sequence serves them all.
"""

# %%
# ``prefetch`` stores every layer at the first pass. All other candidates of the grid read the store.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skesm import ESM2Embedder
from skesm.datasets import load_gb1_stability

gb1 = load_gb1_stability()
X, y = gb1.data[::4], gb1.target[::4]
model = make_pipeline(
    ESM2Embedder("skesm-mini", memory="cache", prefetch=("mean@*", "max@*", "std@*")),
    StandardScaler(),
    RidgeCV(alphas=[10, 100, 1000, 10000]),
)
layers, poolings = list(range(1, 7)), ["mean", "max", "std"]
search = GridSearchCV(
    model,
    {"esm2embedder__layers": layers, "esm2embedder__pooling": poolings},
    cv=KFold(5, shuffle=True, random_state=0),
    scoring="r2",
).fit(X, y)

# %%
# The grid has 18 candidates of 5 folds. The plan says how many sequences are still to compute: none.

print(model[0].plan(X).to_compute)

# %%
# The bars are the standard deviation over the folds. Where they overlap, the folds do not tell the layers apart.

scores = search.cv_results_["mean_test_score"].reshape(len(layers), len(poolings))
spread = search.cv_results_["std_test_score"].reshape(len(layers), len(poolings))
figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
for column, pooling in enumerate(poolings):
    place = np.array(layers) + 0.06 * (column - 1)
    bars = {"yerr": spread[:, column], "capsize": 3}
    axes.errorbar(place, scores[:, column], marker="o", label=pooling, **bars)
axes.set(xlabel="layer", ylabel="R² (5 folds)", title="GB1, every fourth mutant")
axes.legend(title="pooling")
plt.show()
