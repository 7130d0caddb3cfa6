"""Advice about names of models that skesm does not have."""

from __future__ import annotations

import re
from difflib import get_close_matches

from skesm.esm2.spec import ALIASES, REGISTRY

#: Other families, by the part of their names after "esm".
_OTHER_FAMILIES = {
    "1b": "ESM-1b",
    "1v": "ESM-1v",
    "1": "ESM-1",
    "3": "ESM3",
    "c": "ESM C",
    "fold": "ESMFold",
    "if": "ESM-IF",
    "msa": "MSA Transformer",
}
_FAMILY = re.compile(f"esm[-_ ]?({'|'.join(_OTHER_FAMILIES)})(?=[-_ .0-9]|$)")

#: Hub organisations that publish the models of those families.
_PUBLISHERS = ("facebook", "evolutionaryscale", "biohub")

#: "8m" in "esm2t68mur50d": layers and parameters run together in a key.
_SIZE = re.compile(r"(?:8|35|150|650)m|(?:3|15)b")

_CLOSE = 0.65  # of 1: a published name without its "_UR50D" is suggested, and a name of another subject is not


def explain_other_family(model: str) -> str:
    """Why a model of another family is refused. Empty if the name is not one.

    The names of repositories of other organisations are their own: their ``config.json`` decides.

    Examples
    --------
    >>> explain_other_family("esm1v_t33_650M_UR90S_1")
    'it is of the family ESM-1v. skesm supports ESM-2 only'
    >>> explain_other_family("esm2_t6_8M_UR50D"), explain_other_family("a-lab/esmc-like")
    ('', '')
    """
    match = _FAMILY.match(_published_name(model)[1].lower())
    return f"it is of the family {_OTHER_FAMILIES[match.group(1)]}. skesm supports ESM-2 only" if match else ""


def suggest_name(model: str) -> str:
    """Known names that are close to a misspelt one, as a question. Empty if there are none.

    Examples
    --------
    >>> suggest_name("esm2_t33_650M")
    "did you mean 'esm2_t33_650M_UR50D'?"
    >>> suggest_name("facebook/esm2_t6_8M_UR50S")
    "did you mean 'facebook/esm2_t6_8M_UR50D'?"
    >>> suggest_name("ESM2-8M-UR50D"), suggest_name("protein")
    ("did you mean 'esm2_t6_8M_UR50D'?", '')
    """
    organisation, name = _published_name(model)
    if not name:
        return ""
    full_names = organisation or "_t" in name.lower()
    known = {_key(each): each for each in REGISTRY if not organisation or REGISTRY[each].repository is not None}
    known |= {} if full_names else {_key(each): each for each in ALIASES}
    size = _SIZE.search(_key(name))
    if size is not None:  # a name of another size would be a wrong answer
        known = {key: each for key, each in known.items() if size.group() in key}
    close = get_close_matches(_key(name), list(known), n=1, cutoff=_CLOSE)
    if not close:
        return ""
    return f"did you mean {REGISTRY[known[close[0]]].repository if organisation else known[close[0]]!r}?"


def _published_name(model: str) -> tuple[str, str]:
    """Organisation and name, without the revision. Both are empty for repositories of other organisations."""
    organisation, _, name = model.partition("@")[0].rpartition("/")
    return ("", "") if organisation and organisation.lower() not in _PUBLISHERS else (organisation, name)


def _key(name: str) -> str:
    return re.sub(r"[-_ ]", "", name.lower())
