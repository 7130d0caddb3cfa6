"""Variants of a reference, enumerated as they are needed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from skesm.sequences.alphabet import ALPHABETICAL, split_residues
from skesm.sequences.clean import clean_reference
from skesm.sequences.mutations import apply_mutations, name_mutations
from skesm.sequences.variants import differences


@dataclass(frozen=True)
class Variants:
    """Variants of a reference. Iterating makes one after the other, so millions take no memory.

    Make it with `single_variants` or `combine_mutations`.

    Attributes
    ----------
    reference : str
        The sequence that is varied.
    choices : dict of int to str
        New amino acids by position of the reference, counted from 0.
    sizes : tuple of int
        Numbers of mutations of a variant.
    offset : int
        Position of the first residue of the reference, in names of mutations.
    """

    reference: str
    choices: Mapping[int, str]
    sizes: tuple[int, ...]
    offset: int = 1

    def __len__(self) -> int:
        """Count the variants without making them."""
        ways = [1, *([0] * max(self.sizes))]  # by the number of mutations
        for letters in self.choices.values():
            ways = [ways[0], *(more + len(letters) * fewer for fewer, more in itertools.pairwise(ways))]
        return sum(ways[size] for size in self.sizes)

    def __iter__(self) -> Iterator[str]:
        """Sequences, by the number of mutations, then by position, then in the order of the amino acids."""
        residues = split_residues(self.reference)
        for size in self.sizes:
            for positions in itertools.combinations(sorted(self.choices), size):
                for letters in itertools.product(*(self.choices[position] for position in positions)):
                    changed = list(residues)
                    for position, letter in zip(positions, letters, strict=True):
                        changed[position] = letter
                    yield "".join(changed)

    def names(self) -> Iterator[str]:
        """Mutations of the variants, in the same order."""
        for sequence in self:
            yield name_mutations(sequence, self.reference, self.offset)


def single_variants(
    reference: str, *, positions: Sequence[int] | None = None, amino_acids: str = ALPHABETICAL, offset: int = 1
) -> Variants:
    """Enumerate the single mutants of a reference.

    Parameters
    ----------
    reference : str
        The wild type, or the best variant so far.
    positions : sequence of int, default=None
        Positions to mutate. None takes all.
    amino_acids : str, default="ACDEFGHIKLMNPQRSTVWY"
        New amino acids, for example without cysteine and proline.
    offset : int, default=1
        Position of the first residue of `reference`.

    Returns
    -------
    variants : Variants
        All single mutants, made as you iterate. ``len`` counts them.

    Raises
    ------
    InvalidSequenceError
        If the reference is not a sequence.
    ValueError
        If a position lies outside the reference, or a letter is not one of the 20 amino acids.

    Examples
    --------
    >>> from skesm.design import single_variants
    >>> variants = single_variants("MKT", positions=[2], amino_acids="AKR")
    >>> list(variants), list(variants.names()), len(single_variants("MKT"))
    (['MAT', 'MRT'], ['K2A', 'K2R'], 57)
    """
    clean = _clean(reference)
    residues = split_residues(clean)
    letters = "".join(dict.fromkeys(amino_acids.upper()))
    unknown = sorted(set(letters) - set(ALPHABETICAL))
    if unknown or not letters:
        raise ValueError(f"amino_acids must be some of {ALPHABETICAL}, got {amino_acids!r}")
    last = offset + len(residues) - 1
    chosen = range(offset, last + 1) if positions is None else sorted(set(positions))
    outside = [position for position in chosen if not offset <= position <= last]
    if outside or not chosen:
        raise ValueError(f"positions must lie between {offset} and {last}, got {outside or positions}")
    choices = {position - offset: letters.replace(residues[position - offset], "") for position in chosen}
    return Variants(clean, choices, (1,), offset)


def combine_mutations(
    reference: str, mutations: Sequence[str], *, sizes: int | Sequence[int] = 2, offset: int = 1
) -> Variants:
    """Enumerate combinations of mutations, each at another position.

    Parameters
    ----------
    reference : str
        The sequence that the mutations refer to.
    mutations : sequence of str
        Mutations to combine, such as ``"A23V"``. Several of one position are alternatives. Rows with several mutations,
        such as ``"A23V:K40R"``, give each of theirs.
    sizes : int or sequence of int, default=2
        Numbers of mutations of a variant.
    offset : int, default=1
        Position of the first residue of `reference`.

    Returns
    -------
    variants : Variants
        All combinations of these sizes, made as you iterate. ``len`` counts them.

    Raises
    ------
    InvalidSequenceError
        If mutations do not fit the reference.
    ValueError
        If there are no variants of such sizes.

    Examples
    --------
    >>> from skesm.design import combine_mutations
    >>> variants = combine_mutations("MKTAY", ["K2R", "K2A", "A4G"], sizes=(1, 2))
    >>> len(variants), list(variants.names())
    (5, ['K2R', 'K2A', 'A4G', 'K2R:A4G', 'K2A:A4G'])
    """
    clean = _clean(reference)
    letters: dict[int, list[str]] = {}
    for sequence in apply_mutations(clean, list(mutations), offset):
        residues = split_residues(sequence)
        for position in differences(sequence, clean).tolist():
            letters.setdefault(position, []).append(residues[position])
    wanted = tuple(sorted({sizes} if isinstance(sizes, int) else set(sizes)))
    if not wanted or wanted[0] < 1 or wanted[0] > len(letters):
        raise ValueError(f"sizes={sizes!r} must lie between 1 and {len(letters)}, the number of mutated positions")
    choices = {position: "".join(dict.fromkeys(new)) for position, new in sorted(letters.items())}
    return Variants(clean, choices, wanted, offset)


def _clean(reference: str) -> str:
    return clean_reference(reference, long_sequences="window", max_length=None, unknown_residues="error")
