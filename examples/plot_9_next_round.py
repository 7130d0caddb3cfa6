"""
The next round, replayed
========================

Start from a few measured mutants, let a model choose the next ones, measure them, and repeat.
"""

# %%
# All values of GB1 are known, so rounds can be replayed: the model sees only the rows
# that were chosen before. A low ΔΔG is wanted.

import matplotlib.pyplot as plt

from skesm import variant_pipeline
from skesm.datasets import load_gb1_stability
from skesm.design import propose, simulate_rounds, single_variants

gb1 = load_gb1_stability()
pipeline = variant_pipeline(gb1.wild_type, model="skesm-mini", memory="cache")
rounds = simulate_rounds(
    pipeline,
    gb1.data,
    gb1.target,
    reference=gb1.wild_type,
    strategies=["greedy", "random"],
    maximize=False,
    n_rounds=3,
    n_repeats=3,
)

# %%
# How many of the 20 most stable mutants were found, among as many measured ones?

figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
for strategy, rows in rounds.groupby("strategy"):
    found = rows.groupby("measured")["found"]
    mean, deviation = found.mean(), found.std()
    axes.errorbar(mean.index, mean, deviation, label=strategy, capsize=3)
axes.set_xlabel("measured mutants")
axes.set_ylabel("found of the best 20")
axes.legend()
plt.show()

# %%
# And the mutants to make next, after the first 200 rows. ``predicted`` is in kcal/mol.

pipeline.fit(gb1.data[:200], gb1.target[:200])
candidates = single_variants(gb1.wild_type, positions=range(2, 22), offset=2)
table = propose(pipeline, candidates, 8, maximize=False, exclude=set(gb1.data[:200]))
print(table[["mutations", "predicted"]].round(2).to_string(index=False))
