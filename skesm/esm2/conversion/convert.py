"""torch's own checkpoint files to safetensors, without running anything that they may hold.

Names become those of transformers. No value changes, no tensor is left out, none is invented.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from skesm._messages import first_and_more
from skesm.esm2.conversion import fair_esm
from skesm.esm2.conversion.pickled import import_safe_torch, read_pickled
from skesm.esm2.conversion.sources import Pickles, adapter_advice, find_pickles
from skesm.esm2.spec import ModelSpec
from skesm.esm2.weights.config import read_spec, spec_from_config
from skesm.esm2.weights.digests import RECORD, write_record
from skesm.esm2.weights.files import WeightsFiles
from skesm.esm2.weights.parameters import Parameters, read_parameters
from skesm.esm2.weights.writer import can_write, write_tensors
from skesm.exceptions import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

_CONFIG = "config.json"
_EMBEDDING = "embeddings.word_embeddings.weight"
_HEAD = "lm_head.dense.weight"

#: Prefixes that wrappers (DataParallel, torch.compile, Lightning, your own module) put before every name.
PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.")

#: Where trainers put the weights among other things.
_STATES = ("model", "state_dict", "model_state_dict")

#: Files that say how letters are counted. They stay beside the weights.
_TOKENIZER = (
    "vocab.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)


@dataclass(frozen=True)
class Conversion:
    """A checkpoint that was converted.

    Attributes
    ----------
    folder : Path
        The new folder. Give it as the model.
    files : tuple of Path
        Its safetensors files.
    naming : {"transformers", "fair-esm"}
        Whose names the source used.
    prefixes : tuple of str
        Prefixes of wrappers that were taken off the names.
    has_head : bool
        Whether there is a language-model head, which gives logits.
    has_contact_head : bool
        Whether there is a contact head.
    """

    folder: Path
    files: tuple[Path, ...]
    naming: str
    prefixes: tuple[str, ...]
    has_head: bool
    has_contact_head: bool


def convert(source: str | os.PathLike[str], folder: str | os.PathLike[str]) -> Conversion:
    """Convert a checkpoint in torch's own format to a folder with safetensors.

    Parameters
    ----------
    source : str or path
        A ``.bin``, ``.pt``, ``.pth`` or ``.ckpt`` file, the index of shards, or a folder that holds one of them.
        transformers' and fair-esm's names are understood. ``config.json`` stands beside the file. A file of fair-esm
        that holds the model's arguments needs none.
    folder : str or path
        The folder to make. It appears when it is complete.

    Returns
    -------
    conversion : Conversion

    Raises
    ------
    CheckpointError
        If something is not understood. The message names it. Nothing is written then.
    CheckpointNotFoundError
        If the source, or a part of it, is not there.
    MissingDependencyError
        If torch 2.6 or later is not installed.

    Notes
    -----
    The files are pickles, which can run code when they are loaded. They are read with ``weights_only=True``, and
    anything but tensors and plain containers is refused.

    Examples
    --------
    >>> from skesm.models import convert
    >>> convert("esm2_t6_8M_UR50D.pt", "esm2_8M")
    Traceback (most recent call last):
        ...
    skesm.exceptions.CheckpointNotFoundError: esm2_t6_8M_UR50D.pt does not exist
    """
    source, folder = Path(source), Path(folder)
    pickles = find_pickles(source)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise CheckpointError(f"{folder} exists already: give a new folder")
    import_safe_torch()
    with _complete_or_absent(folder) as temporary:
        files, names = _write_folder(pickles, temporary)
        spec = read_spec(str(source), temporary / _CONFIG)
        parameters = _check(spec, files)
        write_record(temporary / RECORD, [*files, temporary / _CONFIG])
    return Conversion(
        folder=folder,
        files=tuple(folder / path.name for path in files),
        naming=names.naming,
        prefixes=names.prefixes,
        has_head=parameters.head is not None,
        has_contact_head=parameters.contacts is not None,
    )


@contextmanager
def _complete_or_absent(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder`, which takes its name at the end, and goes if anything fails."""
    folder.absolute().parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.absolute().with_name(f".{folder.absolute().name}.{uuid.uuid4().hex}.part")
    temporary.mkdir()
    try:
        yield temporary
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


# names ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Names:
    """New name of each tensor, and how they were found."""

    new: Mapping[str, str]
    naming: str
    prefixes: tuple[str, ...]


def _plan_names(source: Path, names: Iterable[str]) -> _Names:
    stripped, prefixes = {}, []
    for name in names:
        bare = name
        while prefix := next((p for p in PREFIXES if bare.startswith(p)), None):
            bare = bare.removeprefix(prefix)
            if prefix not in prefixes:
                prefixes.append(prefix)
        stripped[name] = bare
    adapters = [name for name in stripped if re.search(r"\blora_|\.base_layer\.|^base_model\.", name)]
    if adapters:
        raise CheckpointError(f"{source} {adapter_advice(_listed(adapters))}")
    bare_names = set(stripped.values())
    of_transformers = bool(bare_names & {_EMBEDDING, f"esm.{_EMBEDDING}"})
    of_fair_esm = any(fair_esm.without_fairseq(name) == fair_esm.EMBEDDING for name in bare_names)
    if of_transformers == of_fair_esm:
        raise CheckpointError(
            f"{source} holds no ESM-2 model in transformers' or fair-esm's names, or two of them. "
            f"It holds {_listed(sorted(bare_names))}"
        )
    new = _renamed(source, stripped) if of_fair_esm else stripped
    twice = [name for name, count in Counter(new.values()).items() if count > 1]
    if twice:
        olds = [old for old, name in new.items() if name in twice]
        raise CheckpointError(f"{source} holds tensors twice, under several names: {_listed(olds)}")
    return _Names(new, "fair-esm" if of_fair_esm else "transformers", tuple(prefixes))


def _renamed(source: Path, names: Mapping[str, str]) -> dict[str, str]:
    new = {old: fair_esm.to_transformers(name) for old, name in names.items()}
    unknown = [old for old, name in new.items() if name is None]
    if unknown:
        raise CheckpointError(f"{source} holds tensors that ESM-2 does not have: {_listed(unknown)}")
    return {old: name for old, name in new.items() if name is not None}


def _listed(names: Iterable[str]) -> str:
    return first_and_more(names, ", ", last=" ")


# reading and writing --------------------------------------------------------------------------------------------------


def _write_folder(pickles: Pickles, target: Path) -> tuple[list[Path], _Names]:
    """Write weights and configuration into `target`. A shard becomes a shard."""
    for name in (_CONFIG, *_TOKENIZER):
        if (pickles.folder / name).is_file():
            shutil.copyfile(pickles.folder / name, target / name)
    if pickles.index is not None:
        return _write_shards(pickles, pickles.index, target)
    (path,) = pickles.files
    content = read_pickled(path)
    state = dict(_state_of(path, content))
    if pickles.contacts is not None:
        state |= _state_of(pickles.contacts, read_pickled(pickles.contacts))
    names = _plan_names(path, state)
    tensors = {names.new[old]: tensor for old, tensor in state.items()}
    _write_config(path, content, names, tensors, target)
    file = target / "model.safetensors"
    write_tensors(file, tensors)
    return [file], names


def _write_shards(pickles: Pickles, index: Mapping[str, str], target: Path) -> tuple[list[Path], _Names]:
    names = _plan_names(pickles.folder, index)
    if not (target / _CONFIG).is_file():
        raise _no_config(pickles.folder)
    count, total = len(pickles.files), 0
    files = []
    weight_map: dict[str, str] = {}
    for number, path in enumerate(pickles.files, 1):
        state = _state_of(path, read_pickled(path))
        expected = {name for name, file in index.items() if file == path.name}
        if set(state) != expected:
            raise CheckpointError(f"{path} and the index do not agree on {_listed(sorted(set(state) ^ expected))}")
        file = target / f"model-{number:05d}-of-{count:05d}.safetensors"
        total += write_tensors(file, {names.new[old]: tensor for old, tensor in state.items()})
        weight_map |= {names.new[old]: file.name for old in state}
        files.append(file)
    content = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (target / "model.safetensors.index.json").write_text(json.dumps(content, indent=2), encoding="utf-8")
    return files, names


def _state_of(path: Path, content: object) -> Mapping[str, Tensor]:
    """The tensors in a file's content, each of which can be written."""
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a model's state_dict")
    nested = [key for key in _STATES if isinstance(content.get(key), Mapping)]
    if len(nested) > 1:
        raise CheckpointError(f"{path} holds several models: {_listed(nested)}")
    state = content[nested[0]] if nested else content
    strange = [str(name) for name, value in state.items() if not isinstance(name, str) or not can_write(value)]
    if strange or not state:
        raise CheckpointError(
            f"{path} holds values that are not dense tensors of weights: {_listed(strange) or 'nothing'}"
        )
    return state


def _write_config(path: Path, content: object, names: _Names, tensors: Mapping[str, Tensor], target: Path) -> None:
    """Make config.json of a fair-esm file's arguments, or see that there is one."""
    arguments = fair_esm.arguments_of(content) if names.naming == "fair-esm" else None
    there = target / _CONFIG
    if arguments is None:
        if not there.is_file():
            raise _no_config(path)
        return
    config = fair_esm.config_from(path, arguments)
    spec = spec_from_config(str(path), config)
    if there.is_file() and read_spec(str(path), there) != spec:
        raise CheckpointError(f"{path} and the config.json beside it do not describe the same model: {spec}")
    decoder = tensors.get("lm_head.decoder.weight")
    config["architectures"] = ["EsmForMaskedLM" if _HEAD in tensors else "EsmModel"]
    config["tie_word_embeddings"] = decoder is None or decoder.equal(tensors[f"esm.{_EMBEDDING}"])
    there.write_text(json.dumps(config, indent=2), encoding="utf-8")


def _no_config(path: Path) -> CheckpointError:
    return CheckpointError(
        f"{path} does not say which model it is. Put the {_CONFIG} of the model that it was trained from beside it"
    )


def _check(spec: ModelSpec, files: list[Path]) -> Parameters:
    """Read the new files as a model does, every block: whatever is missing or of another shape is named."""
    parameters = read_parameters(spec, WeightsFiles(files))
    for _ in parameters.blocks:
        pass
    return parameters
