"""
How sure is a prediction?
=========================

Conformal prediction puts an interval around each prediction. It needs no assumption about the model.
"""

# %%
# MAPIE wraps the whole pipeline, from sequence to prediction, and fits one copy for each fold. The copies share the
# features by ``memory``. Install it with ``pip install mapie``.

import matplotlib.pyplot as plt
import numpy as np
from mapie.regression import CrossConformalRegressor
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skesm import ESM2Embedder
from skesm.datasets import load_gb1_stability

gb1 = load_gb1_stability()
parts = train_test_split(gb1.data, gb1.target, test_size=120, random_state=0)
X_train, X_test, y_train, y_test = parts
model = make_pipeline(
    ESM2Embedder("skesm-mini", pooling="mutated", reference=gb1.wild_type),
    StandardScaler(),
    RidgeCV(alphas=[1, 10, 100, 1000, 10000]),
)
model.set_params(esm2embedder__memory="cache")
folds = KFold(5, shuffle=True, random_state=0)
conformal = CrossConformalRegressor(model, confidence_level=0.9, cv=folds)
conformal.fit_conformalize(X_train, y_train)
predicted, intervals = conformal.predict_interval(X_test)
low, high = intervals[:, 0, 0], intervals[:, 1, 0]
covered = (low <= y_test) & (y_test <= high)

# %%
# The mutants are sorted by their prediction. A grey bar is the interval, and a point is the measured value: blue inside
# the bar, orange outside. We asked for nine of ten points inside, and here it is a few more. All bars are about three
# kcal/mol wide: that is how much the demo model leaves open.

order = np.argsort(predicted)
place = np.arange(len(order))
figure, axes = plt.subplots(figsize=(5.5, 4), layout="constrained")
axes.vlines(place, low[order], high[order], color="lightgrey", linewidth=3, zorder=0)
axes.plot(place, predicted[order], color="grey", linewidth=1, label="predicted")
for inside, colour in ((True, "C0"), (False, "C1")):
    chosen = covered[order] == inside
    name = "measured, inside" if inside else "measured, outside"
    axes.scatter(place[chosen], y_test[order][chosen], s=12, color=colour, label=name)
axes.set(xlabel="mutants, sorted by prediction", ylabel="ΔΔG (kcal/mol)")
axes.set_title(f"{covered.mean():.0%} of 120 intervals of 90 % hold the measured value")
axes.legend()
plt.show()
