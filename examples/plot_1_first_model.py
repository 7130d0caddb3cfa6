"""
A first model
=============

Predict the stability of mutants that the model did not see, and plot it against the measurement.
"""

# %%
# GB1 is a small protein of 55 residues. The data set has 813 of its single mutants. A positive ΔΔG means that a
# mutation makes the protein less stable.

import matplotlib.pyplot as plt
from scipy.stats import spearmanr
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skesm import ESM2Embedder
from skesm.datasets import load_gb1_stability

gb1 = load_gb1_stability()

# %%
# The features are the mean over the mutated residues, and the same of the wild type. ``memory`` is a folder: each
# sequence goes through the model once, for all folds.

model = make_pipeline(
    ESM2Embedder("skesm-mini", pooling="mutated", reference=gb1.wild_type),
    StandardScaler(),
    RidgeCV(alphas=[1, 10, 100, 1000, 10000]),
)
model.set_params(esm2embedder__memory="cache")
folds = KFold(5, shuffle=True, random_state=0)
predicted = cross_val_predict(model, gb1.data, gb1.target, cv=folds)
rank = spearmanr(gb1.target, predicted).statistic

# %%
# Each point is a mutant, predicted by a model that was trained without it.

figure, axes = plt.subplots(figsize=(4.8, 4.8), layout="constrained")
axes.scatter(gb1.target, predicted, s=8, alpha=0.5)
axes.axline((0, 0), slope=1, color="grey", linewidth=1)
axes.set(xlabel="measured ΔΔG (kcal/mol)", ylabel="predicted ΔΔG (kcal/mol)")
axes.set_title(f"Spearman's correlation {rank:.2f}, random folds")
plt.show()
