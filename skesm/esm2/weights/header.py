"""The header of a safetensors file, checked as strictly as the format's reference implementation does.

The format is eight bytes of header length, a JSON header, and the tensors' bytes, which lie end to end in the order of
their offsets. Anything else is refused: a file that two programs read differently has no certain meaning.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, NoReturn

from skesm.exceptions import CheckpointError

#: Bits of an element of each type that the format knows.
BITS: Mapping[str, int] = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 64),
    **{"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6},
}

_LENGTH_BYTES = 8
_HEADER_LIMIT = 100_000_000  # bytes, the limit of the reference implementation
_INTEGER_LIMIT = 1 << 64  # integers of the reference implementation are unsigned, of 64 bits


class Entry(NamedTuple):
    """Type, shape, and place in the file, in bytes, of a tensor."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def parse_header(path: Path, data: bytes | mmap.mmap) -> dict[str, Entry]:
    """Entries of the tensors in a file.

    Parameters
    ----------
    path : Path
        Named in errors.
    data : bytes-like
        The whole file. Only the header is read.

    Raises
    ------
    CheckpointError
        If this is not a safetensors file, or if it is truncated or damaged.
    """
    size = int.from_bytes(data[:_LENGTH_BYTES], "little")
    start = _LENGTH_BYTES + size
    if len(data) < _LENGTH_BYTES or size > _HEADER_LIMIT or start > len(data):
        raise CheckpointError(f"{path} is not a safetensors file, or is truncated")
    try:
        header = _parse_json(bytes(data[_LENGTH_BYTES:start]))
        _check_metadata(header.pop("__metadata__", None))
        entries = {name: _entry(value, start) for name, value in header.items()}
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: the safetensors header cannot be read: {error}") from error
    _check_places(path, entries, start, len(data))
    return entries


def _parse_json(raw: bytes) -> dict[str, object]:
    header = json.loads(
        raw.decode("utf-8"),
        object_pairs_hook=_distinct,
        parse_int=_unsigned,
        parse_float=_no_number,
        parse_constant=_no_number,
    )
    if not isinstance(header, dict):
        raise ValueError("it is not a JSON object")
    return header


def _distinct(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A JSON object. Python alone would keep the last of equal keys."""
    result: dict[str, object] = {}
    for name, value in pairs:
        _check_text(name)
        if name in result:
            raise ValueError(f"it has two entries {name!r}")
        result[name] = value
    return result


def _unsigned(digits: str) -> int:
    number = int(digits)
    if digits.startswith("-") or number >= _INTEGER_LIMIT:
        raise ValueError(f"{digits[:30]} is not an unsigned integer of 64 bits")
    return number


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text[:30]} is not an integer")


def _check_text(text: str) -> None:
    text.encode("utf-8")  # half of a surrogate pair is an error


def _check_metadata(metadata: object) -> None:
    if metadata is None:
        return
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("'__metadata__' does not map text to text")
    for value in metadata.values():
        _check_text(value)


def _entry(value: object, start: int) -> Entry:
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError("an entry does not have exactly 'dtype', 'shape' and 'data_offsets'")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise ValueError(f"the format has no dtype {dtype!r}")
    if not _are_integers(shape) or not _are_integers(offsets) or len(offsets) != 2:
        raise ValueError("a 'shape' or 'data_offsets' is not a list of integers")
    return Entry(dtype, tuple(shape), start + offsets[0], start + offsets[1])


def _are_integers(value: object) -> bool:
    return isinstance(value, list) and all(type(number) is int for number in value)  # bool is an int, too


def _check_places(path: Path, entries: Mapping[str, Entry], start: int, length: int) -> None:
    """Tensors fill the file from the header to its end, without gaps or overlaps."""
    for name, (dtype, shape, begin, end) in entries.items():
        bits = _count_bits(dtype, shape)
        if bits is None or 8 * (end - begin) != bits:
            raise CheckpointError(f"{path}: the header's entry of tensor {name!r} contradicts itself")
    at = start
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.end > length:
            raise CheckpointError(
                f"{path} is truncated: tensor {name!r} ends at byte {entry.end}, the file at byte {length}"
            )
        if entry.begin != at:
            raise CheckpointError(
                f"{path} is damaged: tensor {name!r} begins at byte {entry.begin}, expected byte {at}"
            )
        at = entry.end
    if at != length:
        raise CheckpointError(f"{path} is damaged: the tensors end at byte {at}, the file at byte {length}")


def _count_bits(dtype: str, shape: tuple[int, ...]) -> int | None:
    """Bits of a tensor. None if the reference implementation cannot count so far."""
    count = 1
    for number in (*shape, BITS[dtype]):
        count *= number
        if count >= _INTEGER_LIMIT:
            return None
    return count
