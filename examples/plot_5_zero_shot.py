"""
Scores without any measurement
==============================

A zero-shot score says how much likelier the model finds a mutant than the wild type. Compare it with a model that was
trained on measurements.
"""

# %%
# ΔΔG is positive where a mutation destabilises, and a likely mutant has a high score. So a useful score correlates
# *negatively* with it. We turn the sign.

import matplotlib.pyplot as plt
from scipy.stats import spearmanr
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skesm import ESM2Embedder, ESM2VariantScorer
from skesm.datasets import load_gb1_stability

gb1 = load_gb1_stability()
scorer = ESM2VariantScorer("skesm-mini", reference=gb1.wild_type, memory="cache")
score = -scorer.predict(gb1.data)
print(scorer.cache_info())

# %%
# The trained model sees measurements of four fifths of the mutants.

trained = make_pipeline(
    ESM2Embedder("skesm-mini", pooling="mutated", reference=gb1.wild_type),
    StandardScaler(),
    RidgeCV(alphas=[1, 10, 100, 1000, 10000]),
)
trained.set_params(esm2embedder__memory="cache")
folds = KFold(5, shuffle=True, random_state=0)
predicted = cross_val_predict(trained, gb1.data, gb1.target, cv=folds)

# %%
# The demo model is too small for zero-shot scores: the left cloud has no direction. Published models of 150M parameters
# and more do much better. The code stays the same.

figure, columns = plt.subplots(1, 2, figsize=(6, 3.6), sharey=True)
clouds = {"zero-shot": score, "trained": predicted}
for axes, (title, values) in zip(columns, clouds.items(), strict=True):
    axes.scatter(values, gb1.target, s=8, alpha=0.4)
    rank = spearmanr(values, gb1.target).statistic
    axes.set_title(f"{title}: Spearman {rank:.2f}")
columns[0].set(xlabel="score (sign turned)", ylabel="measured ΔΔG (kcal/mol)")
columns[1].set_xlabel("predicted ΔΔG (kcal/mol)")
figure.tight_layout()
plt.show()
