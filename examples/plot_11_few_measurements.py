"""
Few measurements: a learning curve
==================================

With tens of measurements, people put a zero-shot score beside one-hot columns (Hsu et al., 2022): the *augmented*
model. A learning curve shows from how many measurements on each part helps.
"""

# %%
# The augmented model is a union of two transformers. The one-hot columns learn which mutation does what. The score
# carries what ESM-2 knows of all proteins. ``SubstitutionEncoder`` is the cheap rival: it knows the chemistry of amino
# acids, and needs no protein model.

import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import spearmanr
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import ShuffleSplit
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import StandardScaler

from skesm import ESM2VariantScorer, OneHotSequence, SubstitutionEncoder
from skesm.datasets import load_gb1_stability

gb1 = load_gb1_stability()
X, y = gb1.data, gb1.target
wild_type = gb1.wild_type
scorer = ESM2VariantScorer("skesm-mini", strategy="wt_marginal", reference=wild_type)
scorer.set_params(memory="cache")
one_hot = OneHotSequence(len(wild_type))
features = {
    "one-hot": one_hot,
    "augmented: score + one-hot": make_union(scorer, one_hot),
    "position + substitution": SubstitutionEncoder(wild_type),
}

# %%
# Each model learns from 20 to 320 mutants, and predicts 400 others. Five draws of the training set show the noise.

sizes = (20, 40, 80, 160, 320)
scores = {name: np.zeros((len(sizes), 5)) for name in features}
for name, transformer in features.items():
    columns = np.asarray(transformer.fit_transform(X))  # they learn nothing from y
    model = make_pipeline(StandardScaler(), RidgeCV(alphas=[1, 100, 10000]))
    for i, size in enumerate(sizes):
        draws = ShuffleSplit(5, train_size=size, test_size=400, random_state=0)
        for j, (train, test) in enumerate(draws.split(X)):
            predicted = model.fit(columns[train], y[train]).predict(columns[test])
            scores[name][i, j] = spearmanr(y[test], predicted).statistic

# %%
# The grey line is the score alone, which needs no measurement. For the demo model it is below 0: it has the wrong sign.
# The augmented model still gains from it over one-hot, because the regression learns the sign. The gain shrinks as the
# measurements grow. From 80 on, chemistry is best here. Find the number of your measurements on the axis, and take the
# curve that is highest there.

alone = spearmanr(y, -scorer.predict(X)).statistic
figure, axes = plt.subplots(figsize=(6, 4.2), layout="constrained")
for name, values in scores.items():
    mean, spread = values.mean(axis=1), values.std(axis=1)
    axes.errorbar(sizes, mean, spread, marker="o", capsize=3, label=name)
axes.axhline(alone, color="grey", linestyle="--", label="score alone (sign turned)")
axes.set_xscale("log")
axes.set_xticks(sizes, sizes)
axes.minorticks_off()
axes.set(xlabel="measured mutants", ylabel="Spearman's correlation", title="GB1")
axes.legend()
plt.show()
