"""Find a checkpoint: a bundled or registry name, a local folder, or a Hub repository.

A model is named by

- a registry name (``"esm2_t6_8M_UR50D"``, short ``"esm2-8m"``) or the bundled ``"skesm-mini"``,
- a folder in transformers' format (``config.json`` and ``model.safetensors``, or its shards and index),
- a Hub repository id (``"facebook/esm2_t6_8M_UR50D"``).

Hub names may end in ``@revision`` (a branch, tag or commit). Files in the Hub's cache on this machine are used
without asking the network: weights do not change under a user who did not ask for it. Only safetensors are read:
pickles are converted first, by `skesm.esm2.conversion.convert`, and those of the Hub at their first use.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from skesm.esm2.checkpoints.hub import CONFIG, INDEX, SINGLE, Repository
from skesm.esm2.checkpoints.names import explain_other_family, suggest_name
from skesm.esm2.conversion.sources import how_to_convert, is_pickle, pickles_in, refuse_adapter
from skesm.esm2.spec import DEMO_MODEL, ModelSpec, find_registered
from skesm.esm2.weights.config import check_vocabulary, read_index, read_spec
from skesm.esm2.weights.files import WeightsFiles
from skesm.exceptions import CheckpointError, CheckpointNotFoundError

_BUNDLED = Path(__file__).parents[1] / "weights" / DEMO_MODEL


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on this machine.

    Attributes
    ----------
    spec : ModelSpec
    files : tuple of Path
        The safetensors files, in one folder.
    revision : str or None
        The revision that was asked for. None for folders and the bundled model.
    commit : str or None
        The Hub's commit that `revision` stood for when the files were fetched.
    """

    spec: ModelSpec
    files: tuple[Path, ...]
    revision: str | None = None
    commit: str | None = None

    @property
    def index(self) -> Path | None:
        """The index of shards, if there is one."""
        first = self.files[0]
        index = first.with_name(INDEX)
        return index if first.name != SINGLE and index.is_file() else None


def find_spec(model: str | os.PathLike[str]) -> ModelSpec:
    """Shape of a model. Reads at most its ``config.json``.

    Raises
    ------
    CheckpointNotFoundError, CheckpointError

    Examples
    --------
    >>> find_spec("esm2_t6_8M_UR50D").width
    320
    """
    name = os.fspath(model)
    registered = find_registered(name.partition("@")[0])
    if registered is not None:
        return registered
    if _is_folder(name):
        refuse_adapter(Path(name))
        return read_spec(name, Path(name) / CONFIG)
    repository, revision = _split_repository(name)
    return replace(read_spec(name, Repository(repository, revision, name).config()), repository=repository)


def locate(model: str | os.PathLike[str], *, download: bool = True) -> Checkpoint:
    """The files of a model, fetched from the Hub if they are not on this machine and `download` allows it.

    Raises
    ------
    CheckpointNotFoundError
        If a file is not here and cannot be fetched. The message says how to get it and where to put it.
    CheckpointError
        If the files are not an ESM-2 checkpoint in safetensors format.
    MissingDependencyError
        If the Hub has torch's pickles only, and torch 2.6 or later is not installed.
    """
    name = os.fspath(model)
    registered = find_registered(name.partition("@")[0])
    if registered is not None and registered.repository is None:
        if "@" in name:
            raise CheckpointNotFoundError(f"model {name!r}: the bundled model has no revisions")
        return Checkpoint(registered, (_BUNDLED / SINGLE,))
    if registered is None and _is_folder(name):
        folder = Path(name)
        refuse_adapter(folder)
        spec = read_spec(name, folder / CONFIG)
        check_vocabulary(name, folder)
        return Checkpoint(spec, _files_in(folder))
    return _locate_on_hub(name, registered, download)


def open_weights(checkpoint: Checkpoint) -> WeightsFiles:
    """The tensors of a checkpoint. Of shards, those that their index names.

    Raises
    ------
    CheckpointError
        If a file is damaged, or if the files contradict their index.
    """
    return WeightsFiles(checkpoint.files, None if checkpoint.index is None else read_index(checkpoint.index))


def _is_folder(name: str) -> bool:
    """Whether a name is a folder on this machine.

    Raises
    ------
    CheckpointError
        If it is a file. The message says how to use it.
    """
    path = Path(name)
    if not path.is_file():
        return os.path.isdir(name)
    if is_pickle(path):
        raise CheckpointError(f"model {name!r} is a file, and a pickle, which is never loaded. {how_to_convert(path)}")
    raise CheckpointError(
        f"model {name!r} is a file. Give the folder that holds {CONFIG} and {SINGLE}, for example {str(path.parent)!r}"
    )


def _files_in(folder: Path) -> tuple[Path, ...]:
    if (folder / SINGLE).is_file():
        return (folder / SINGLE,)
    if (folder / INDEX).is_file():
        shards = tuple(folder / shard for shard in _shards(folder / INDEX))
        missing = [shard.name for shard in shards if not shard.is_file()]
        if missing:
            raise CheckpointNotFoundError(f"{folder}: {INDEX} names files that are not there: {', '.join(missing)}")
        return shards
    pickles = pickles_in(folder)
    if pickles:
        raise CheckpointError(
            f"{folder} holds {pickles[0].name}, a pickle, which is never loaded because it can run code. "
            f"{how_to_convert(folder)}"
        )
    raise CheckpointNotFoundError(f"{folder} holds neither {SINGLE} nor {INDEX}")


def _locate_on_hub(name: str, registered: ModelSpec | None, download: bool) -> Checkpoint:
    repository, revision = _split_repository(name)
    if registered is not None and registered.repository is not None:
        repository = registered.repository
    hub = Repository(repository, revision, name, download)
    config = hub.config()
    spec = replace(read_spec(registered.name if registered else name, config), repository=repository)
    if registered is not None and spec != registered:
        raise CheckpointError(f"{repository}: config.json does not describe {registered.name}: {spec}")
    refuse_adapter(config.parent)
    commit = config.parent.name  # the Hub's cache keeps one folder for each commit
    return Checkpoint(spec, _files_on_hub(hub, commit), revision=revision or "main", commit=commit)


def _files_on_hub(hub: Repository, commit: str) -> tuple[Path, ...]:
    if hub.converted(commit).is_dir():
        return _files_in(hub.converted(commit))
    single = hub.find(SINGLE, commit)
    if single is not None:
        return (single,)
    index = hub.find(INDEX, commit)
    if index is not None:
        return tuple(hub.fetch(shard, commit) for shard in _shards(index))
    return _files_in(hub.fetch_and_convert(commit))


def _split_repository(name: str) -> tuple[str, str | None]:
    """("organisation/name", revision), checked before any request."""
    repository, _, revision = name.partition("@")
    if find_registered(repository) is None:
        if reason := explain_other_family(repository):
            raise CheckpointNotFoundError(f"model {name!r} is not supported: {reason}")
        parts = repository.split("/")
        if len(parts) != 2 or not all(part and part.strip(".") for part in parts) or "\\" in repository:
            raise CheckpointNotFoundError(
                f"model {name!r} is not a known name, not a folder on this machine, and not a Hub repository "
                f"('organisation/name'){_suggestion(name)} Run `skesm models` for the names that are known."
            )
    return repository, revision or None


def _suggestion(name: str) -> str:
    suggestion = suggest_name(name)
    return f"; {suggestion}" if suggestion else "."


def _shards(index: Path) -> list[str]:
    """File names in a shard index."""
    return sorted(set(read_index(index).values()))
