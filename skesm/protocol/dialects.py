"""Each protocol of BioLM's services for ESM-2 as one frozen object. Client and server both use it.

========  ===========================================  ====================================================
dialect   request                                      answer for one sequence
========  ===========================================  ====================================================
``v1``    ``/api/v1/models/{name}/transform/``         ``mean_representations`` of the last layer, ``contacts``,
                                                       one-dimensional ``logits`` and ``attentions``, always
``v2``    ``/api/v2/{slug}/encode/``                   ``mean_representations``, ``representations`` … by
                                                       layer: ``{"33": […]}``
``v3``    ``/api/v3/{slug}/encode/``                   ``embeddings``, ``per_token_embeddings`` … by layer:
                                                       ``[{"layer": 33, "embedding": […]}]``
``hub``   ``/api/v1/{slug}/encode``                    as v3, but ``residue_embeddings``, and null for
                                                       outputs that were not asked for
========  ===========================================  ====================================================

All but v1 also have ``predict``. It gives logits for sequences with ``<mask>``, which ``encode`` does not take.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType

from skesm.outputs.kinds import CONTACTS, KINDS
from skesm.protocol.shapes import HOSTED_ERRORS, HUB_ERRORS, Errors

#: Our names of the actions. `ENCODE` gives representations, logits and contacts. `PREDICT` takes ``<mask>``. `LOG_PROB`
#: gives one number for each sequence.
ENCODE, PREDICT, LOG_PROB = "encode", "predict", "log_prob"

_RECEIVED = "attention_received"
#: The kind of output that `PREDICT` answers.
PREDICTED = "logits"
#: Kinds that come as one array of all layers, from the first to the last, however many layers were asked for.
STACKED = (_RECEIVED,)
#: Kinds that the hub computes wrongly if a request holds sequences of different lengths: it takes the mean of the
#: attention over the tokens of the longest sequence, padding included.
NEED_EQUAL_LENGTHS = (_RECEIVED,)
#: Kind of output to the key that names its columns.
COLUMNS = {PREDICTED: "vocab_tokens"}

_ATTENTION_REMEDY = (
    "services answer attention_received only: choose statistics=('received_max', 'received_entropy') of "
    "ESM2AttentionSummarizer, or the local backend"
)
_LOGIT_MEANS_REMEDY = (
    "services answer the logits of the 20 amino acids only: choose statistics such as 'entropy_mean' or "
    "'log_likelihood_mean' of ESM2LogitSummarizer, or dialect='v1', or the local backend"
)


@dataclass(frozen=True)
class Dialect:
    """One protocol.

    Attributes
    ----------
    name : str
        Value of the parameter `dialect`.
    path : str
        Path of requests. ``{slug}`` and ``{action}`` are filled in.
    actions : mapping of str to str
        Our name of an action to its name in the path.
    schema : str or None
        Path of the JSON Schema of a request, or None.
    items, item : str, tuple of str
        Key of the list of sequences, and the keys inside an item that lead to the letters.
    results : str
        Key of the list of answers.
    layers_by_name : bool
        Whether layers are a mapping (``{"33": […]}``), not a list (``[{"layer": 33, …}]``).
    layer_keys : mapping of str to str
        Name in ``include`` to the key of the answer, for outputs with layers.
    always : tuple of str
        Keys of every answer. The value is null if it was not asked for.
    number : (str, type) or None
        Key under which the server numbers its results, and the type of the number. The client checks any number that
        it finds.
    names_columns : bool
        Whether logits come with the names of their columns, under the key in `COLUMNS`.
    includes : mapping of str to str
        Kind of output to its name in ``include``: the kinds that an answer can hold.
    aliases : mapping of str to str
        Another name in ``include`` to the usual one.
    unread : tuple of str
        Kinds that the server answers, but that the client does not trust.
    choice : bool
        Whether a request can choose layers and outputs. If not, the answer holds all outputs of the last layer.
    ends, hosted_ends : tuple of str
        Ends of a base URL that stand for this dialect. The second ones count on biolm.ai only.
    registry_names : bool
        Whether models go by their registry names, not by slugs.
    slugs : mapping of str to str
        Slugs that are spelt differently.
    errors : Errors
        Shape of its errors.
    remedies : mapping of str to str
        Kind of output that is not available to a setting that works. ``""`` is for all others.
    """

    name: str
    path: str
    actions: Mapping[str, str]
    schema: str | None
    items: str
    item: tuple[str, ...]
    results: str
    layers_by_name: bool
    layer_keys: Mapping[str, str]
    always: tuple[str, ...]
    number: tuple[str, type[str | int]] | None
    names_columns: bool
    includes: Mapping[str, str]
    choice: bool
    errors: Errors
    remedies: Mapping[str, str]
    ends: tuple[str, ...]
    hosted_ends: tuple[str, ...] = ()
    registry_names: bool = False
    slugs: Mapping[str, str] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    unread: tuple[str, ...] = ()

    def key(self, kind: str) -> str:
        """Key of an answer that holds this kind of output."""
        return self.layer_keys.get(self.includes[kind], self.includes[kind])

    def carrier(self, kind: str) -> str | None:
        """The kind that an answer holds and that gives this one: itself, or the kind from which it is derived.

        Examples
        --------
        >>> DIALECTS["v3"].carrier("max"), DIALECTS["v1"].carrier("max")
        ('residues', None)
        """
        row = KINDS[kind]
        carrier = row.source if row.pooled_by_engines and kind not in self.includes else kind
        return carrier if carrier in self.includes else None

    @cached_property
    def kinds(self) -> Mapping[str, str]:
        """Name in ``include``, or its alias, to the kind of output."""
        found: dict[str, str] = {}
        for kind, name in self.includes.items():
            found |= {name: kind} | {alias: kind for alias, usual in self.aliases.items() if usual == name}
        return found


_HOSTED_ACTIONS = {ENCODE: "encode", PREDICT: "predict"}
_INCLUDES = {
    "mean": "mean",
    "residues": "per_residue",
    "cls": "bos",
    "logits": "logits",
    CONTACTS: "contacts",
    _RECEIVED: "attentions",
}
_ALIASES = {"per_token": "per_residue"}
_REMEDIES = {
    "": "use the local backend",
    "eos": "choose pooling 'cls', 'mean' or 'max', or the local backend",
    "logit_means": _LOGIT_MEANS_REMEDY,
    "attentions": _ATTENTION_REMEDY,
    "attention_heads": _ATTENTION_REMEDY,
}

_V1 = Dialect(
    name="v1",
    path="/api/v1/models/{slug}/{action}/",
    actions={ENCODE: "transform"},
    schema=None,
    items="instances",
    item=("data", "text"),
    results="predictions",
    layers_by_name=True,
    layer_keys={"mean": "mean_representations"},
    always=("mean_representations", "contacts", "logits", "attentions"),
    number=("name", str),
    names_columns=False,
    includes={"mean": "mean", "logit_means": "logits", CONTACTS: "contacts", _RECEIVED: "attentions"},
    unread=(_RECEIVED,),  # their axes are not documented, and a shape of n x n would not tell
    choice=False,
    errors=HOSTED_ERRORS,
    remedies={
        "": "this dialect answers only mean of the last layer, logit_means and contacts: use dialect='v3' or the local "
        "backend"
    },
    ends=("/api/v1/models",),
    hosted_ends=("/api/v1",),
    registry_names=True,
)
_V2 = Dialect(
    name="v2",
    path="/api/v2/{slug}/{action}/",
    actions=_HOSTED_ACTIONS,
    schema="/api/v2/schema/{slug}/{action}/",
    items="items",
    item=("sequence",),
    results="results",
    layers_by_name=True,
    layer_keys={
        "mean": "mean_representations",
        "per_residue": "representations",
        "bos": "bos_representations",
    },
    always=(),
    number=None,
    names_columns=False,
    includes=_INCLUDES,
    aliases=_ALIASES,
    choice=True,
    errors=HOSTED_ERRORS,
    remedies=_REMEDIES,
    ends=("/api/v2",),
    slugs={"esm2-3b": "esm2-3B"},  # the documentation of v2 writes this one with a capital
)
#: v3 takes the requests of v2. Its answers list the layers, and number the results.
_V3 = replace(
    _V2,
    name="v3",
    path="/api/v3/{slug}/{action}/",
    schema="/api/v3/schema/{slug}/{action}/",
    layers_by_name=False,
    layer_keys={"mean": "embeddings", "per_residue": "per_token_embeddings", "bos": "bos_embeddings"},
    number=("sequence_index", int),
    names_columns=True,
    ends=("/api/v3",),
    slugs={},
)
#: The hub answers as v3 does, under another path, with a further action and errors of its own.
_HUB = replace(
    _V3,
    name="hub",
    path="/api/v1/{slug}/{action}",  # with a slash at the end, the hub redirects
    actions={**_HOSTED_ACTIONS, LOG_PROB: "log_prob"},
    schema="/openapi.json",
    layer_keys={"mean": "embeddings", "per_residue": "residue_embeddings", "bos": "bos_embeddings"},
    always=(
        *("embeddings", "bos_embeddings", "residue_embeddings", "contacts", "logits", "vocab_tokens", "attentions"),
    ),
    errors=HUB_ERRORS,
    ends=("/api/v1",),
)

#: The dialects by name.
DIALECTS: Mapping[str, Dialect] = MappingProxyType({dialect.name: dialect for dialect in (_V1, _V2, _V3, _HUB)})


def guess_dialect(path: str, *, hosted: bool) -> tuple[str, str]:
    """Name of the dialect that a base URL's path stands for, and the path without the part that belongs to it.

    Examples
    --------
    >>> guess_dialect("/esm/api/v2", hosted=False), guess_dialect("", hosted=True), guess_dialect("", hosted=False)
    (('v2', '/esm'), ('v3', ''), ('hub', ''))
    """
    for dialect in DIALECTS.values():
        for end in (*dialect.ends, *(dialect.hosted_ends if hosted else ())):
            if path.endswith(end):
                return dialect.name, path.removesuffix(end)
    return (_V3 if hosted else _HUB).name, path
