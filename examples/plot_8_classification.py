"""
Bright or dark: a classifier
============================

The embedder works with classifiers as with regressors. Here it tells bright variants of avGFP from dark ones.
"""

# %%
# Most variants are bright. Each class must be in each fold, so the folds are stratified.

import matplotlib.pyplot as plt
from sklearn.linear_model import LogisticRegressionCV
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
# Two poolings side by side are one step of the pipeline: give both names.

model = make_pipeline(
    ESM2Embedder("skesm-mini", pooling=["mean", "max"], memory="cache"),
    StandardScaler(),
    LogisticRegressionCV(Cs=[1e-4, 1e-3, 1e-2], cv=3, scoring="roc_auc", max_iter=1000),
)
folds = StratifiedKFold(5, shuffle=True, random_state=0)
probability = cross_val_predict(model, X, y, cv=folds, method="predict_proba")[:, 1]

# %%
# The diagonal is a coin.

figure, axes = plt.subplots(figsize=(4.8, 4.8), layout="constrained")
RocCurveDisplay.from_predictions(y, probability, ax=axes, name="mean + max")
axes.axline((0, 0), slope=1, color="grey", linestyle="--")
plt.show()
