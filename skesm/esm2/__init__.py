"""The ESM-2 protein language model (Lin et al. 2023): shapes, tokens, checkpoints and two engines.

Knows nothing of scikit-learn, caches or backends.
"""
