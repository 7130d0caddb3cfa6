"""Protein sequences to features with ESM-2, as scikit-learn transformers."""

from skesm._embedder import ESM2Embedder
from skesm._logit_summarizer import ESM2LogitSummarizer
from skesm._variant_scorer import ESM2VariantScorer

__version__ = "0.1.0"

__all__ = ["ESM2Embedder", "ESM2LogitSummarizer", "ESM2VariantScorer", "__version__"]
