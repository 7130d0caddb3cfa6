"""Find torch's own files in a folder, and the shards of one checkpoint. Nothing is read but their index."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from skesm.esm2.weights.config import read_index
from skesm.exceptions import CheckpointError, CheckpointNotFoundError

PICKLED = "pytorch_model.bin"
PICKLED_INDEX = "pytorch_model.bin.index.json"

ADAPTER_CONFIG = "adapter_config.json"

#: Endings of files that are pickles.
PICKLED_ENDINGS = (".bin", ".pt", ".pth", ".ckpt")

#: Names of files without weights that trainers write beside a model.
_OF_TRAINING = ("training_args", "optimizer", "scheduler", "scaler", "rng_state")

_CONTACTS = "-contact-regression"


@dataclass(frozen=True)
class Pickles:
    """The files of one checkpoint.

    Attributes
    ----------
    files : tuple of Path
    index : mapping of str to str, or None
        File name of each tensor, if there are shards.
    contacts : Path or None
        fair-esm's contact head, which it keeps in a file beside the model's.
    """

    files: tuple[Path, ...]
    index: Mapping[str, str] | None = None
    contacts: Path | None = None

    @property
    def folder(self) -> Path:
        """The folder that holds them."""
        return self.files[0].parent


def is_pickle(path: Path) -> bool:
    """Whether a file's ending is that of a pickle."""
    return path.suffix.lower() in PICKLED_ENDINGS


def pickles_in(folder: Path) -> list[Path]:
    """The pickles in a folder that may hold weights, by name."""
    found = (path for path in folder.iterdir() if is_pickle(path) and path.is_file())
    return sorted(path for path in found if not path.stem.startswith(_OF_TRAINING) and _CONTACTS not in path.stem)


def how_to_convert(source: Path | str) -> str:
    """The advice that every refusal of a pickle gives."""
    return f"Convert it to safetensors: skesm models convert {shlex.quote(str(source))} NEW_FOLDER"


def refuse_adapter(folder: Path) -> None:
    """Raise CheckpointError if a folder holds an adapter: the weights beside it, or elsewhere, are not those meant."""
    for name in (ADAPTER_CONFIG, "adapter_model.safetensors", "adapter_model.bin"):
        if (folder / name).exists():
            raise CheckpointError(f"{folder} {adapter_advice(name)}")


def adapter_advice(name: str) -> str:
    """The end of a message about something that holds an adapter's file."""
    return (
        f"holds an adapter ({name}), which changes the weights of another model. Merge the two with PEFT and save the "
        "result: model.merge_and_unload().save_pretrained('NEW_FOLDER')"
    )


def find_pickles(source: Path) -> Pickles:
    """The files of the checkpoint at `source`: a file, or a folder that holds one checkpoint.

    Raises
    ------
    CheckpointNotFoundError
        If there is nothing, or a shard is missing.
    CheckpointError
        If it is not clear which file is meant, or nothing needs to be converted.
    """
    if source.is_file():
        if source.name == PICKLED_INDEX:
            return _shards(source)
        if source.suffix == ".safetensors":
            raise CheckpointError(f"{source} is a safetensors file already. Give its folder as the model")
        contacts = source.with_name(f"{source.stem}{_CONTACTS}{source.suffix}")
        return Pickles((source,), contacts=contacts if contacts.is_file() else None)
    if not source.is_dir():
        raise CheckpointNotFoundError(f"{source} does not exist")
    refuse_adapter(source)
    if any(source.glob("*.safetensors")):
        raise CheckpointError(f"{source} holds safetensors already. To convert another file in it, give that file")
    if (source / PICKLED_INDEX).is_file():
        return _shards(source / PICKLED_INDEX)
    if (source / PICKLED).is_file():
        return find_pickles(source / PICKLED)
    found = pickles_in(source)
    if len(found) != 1:
        names = ", ".join(path.name for path in found)
        raise CheckpointError(
            f"{source} holds several files that may be the model: {names}. Give one of them as the source"
            if found
            else f"{source} holds no file that can be converted ({', '.join(PICKLED_ENDINGS)})"
        )
    return find_pickles(found[0])


def _shards(index: Path) -> Pickles:
    weight_map = read_index(index, PICKLED_ENDINGS)
    files = tuple(index.parent / name for name in sorted(set(weight_map.values())))
    missing = [path.name for path in files if not path.is_file()]
    if missing:
        raise CheckpointNotFoundError(f"{index} names files that are not there: {', '.join(missing)}")
    return Pickles(files, weight_map)
