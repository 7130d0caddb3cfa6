"""Packs that do not fit into a device's memory: half of one may."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch

from skesm.esm2.tokenizer import Tokens

_log = logging.getLogger(__name__)

# Words of torch's errors that have no class of their own: of the CPU, and of Apple's GPUs
_MESSAGES = ("can't allocate memory", "not enough memory", "out of memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice.

    Examples
    --------
    >>> is_out_of_memory(MemoryError()), is_out_of_memory(RuntimeError("shapes do not match"))
    (True, False)
    """
    known = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return known or (isinstance(error, RuntimeError) and any(part in str(error).lower() for part in _MESSAGES))


class Limit:
    """Most tokens of a pack, as far as the device's memory has shown it."""

    def __init__(self) -> None:
        self.tokens: int | None = None

    def lower(self, tokens: int, device: torch.device) -> None:
        """Note that a pack of so many tokens did not fit, and free torch's cache of it."""
        self.tokens = min(self.tokens or tokens, max(1, tokens // 2))
        _log.warning(
            "%d tokens do not fit into the memory of %s: packs have %d at most now", tokens, device, self.tokens
        )
        if device.type == "cuda":
            torch.cuda.empty_cache()
        elif device.type == "mps":
            torch.mps.empty_cache()

    def split(self, sequences: Sequence[Tokens]) -> list[Sequence[Tokens]]:
        """A pack in parts that keep the limit, in order. A sequence that is longer is a part of its own."""
        if self.tokens is None:
            return [sequences]
        parts: list[list[Tokens]] = []
        room = 0
        for sequence in sequences:
            if not parts or len(sequence) > room:
                parts.append([])
                room = self.tokens
            parts[-1].append(sequence)
            room -= len(sequence)
        return list(parts)
