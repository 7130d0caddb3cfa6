"""Protein sequences to features with ESM-2, as scikit-learn transformers."""

from skesm.features.attention_summarizer import ESM2AttentionSummarizer
from skesm.features.compute_outputs import compute_outputs
from skesm.features.contact_summarizer import ESM2ContactSummarizer
from skesm.features.embedder import ESM2Embedder
from skesm.features.encoders.sequence_encoders import AminoAcidComposition, OneHotSequence
from skesm.features.encoders.variant_encoders import PositionEncoder, SubstitutionEncoder
from skesm.features.logit_summarizer import ESM2LogitSummarizer
from skesm.features.residue_embedder import ESM2ResidueEmbedder
from skesm.features.variant_pipeline import variant_pipeline
from skesm.features.variant_scorer import ESM2VariantScorer
from skesm.sequences.mutations import apply_mutations

__version__ = "0.1.0"

__all__ = [
    "AminoAcidComposition",
    "ESM2AttentionSummarizer",
    "ESM2ContactSummarizer",
    "ESM2Embedder",
    "ESM2LogitSummarizer",
    "ESM2ResidueEmbedder",
    "ESM2VariantScorer",
    "OneHotSequence",
    "PositionEncoder",
    "SubstitutionEncoder",
    "__version__",
    "apply_mutations",
    "compute_outputs",
    "variant_pipeline",
]
