"""Names of tensors: the ones that no output needs, and errors with remedies for others."""

from __future__ import annotations

import re
from collections.abc import Iterable

from skesm._messages import first_and_more
from skesm.exceptions import CheckpointError

#: Tensors that no output needs, behind "esm." or without it as the others, whatever they hold: the pooler, and position
#: tables, which rotary position embeddings have no use for.
_UNUSED_OF_MODEL = (
    r"pooler\.dense\.(weight|bias)",
    r"embeddings\.position_ids",
    r"embeddings\.position_embeddings\.weight",
)
#: The same without a prefix: heads of classifiers and regressors.
_UNUSED_HEADS = (r"classifier\..+",)

_ADAPTERS = re.compile(r"(^|[._])(lora|loha|lokr|ia3|oft|boft|vera|adalora|dora)_|\.base_layer\.|^base_model\.model\.")

_EMBEDDING = "embeddings.word_embeddings.weight"
_CONVERT = "run `skesm models convert SOURCE FOLDER`, and give FOLDER as the model"


def find_prefix(model: str, names: Iterable[str]) -> str:
    """How the names of the model's tensors begin: ``"esm."``, or ``""`` if transformers' `EsmModel` was saved.

    Raises
    ------
    CheckpointError
        If there is an adapter that was not merged, or if the names begin otherwise.
    """
    found = []
    for name in names:
        if _ADAPTERS.search(name):
            raise CheckpointError(
                f"{model}: the checkpoint holds tensor {name!r}, which belongs to an adapter (PEFT, LoRA) that is not "
                "merged into the weights. Merge it and save the result: "
                "peft_model.merge_and_unload().save_pretrained(folder)"
            )
        if name.endswith(_EMBEDDING):
            found.append(name.removesuffix(_EMBEDDING))
    if not found:
        raise CheckpointError(f"{model}: the checkpoint has no tensor esm.{_EMBEDDING}")
    for prefix in ("esm.", ""):
        if prefix in found:
            return prefix
    raise CheckpointError(
        f"{model}: names of tensors begin with {found[0]!r}, expected 'esm.' or nothing before 'embeddings': {_CONVERT}"
    )


def refuse_unused(model: str, prefix: str, names: Iterable[str]) -> None:
    """Refuse tensors that are not used, unless no output needs them.

    Raises
    ------
    CheckpointError
        Naming the first.
    """
    pattern = re.compile("|".join([*_UNUSED_HEADS, *(re.escape(prefix) + name for name in _UNUSED_OF_MODEL)]))
    unknown = sorted(name for name in names if not pattern.fullmatch(name))
    if not unknown:
        return
    tensors = "a tensor that is" if len(unknown) == 1 else "tensors that are"
    raise CheckpointError(
        f"{model}: the checkpoint holds {tensors} not part of ESM-2 as config.json describes it: "
        f"{first_and_more(map(repr, unknown), ', ', last=' ')}. "
        "Features without them could be wrong. If they are a head of your own, save the model without it: "
        "model.esm.save_pretrained(folder)"
    )
