"""Find a checkpoint: a bundled or registry name, a local folder, or a Hub repository.

A model is named by

- a registry name (``"esm2_t6_8M_UR50D"``, short ``"esm2-8m"``) or the bundled ``"skesm-mini"``,
- a folder in transformers' format (``config.json`` and ``model.safetensors``, or its shards and index),
- a Hub repository id (``"facebook/esm2_t6_8M_UR50D"``).

Hub names may end in ``@revision`` (a branch, tag or commit). What the Hub's cache on this machine holds is used
without asking the network: weights do not change under a user who did not ask for it. Only safetensors are read,
never pickles.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from skesm.esm2.names import explain_other_family, suggest_name
from skesm.esm2.spec import DEMO_MODEL, ModelSpec, find_registered
from skesm.esm2.weights.config import check_vocabulary, read_index, read_spec
from skesm.esm2.weights.files import WeightsFiles
from skesm.exceptions import CheckpointError, CheckpointNotFoundError

CONFIG = "config.json"
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

_BUNDLED = Path(__file__).parent / "weights" / DEMO_MODEL


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on this machine.

    Attributes
    ----------
    spec : ModelSpec
    files : tuple of Path
        The safetensors files.
    revision : str or None
        The revision that was asked for; None for folders and the bundled model.
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
    """Shape of a model; reads at most its ``config.json``.

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
        return read_spec(name, Path(name) / CONFIG)
    repository, revision = _split_repository(name)
    return replace(read_spec(name, _fetch(repository, CONFIG, revision)), repository=repository)


def locate(model: str | os.PathLike[str]) -> Checkpoint:
    """The files of a model, fetched from the Hub if they are not on this machine.

    Raises
    ------
    CheckpointNotFoundError
        If a file is neither here nor can be fetched; the message says how to get it and where to put it.
    CheckpointError
        If what is there is not an ESM-2 checkpoint in safetensors format.
    """
    name = os.fspath(model)
    registered = find_registered(name.partition("@")[0])
    if registered is not None and registered.repository is None:
        if "@" in name:
            raise CheckpointNotFoundError(f"model {name!r}: the bundled model has no revisions")
        return Checkpoint(registered, (_BUNDLED / SINGLE,))
    if registered is None and _is_folder(name):
        folder = Path(name)
        spec = read_spec(name, folder / CONFIG)
        check_vocabulary(name, folder)
        return Checkpoint(spec, _files_in(folder))
    return _locate_on_hub(name, registered)


def open_weights(checkpoint: Checkpoint) -> WeightsFiles:
    """The tensors of a checkpoint; of shards, those that their index names.

    Raises
    ------
    CheckpointError
        If a file is damaged, or if the files contradict their index.
    """
    return WeightsFiles(checkpoint.files, None if checkpoint.index is None else read_index(checkpoint.index))


def _is_folder(name: str) -> bool:
    return os.path.isdir(name)


def _files_in(folder: Path) -> tuple[Path, ...]:
    if (folder / SINGLE).is_file():
        return (folder / SINGLE,)
    if (folder / INDEX).is_file():
        shards = tuple(folder / shard for shard in _shards(folder / INDEX))
        missing = [shard.name for shard in shards if not shard.is_file()]
        if missing:
            raise CheckpointNotFoundError(f"{folder}: {INDEX} names files that are not there: {', '.join(missing)}")
        return shards
    pickles = sorted(p.name for p in folder.glob("*.bin")) + sorted(p.name for p in folder.glob("*.pt"))
    if pickles:
        raise CheckpointError(
            f"{folder} holds {pickles[0]}, a pickle, which skesm never loads because it can run code. Save the model "
            "as safetensors: transformers.EsmForMaskedLM.from_pretrained(...).save_pretrained(folder)"
        )
    raise CheckpointNotFoundError(f"{folder} holds neither {SINGLE} nor {INDEX}")


def _locate_on_hub(name: str, registered: ModelSpec | None) -> Checkpoint:
    repository, revision = _split_repository(name)
    if registered is not None and registered.repository is not None:
        repository = registered.repository
    config = _fetch(repository, CONFIG, revision)
    spec = replace(read_spec(registered.name if registered else name, config), repository=repository)
    if registered is not None and spec != registered:
        raise CheckpointError(f"{repository}: config.json does not describe {registered.name}: {spec}")
    commit = config.parent.name  # the Hub's cache keeps one folder for each commit
    try:
        files: tuple[Path, ...] = (_fetch(repository, SINGLE, commit),)
    except CheckpointNotFoundError as no_single:
        try:
            index = _fetch(repository, INDEX, commit)
        except CheckpointNotFoundError:
            raise no_single from None
        files = tuple(_fetch(repository, shard, commit) for shard in _shards(index))
    return Checkpoint(spec, files, revision=revision or "main", commit=commit)


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
                f"('organisation/name'){_suggestion(name)}. Run `skesm models` for the names that are known."
            )
    return repository, revision or None


def _suggestion(name: str) -> str:
    suggestion = suggest_name(name)
    return f"; {suggestion}" if suggestion else ""


def _fetch(repository: str, filename: str, revision: str | None) -> Path:
    """Path of a Hub file in the Hub's cache, downloaded first if it is not there."""
    import huggingface_hub as hub
    from huggingface_hub import errors

    try:
        cached = hub.try_to_load_from_cache(repository, filename, revision=revision)
        if isinstance(cached, str):
            return Path(cached)
        _look_up_hub()
        return Path(hub.hf_hub_download(repository, filename, revision=revision))
    except errors.LocalEntryNotFoundError as error:
        raise CheckpointNotFoundError(_how_to_get(repository, filename, revision)) from error
    except errors.EntryNotFoundError as error:
        raise CheckpointNotFoundError(f"Hub repository {repository} has no file {filename}") from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        at = f" at revision {revision!r}" if revision else ""
        raise CheckpointNotFoundError(
            f"Hub repository {repository}{at} does not exist or is not public{_suggestion(repository)}"
        ) from error
    except (errors.HfHubHTTPError, errors.HFValidationError, OSError) as error:
        raise CheckpointNotFoundError(
            f"{_how_to_get(repository, filename, revision)} ({type(error).__name__})"
        ) from error


def _look_up_hub() -> None:
    """Raise OSError if the Hub's name is unknown here, as without internet: its client would try for half a minute."""
    from huggingface_hub import constants

    host = urlsplit(constants.ENDPOINT).hostname
    if host and not constants.HF_HUB_OFFLINE and not getproxies():
        socket.getaddrinfo(host, None)


def _how_to_get(repository: str, filename: str, revision: str | None) -> str:
    from huggingface_hub import constants

    option = f" --revision {revision}" if revision else ""
    offline = " (HF_HUB_OFFLINE is set)" if constants.HF_HUB_OFFLINE else ""
    return (
        f"{filename} of {repository} is not on this machine and could not be fetched{offline}. On a machine with "
        f"internet run `hf download {repository} {CONFIG} {SINGLE}{option}` and copy its cache to "
        f"{constants.HF_HUB_CACHE} here (or set HF_HUB_CACHE); or add `--local-dir FOLDER` and give that folder as the "
        f"model. To try skesm without a download use model={DEMO_MODEL!r}."
    )


def _shards(index: Path) -> list[str]:
    """File names in a shard index."""
    return sorted(set(read_index(index).values()))
