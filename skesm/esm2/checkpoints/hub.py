"""Files of a repository on the Hugging Face Hub: from the Hub's cache on this machine, else fetched.

Some repositories hold weights as torch's pickles only. Those are fetched, converted once to safetensors, and kept in
``HF_ASSETS_CACHE``, the folder that the Hub's client sets apart for files that others make of its own.
"""

from __future__ import annotations

import logging
import shlex
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from skesm.esm2.conversion.convert import convert
from skesm.esm2.conversion.pickled import import_safe_torch
from skesm.esm2.conversion.sources import ADAPTER_CONFIG, PICKLED, PICKLED_ENDINGS, PICKLED_INDEX, adapter_advice
from skesm.esm2.spec import DEMO_MODEL
from skesm.esm2.weights.config import read_index
from skesm.esm2.weights.digests import differs, told_by_hub
from skesm.exceptions import CheckpointError, CheckpointNotFoundError

CONFIG = "config.json"
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

#: Published repositories that hold pickled shards only.
_PICKLED_ONLY = ("facebook/esm2_t36_3B_UR50D", "facebook/esm2_t48_15B_UR50D")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Repository:
    """A repository of models.

    Attributes
    ----------
    name : str
        ``"organisation/name"``.
    revision : str or None
        Branch, tag or commit. None is ``"main"``.
    model : str
        The model as the user gave it, for messages.
    download : bool
        Whether files that are not here may be fetched.
    """

    name: str
    revision: str | None
    model: str
    download: bool = True

    def config(self) -> Path:
        """``config.json``. Its folder is named by the commit.

        Raises
        ------
        CheckpointNotFoundError
        CheckpointError
            If the repository holds an adapter, not a model.
        """
        path = self.find(CONFIG, self.revision)
        if path is not None:
            return path
        if self.find(ADAPTER_CONFIG, self.revision) is not None:
            raise CheckpointError(f"Hub repository {self.name} {adapter_advice(ADAPTER_CONFIG)}")
        raise CheckpointNotFoundError(f"Hub repository {self.name} has no file {CONFIG}")

    def find(self, filename: str, revision: str | None) -> Path | None:
        """Path of a file, fetched if it is not here. None if the repository has no such file.

        Raises
        ------
        CheckpointNotFoundError
            If the file is not here and cannot be fetched. The message says how to get it.
        """
        import huggingface_hub as hub
        from huggingface_hub import errors

        try:
            cached = hub.try_to_load_from_cache(self.name, filename, revision=revision)
            if isinstance(cached, str):
                return Path(cached)
            if cached is not None and filename != CONFIG:  # the Hub said before that this commit has no such file
                return None
            if not self.download:
                raise self._not_here(filename)
            _look_up_hub()
            return Path(hub.hf_hub_download(self.name, filename, revision=revision))
        except errors.LocalEntryNotFoundError as error:
            raise CheckpointNotFoundError(self._how_to_get(filename)) from error
        except errors.EntryNotFoundError:
            return None
        except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
            at = f" at revision {revision!r}" if revision else ""
            raise CheckpointNotFoundError(f"Hub repository {self.name}{at} does not exist or is not public") from error
        except CheckpointNotFoundError:
            raise
        except (errors.HfHubHTTPError, errors.HFValidationError, OSError) as error:
            raise CheckpointNotFoundError(f"{self._how_to_get(filename)} ({type(error).__name__})") from error

    def fetch(self, filename: str, commit: str) -> Path:
        """Path of a file that the repository must have.

        Raises
        ------
        CheckpointNotFoundError
        """
        path = self.find(filename, commit)
        if path is None:
            raise CheckpointNotFoundError(f"Hub repository {self.name} has no file {filename}")
        return path

    def converted(self, commit: str) -> Path:
        """Folder of the converted weights of a commit, whether or not it is there."""
        return self._kept(commit)

    def record(self, commit: str) -> Path:
        """File with the digests of a commit's files that the Hub gave none for, whether or not it is there."""
        return self._kept(f"{commit}.sha256")

    def _kept(self, name: str) -> Path:
        from huggingface_hub import constants

        return Path(constants.HF_ASSETS_CACHE, "skesm", "--".join(("models", *self.name.split("/"))), name)

    def fetch_and_convert(self, commit: str) -> Path:
        """Folder of the converted weights, for a repository that holds pickles only. It is made at the first use.

        Raises
        ------
        MissingDependencyError
            If torch 2.6 or later is not installed: nothing is fetched then.
        CheckpointNotFoundError, CheckpointError
        """
        target = self.converted(commit)
        if not self.download:
            raise self._not_here("a conversion to safetensors")
        shards = self._fetch_pickles(commit)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with _one_at_a_time(f"{target}.lock"):
                if not target.is_dir():  # another process may have converted it meanwhile
                    _refuse_damaged(shards)
                    logger.warning(
                        "%s holds pickles only: converting them to safetensors, once. The result is kept in %s",
                        self.name,
                        target,
                    )
                    convert(shards[0].parent, target)
        except OSError as error:
            if isinstance(error, CheckpointError):
                raise
            if target.is_dir():  # without locks, another process was faster
                return target
            raise CheckpointError(
                f"the converted weights of {self.name} cannot be written to {target}: {error.strerror}. "
                "Set HF_ASSETS_CACHE to another folder"
            ) from error
        return target

    def _fetch_pickles(self, commit: str) -> list[Path]:
        """The pickles of a commit. Whether they can be read at all is seen before gigabytes are fetched."""
        index = self.find(PICKLED_INDEX, commit)
        if index is not None or self._may_have(PICKLED, commit):
            import_safe_torch()
            names = sorted(set(read_index(index, PICKLED_ENDINGS).values())) if index else [PICKLED]
            found = [self.find(name, commit) for name in names]
            if all(found):
                return [path for path in found if path is not None]
        raise CheckpointNotFoundError(
            f"Hub repository {self.name} has neither {SINGLE} nor {PICKLED}, nor a complete set of shards"
        )

    def _may_have(self, filename: str, commit: str) -> bool:
        """Whether the repository has a file, which is not fetched. True if that cannot be known."""
        import huggingface_hub as hub

        try:
            return hub.file_exists(self.name, filename, revision=commit)
        except OSError:  # fetching it tells why
            return True

    def _not_here(self, part: str) -> CheckpointNotFoundError:
        return CheckpointNotFoundError(
            f"{part} of {self.name} is not on this machine. Fetch it: skesm models download {shlex.quote(self.model)}"
        )

    def _how_to_get(self, filename: str) -> str:
        from huggingface_hub import constants

        option = f" --revision {self.revision}" if self.revision else ""
        offline = " (HF_HUB_OFFLINE is set)" if constants.HF_HUB_OFFLINE else ""
        # of two names or more, hf takes each as a pattern
        files, then = f"{CONFIG} {SINGLE}", "give it as the model"
        if filename.startswith("pytorch_model") or self.name in _PICKLED_ONLY:
            files, then = f"{CONFIG} 'pytorch_model*'", "run `skesm models convert FOLDER NEW_FOLDER`"
        elif filename not in (CONFIG, SINGLE):
            files = f"{CONFIG} 'model*.safetensors*'"
        return (
            f"{filename} of {self.name} is not on this machine and could not be fetched{offline}. On a machine with "
            f"internet run `skesm models download {shlex.quote(self.model)}`, copy the folder that it prints "
            f"(`cp -rL`), and give the copy as the model. Or run `hf download {self.name} {files}{option} "
            f"--local-dir FOLDER` there, copy the folder, and {then}. To try skesm without a download use "
            f"model={DEMO_MODEL!r}."
        )


@contextmanager
def _one_at_a_time(path: str) -> Iterator[None]:
    """Hold a lock between processes, where the file system has locks: those of some clusters have none."""
    from filelock import FileLock

    lock = FileLock(path)
    with suppress(NotImplementedError):
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _refuse_damaged(files: Iterable[Path]) -> None:
    """Compare files with the digests that the Hub gave, because converted files are kept."""
    for path in files:
        digest = told_by_hub(path)
        if digest is not None and differs(path, digest):
            raise CheckpointError(f"{path} is not the file that the Hub sent. Delete it, and it is fetched again")


def _look_up_hub() -> None:
    """Raise OSError if the Hub's name is unknown here, as without internet: its client would try for half a minute."""
    from urllib.request import getproxies

    from huggingface_hub import constants

    host = urlsplit(constants.ENDPOINT).hostname
    if host and not constants.HF_HUB_OFFLINE and not getproxies():
        socket.getaddrinfo(host, None)
