"""
Logits as features
==================

The model predicts an amino acid for each position. Statistics of these predictions are features too: few columns, and
each has a meaning.
"""

# %%
# Eight statistics of each mutant come from one pass. ``set_output`` gives a table with their names.

import matplotlib.pyplot as plt
from scipy.stats import spearmanr
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skesm import ESM2LogitSummarizer
from skesm.datasets import load_gb1_stability

gb1 = load_gb1_stability()
X, y = gb1.data[::4], gb1.target[::4]
summarizer = ESM2LogitSummarizer(
    "skesm-mini",
    statistics=[
        *("log_likelihood_mean", "entropy_mean", "entropy_max", "entropy_q05"),
        *("margin_mean", "margin_min", "own_probability_mean", "own_probability_min"),
    ],
    memory="cache",
).set_output(transform="pandas")
table = summarizer.fit_transform(X)
print(table.iloc[:3, :4].round(3).to_string())

# %%
# All of them together in a regression. Each prediction comes from a model that did not see the mutant.

model = make_pipeline(summarizer, StandardScaler(), RidgeCV(alphas=[1, 10, 100]))
folds = KFold(5, shuffle=True, random_state=0)
predicted = cross_val_predict(model, X, y, cv=folds)

# %%
# A blue bar is the rank correlation of one statistic with the measured ΔΔG, without any training. The orange bar is the
# regression on all of them, and it is no better than the best of them. Statistics of whole sequences change little with
# one mutation, so the bars are short: embeddings at the mutated position do better here (see the first example).

bars = {name: abs(spearmanr(table[name], y).statistic) for name in table.columns}
bars["all, ridge"] = spearmanr(predicted, y).statistic
figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
colours = ["C0"] * len(table.columns) + ["C1"]
axes.barh(list(bars), list(bars.values()), color=colours)
axes.invert_yaxis()
axes.set(xlabel="|Spearman's correlation| with ΔΔG", title="GB1, every fourth mutant")
plt.show()
