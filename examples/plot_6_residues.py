"""
What the model says of each residue
===================================

Take the logits of a protein, turn them into probabilities, and see at which positions the model expects the wild type.
"""

# %%
# ``compute_outputs`` gives arrays for each sequence. The 20 columns of the logits are the amino acids.

import matplotlib.pyplot as plt
import numpy as np
from scipy.special import softmax

from skesm import compute_outputs
from skesm.datasets import load_gb1_stability

gb1 = load_gb1_stability()
(record,) = compute_outputs([gb1.wild_type], "logits", "skesm-mini", memory="cache")
probabilities = softmax(record["logits"], axis=1)
entropy = -(probabilities * np.log(probabilities)).sum(axis=1)

# %%
# The mean ΔΔG of a position says how much it matters for stability. A model that knows the family has a low entropy
# where mutations hurt: bars that are low above would stand over bars that are high below. The demo model shows little
# of this. The sequence starts at residue 2. One position was not measured: its bar is missing.

numbers = np.arange(2, 2 + len(gb1.wild_type))
measured = np.full(len(numbers), np.nan)
for place, number in enumerate(numbers):
    if number in gb1.positions:
        measured[place] = gb1.target[gb1.positions == number].mean()
figure, rows = plt.subplots(2, figsize=(5.5, 5), sharex=True, layout="constrained")
rows[0].bar(numbers, entropy, color="C0")
rows[0].set(ylabel="entropy (nats)", title="the model")
rows[0].set_ylim(entropy.min() - 0.1, None)
rows[1].bar(numbers, measured, color="C1")
rows[1].set(ylabel="ΔΔG (kcal/mol)", title="the measurement", xlabel="position")
plt.show()
