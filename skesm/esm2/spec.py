"""Shapes of ESM-2 models, and the registry of those that have a name.

The published sizes are those of Lin et al., "Evolutionary-scale prediction of atomic-level protein structure with
a language model", Science 379 (2023), as hosted by their authors on the Hugging Face Hub.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

#: Name of the checkpoint that is bundled with skesm.
DEMO_MODEL = "skesm-mini"

VOCABULARY_SIZE = 33

#: Base of the rotary frequencies of all published models.
DEFAULT_ROPE_THETA = 10000.0


@dataclass(frozen=True)
class ModelSpec:
    """Everything about a model but its weights.

    Attributes
    ----------
    name : str
        Registry name, Hub repository id, or folder, as it was asked for.
    n_layers, width, n_heads : int
        Number of blocks, channels of the residual stream (d), attention heads.
    ffn_width : int
        Channels inside the feed-forward network, 4 × `width` in all published models.
    token_dropout : bool
        Whether embeddings are scaled as in the training with masks (true of all published ESM-2 models).
    layer_norm_eps : float
        Added to the variance in every LayerNorm.
    repository : str or None
        Hub repository id, None for folders and the bundled model.
    rope_theta : float
        Base of the rotary frequencies, of a checkpoint that does not hold them.
    tied_decoder : bool
        Whether the language-model head uses the embedding where a checkpoint holds no decoder of its own.
    """

    name: str
    n_layers: int
    width: int
    n_heads: int
    ffn_width: int
    token_dropout: bool = True
    layer_norm_eps: float = 1e-5
    repository: str | None = None
    rope_theta: float = DEFAULT_ROPE_THETA
    tied_decoder: bool = True

    @property
    def n_parameters(self) -> int:
        """Number of weights, without the contact head.

        Examples
        --------
        >>> round(find_registered("esm2_t33_650M_UR50D").n_parameters / 1e6)
        651
        """
        d, f = self.width, self.ffn_width
        block = 4 * d * (d + 1) + d * f + f + f * d + d + 4 * d
        head = d * (d + 1) + 2 * d + VOCABULARY_SIZE
        return VOCABULARY_SIZE * d + self.n_layers * block + 2 * d + head


def _published(size: str, n_layers: int, width: int, n_heads: int) -> ModelSpec:
    name = f"esm2_t{n_layers}_{size}_UR50D"
    return ModelSpec(name, n_layers, width, n_heads, 4 * width, repository=f"facebook/{name}")


#: Models that are known by name: the six published sizes and the bundled demo model.
REGISTRY: Mapping[str, ModelSpec] = {
    spec.name: spec
    for spec in (
        _published("8M", 6, 320, 20),
        _published("35M", 12, 480, 20),
        _published("150M", 30, 640, 20),
        _published("650M", 33, 1280, 20),
        _published("3B", 36, 2560, 40),
        _published("15B", 48, 5120, 40),
        ModelSpec(DEMO_MODEL, n_layers=6, width=192, n_heads=6, ffn_width=768, layer_norm_eps=1e-12),
    )
}

#: Short names, as BioLM uses them ("esm2-650m"), of the published sizes.
ALIASES: Mapping[str, str] = {
    f"esm2-{name.split('_')[2].lower()}": name for name in REGISTRY if name.startswith("esm2_t")
}


def find_registered(model: str) -> ModelSpec | None:
    """Spec of a registry name or its short form, None if it is neither.

    Examples
    --------
    >>> find_registered("esm2-8m").name
    'esm2_t6_8M_UR50D'
    >>> find_registered("someone/model") is None
    True
    """
    return REGISTRY.get(ALIASES.get(model.lower(), model))
