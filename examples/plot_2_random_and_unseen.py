"""
Random folds flatter
====================

Split the same data in two ways. Random folds ask for new amino acids at positions that were measured. Folds by
position ask for positions that were never measured, and that is harder.
"""

# %%
# ``GroupKFold`` keeps all mutants of a position on one side.

import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import spearmanr
from sklearn.linear_model import RidgeCV
from sklearn.metrics import make_scorer
from sklearn.model_selection import GroupKFold, KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skesm import ESM2Embedder
from skesm.datasets import load_gb1_stability

gb1 = load_gb1_stability()
rank = make_scorer(lambda y, predicted: spearmanr(y, predicted).statistic)
by_position = GroupKFold(5).split(gb1.data, groups=gb1.positions)
splits = {
    "random": KFold(5, shuffle=True, random_state=0),
    "unseen positions": list(by_position),
}
scores = {}
for pooling in ("mean", "mutated"):
    reference = gb1.wild_type
    embedder = ESM2Embedder("skesm-mini", pooling=pooling, reference=reference)
    embedder.set_params(memory="cache")
    head = RidgeCV(alphas=[1, 10, 100, 1000, 10000])
    model = make_pipeline(embedder, StandardScaler(), head)
    for name, folds in splits.items():
        options = {"cv": folds, "scoring": rank}
        scores[pooling, name] = cross_val_score(model, gb1.data, gb1.target, **options)

# %%
# The dots are the folds, and a bar is their mean. For each pooling, the bar of unseen positions is less than half as
# high as that of random folds. If you want to predict positions that nobody measured, that bar is the honest one. The
# folds by position differ widely, so look at the dots too.

figure, axes = plt.subplots(figsize=(5.5, 4), layout="constrained")
for place, ((_, split), values) in enumerate(scores.items()):
    colour = "C0" if split == "random" else "C1"
    axes.bar(place, values.mean(), color=colour, alpha=0.5)
    axes.scatter(np.full(len(values), place), values, color=colour, s=15)
axes.set_xticks(range(len(scores)), ["\n".join(names) for names in scores])
axes.set_ylabel("Spearman's correlation")
plt.show()
