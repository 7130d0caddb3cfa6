"""Protein sequences to features with ESM-2, as scikit-learn transformers."""

from skesm._attention_summarizer import ESM2AttentionSummarizer
from skesm._compute_outputs import compute_outputs
from skesm._contact_summarizer import ESM2ContactSummarizer
from skesm._embedder import ESM2Embedder
from skesm._logit_summarizer import ESM2LogitSummarizer
from skesm._mutations import apply_mutations
from skesm._residue_embedder import ESM2ResidueEmbedder
from skesm._variant_scorer import ESM2VariantScorer

__version__ = "0.1.0"

__all__ = [
    "ESM2AttentionSummarizer",
    "ESM2ContactSummarizer",
    "ESM2Embedder",
    "ESM2LogitSummarizer",
    "ESM2ResidueEmbedder",
    "ESM2VariantScorer",
    "__version__",
    "apply_mutations",
    "compute_outputs",
]
