"""
A map of embeddings
===================

Project the embeddings of a library to two dimensions and colour them by the measured value. It shows whether
neighbours in the model's space have similar values.
"""

# %%
# The first 150 of the bundled variants of avGFP, with up to three mutations each. The target is the logarithm of their
# fluorescence.

import matplotlib.pyplot as plt
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skesm import ESM2Embedder
from skesm.datasets import load_gfp_fluorescence

gfp = load_gfp_fluorescence()
X, y = gfp.data[:150], gfp.target[:150]
embedder = ESM2Embedder("skesm-mini", memory="cache")
model = make_pipeline(embedder, StandardScaler(), PCA(2))
place = model.fit_transform(X)

# %%
# Points of one colour do not gather here: two directions of largest spread need not be the directions that matter for
# fluorescence. A regression finds those.

figure, axes = plt.subplots(figsize=(5.5, 4.5), layout="constrained")
points = axes.scatter(place[:, 0], place[:, 1], c=y, s=18, cmap="viridis")
axes.set(xlabel="first component", ylabel="second component")
figure.colorbar(points, label="log₁₀ of fluorescence")
plt.show()
