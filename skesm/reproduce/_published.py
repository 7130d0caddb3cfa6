"""Figures that others published, and their sources."""

from __future__ import annotations

from dataclasses import dataclass

from skesm.esm2.spec import find_registered

_PROTEINGYM = "ProteinGym, DMS_substitutions_Spearman_DMS_level.csv at commit bb685245f8f4bb95a5b54b470396c23826cd6284"
_BIOLM = "BioLM's tutorial on GFP; the figure is quoted, its page was not at hand"

TUTORIAL = "biolm-tutorial"
SPEARMAN, RMSE = "Spearman", "RMSE"


@dataclass(frozen=True)
class Published:
    """A published figure.

    Attributes
    ----------
    assay : str
        Name of ProteinGym's assay, or ``"biolm-tutorial"``.
    model : str
        Registry name of the model.
    metric : str
        ``"Spearman"`` or ``"RMSE"``.
    value : float
    spread : float or None
        The standard deviation over folds, where it is stated.
    source : str
        Where it is published.
    """

    assay: str
    model: str
    metric: str
    value: float
    spread: float | None
    source: str


_MODELS = ("esm2_t6_8M_UR50D", "esm2_t12_35M_UR50D", "esm2_t30_150M_UR50D", "esm2_t33_650M_UR50D")
_ZERO_SHOT = {
    "BLAT_ECOLX_Stiffler_2015": (0.399, 0.557, 0.661, 0.731),
    "PABP_YEAST_Melamed_2013": (0.476, 0.566, 0.648, 0.716),
    "GFP_AEQVI_Sarkisyan_2016": (0.078, 0.131, 0.103, 0.108),
}

#: The rows that are known without a network.
PUBLISHED: tuple[Published, ...] = (
    *(
        Published(assay, model, SPEARMAN, value, None, _PROTEINGYM)
        for assay, values in _ZERO_SHOT.items()
        for model, value in zip(_MODELS, values, strict=True)
    ),
    Published(TUTORIAL, "esm2_t33_650M_UR50D", RMSE, 1.0895, 0.214, _BIOLM),
)


def find_published(assay: str, model: str) -> Published | None:
    """The built-in row of an assay and model, None if there is none.

    Examples
    --------
    >>> find_published("BLAT_ECOLX_Stiffler_2015", "esm2-8m").value
    0.399
    """
    spec = find_registered(model)
    name = model if spec is None else spec.name
    return next((row for row in PUBLISHED if (row.assay, row.model) == (assay, name)), None)


def column_of_model(model: str) -> str | None:
    """The column of ProteinGym's table that holds a model's scores, None for other models.

    Examples
    --------
    >>> column_of_model("esm2_t33_650M_UR50D"), column_of_model("skesm-mini")
    ('ESM2 (650M)', None)
    """
    spec = find_registered(model)
    if spec is None or spec.repository is None:
        return None
    return f"ESM2 ({spec.name.split('_')[2]})"


def of_table(assay: str, model: str, table: dict[str, dict[str, str]]) -> Published | None:
    """The row of an assay and model in ProteinGym's fetched table, None if it has none."""
    column = column_of_model(model)
    value = table.get(assay, {}).get(column or "")
    if not value:
        return None
    spec = find_registered(model)
    assert spec is not None, "it has a column"
    return Published(assay, spec.name, SPEARMAN, float(value), None, _PROTEINGYM)
