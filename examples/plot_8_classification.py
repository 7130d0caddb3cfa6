"""
Bright or dark: a classifier
============================

The embedder works with classifiers as with regressors. Here it tells bright variants of avGFP from dark ones.
"""

# %%
# Most variants are bright. Each class must be in each fold, so the folds are stratified.

import matplotlib.pyplot as plt
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import RocCurveDisplay
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skesm import ESM2Embedder
from skesm.datasets import load_gfp_fluorescence

gfp = load_gfp_fluorescence()
X, y = gfp.data[:150], gfp.target[:150] > 2.5
print(f"{y.sum()} of {len(y)} variants are bright")

# %%
# Two poolings side by side are one step of the pipeline: give both names. With 384 columns and 150 rows, the penalty of
# the classifier must be strong: ``C`` is small.

model = make_pipeline(
    ESM2Embedder("skesm-mini", pooling=["mean", "max"], memory="cache"),
    StandardScaler(),
    LogisticRegression(C=0.001, max_iter=1000),
)
folds = StratifiedKFold(5, shuffle=True, random_state=0)
probability = cross_val_predict(model, X, y, cv=folds, method="predict_proba")[:, 1]

# %%
# The curve shows which share of the bright variants you find (up) for the dark ones that you take along (right). A coin
# gives the diagonal. The nearer the curve comes to the upper left corner, the better.

figure, axes = plt.subplots(figsize=(4.8, 4.8), layout="constrained")
RocCurveDisplay.from_predictions(y, probability, ax=axes, name="mean + max")
axes.axline((0, 0), slope=1, color="grey", linestyle="--")
plt.show()
