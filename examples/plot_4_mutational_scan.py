"""
A mutational scan, measured and predicted
=========================================

The heat map that protein engineers look at first: positions across, amino acids down.
"""

# %%
# Every prediction comes from a model that was trained without this mutant.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skesm import ESM2Embedder
from skesm.datasets import load_gb1_stability

AMINO_ACIDS = "GAVLIMFWYPSTCNQDEKRH"  # by their chemistry

gb1 = load_gb1_stability()
model = make_pipeline(
    ESM2Embedder("skesm-mini", pooling="mutated", reference=gb1.wild_type),
    StandardScaler(),
    RidgeCV(alphas=[1, 10, 100, 1000, 10000]),
)
model.set_params(esm2embedder__memory="cache")
folds = KFold(5, shuffle=True, random_state=0)
predicted = cross_val_predict(model, gb1.data, gb1.target, cv=folds)

# %%
# White fields were not measured.


def heat_map(values):
    grid = np.full((len(AMINO_ACIDS), len(gb1.wild_type)), np.nan)
    for mutation, value in zip(gb1.mutations, values, strict=True):
        position, residue = int(mutation[1:-1]), mutation[-1]
        # the sequence starts at residue 2
        grid[AMINO_ACIDS.index(residue), position - 2] = value
    return grid


figure, rows = plt.subplots(2, figsize=(5.5, 7), sharex=True, layout="constrained")
maps = {"measured": gb1.target, "predicted": predicted}
for axes, (title, values) in zip(rows, maps.items(), strict=True):
    image = axes.imshow(heat_map(values), cmap="RdBu_r", vmin=-3, vmax=3, aspect="auto")
    axes.set_yticks(range(len(AMINO_ACIDS)), AMINO_ACIDS, fontsize=7)
    axes.set_title(title)
rows[1].set_xticks(range(0, 55, 5), range(2, 57, 5))
rows[1].set_xlabel("position")
figure.colorbar(image, ax=rows, label="ΔΔG (kcal/mol)", shrink=0.6)
plt.show()
