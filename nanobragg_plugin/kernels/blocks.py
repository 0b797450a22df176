"""A sum over terms in blocks, of whose rows (`channels`) derivatives are summed up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Union

import torch
from torch import Tensor

from nanobragg_plugin.kernels import compiled, summing
from nanobragg_plugin.kernels.channels import DELTA, FUDGE, NCELLS, channels, whole
from nanobragg_plugin.kernels.lattice_sum import Scatterer, Terms, columns
from nanobragg_plugin.kernels.pool import in_threads

#: Terms of a block, at most; terms x points where compiled code makes its rows, on a CPU, whose
#: cache these should fit, and elsewhere.
TERMS, STEPS, STEPS_ELSEWHERE = 512, 1 << 17, 1 << 24

#: Shares of the blocks that are worked at side by side, so that sums do not depend on the number of
#: threads.
SHARES = 16

Numbers = Union[slice, Tensor]
#: Numbers of terms, and of points.
Block = tuple[Numbers, Numbers]


class Parts(Protocol):
    """How a sum over terms is made, without gradients."""

    def value(self, s1_unit: Tensor, points: slice) -> Tensor:
        """The sum [m] at some of the points [3, n]."""

    def pieces(self, s1_unit: Tensor) -> Sequence[Block]:
        """Terms and points of which it is made, none of them twice in a piece."""


@dataclass(frozen=True)
class Whole:
    """All terms at all points."""

    terms: Terms
    scatterer: Scatterer
    how: summing.How

    def value(self, s1_unit: Tensor, points: slice) -> Tensor:
        """See Parts."""
        return summing.summed(columns(s1_unit, points), self.terms, self.scatterer, self.how)

    def pieces(self, s1_unit: Tensor) -> Sequence[Block]:
        """See Parts."""
        return [(slice(0, len(self.terms)), slice(0, s1_unit.shape[1]))]


@dataclass(frozen=True)
class Lattice:
    """A sum over terms, none of whose tensors has a gradient."""

    terms: Terms
    scatterer: Scatterer
    how: summing.How
    parts: Parts

    def value(self, s1_unit: Tensor) -> Tensor:
        """[n] at points [3, n], a thread's share of them each."""
        n, threads = s1_unit.shape[1], torch.get_num_threads() if s1_unit.is_cpu else 1
        each = -(-n // threads // summing.COLUMNS) * summing.COLUMNS or 1
        shares = [slice(start, min(start + each, n)) for start in range(0, n, each)]
        found = in_threads(lambda some: self.parts.value(s1_unit, some), shares, s1_unit.is_cpu)
        return torch.cat(found) if found else s1_unit.new_zeros(0)

    def blocks(self, s1_unit: Tensor) -> list[Block]:
        """The pieces in blocks of few terms and points."""
        steps = STEPS if self.how.compiled else self.how.batch_steps
        if not s1_unit.is_cpu:
            steps = STEPS_ELSEWHERE
        blocks = []
        for of_terms, points in self.parts.pieces(s1_unit):
            for some_terms in _split(of_terms, TERMS):
                at_once = max(1, steps // _length(some_terms))
                blocks += [(some_terms, some) for some in _split(points, at_once)]
        return blocks


def shares(blocks: list[Block], count: int = SHARES) -> list[list[Block]]:
    """So many shares of blocks, to be worked at side by side."""
    each = max(1, -(-len(blocks) // count))
    return [blocks[start : start + each] for start in range(0, len(blocks), each)]


def _split(numbers: Numbers, at_once: int) -> list[Numbers]:
    if _length(numbers) <= at_once:
        return [numbers]
    if isinstance(numbers, Tensor):
        return list(numbers.split(at_once))
    starts = range(numbers.start, numbers.stop, at_once)
    return [slice(start, min(start + at_once, numbers.stop)) for start in starts]


def _length(numbers: Numbers) -> int:
    return len(numbers) if isinstance(numbers, Tensor) else numbers.stop - numbers.start


def add(total: Tensor, at: Numbers, part: Tensor) -> None:
    """To the second dimension of total, at numbers of which none stands there twice."""
    if isinstance(at, slice):
        total[:, at] += part
    else:
        total.index_add_(1, at, part)


def added(parts: Sequence[Tensor]) -> Tensor:
    """Their sum, in their order, in the place of the first."""
    total, *others = parts
    for one in others:
        total += one
    return total


def centre(s1_unit: Tensor) -> Tensor:
    """A point [3] amid all, from which places are rounded to value type."""
    return s1_unit.mean(1) if s1_unit.shape[1] else s1_unit.sum(1)


class Slope:
    """Of rows [rows, terms, n] the sum's slope with respect to s1 [3, n]."""

    def __init__(self, terms: Terms, value_type: torch.dtype) -> None:
        matrix = (terms.maps[..., :3] * terms.weight[:, None, None]).permute(2, 1, 0).flatten(1)
        self.scale = matrix.abs().max().clamp(min=torch.finfo(matrix.dtype).tiny)
        self.matrix = (matrix / self.scale).to(value_type)

    def __call__(self, made: Tensor) -> Tensor:
        return (self.matrix @ made[DELTA:NCELLS].flatten(0, 1)).to(self.scale) * self.scale


def row_count(scatterer: Scatterer, everything: bool) -> int:
    """How many rows `channels` makes."""
    if not everything:
        return NCELLS
    return FUDGE if scatterer.xtal_shape == "square" else FUDGE + 1


def rows(
    lattice: Lattice, s1_unit: Tensor, terms: Terms, everything: bool, placed: bool
) -> tuple[Tensor, ...]:
    """`channels`, compiled where it may be."""
    scatterer, run = lattice.scatterer, None
    if lattice.how.compiled:
        dtypes = terms.maps.dtype, scatterer.squares.dtype
        run = compiled.channels_of(scatterer.xtal_shape, *dtypes, everything, placed)
        run = run.on(s1_unit.device)
    if run is None:
        return whole(channels(s1_unit, terms.maps, scatterer, everything, placed), placed)
    n, count = s1_unit.shape[1], len(terms)
    # compiled code is for two and more
    points = s1_unit.expand(3, 2).contiguous() if n == 1 else s1_unit
    maps = terms.maps.expand(2, 3, 4) if count == 1 else terms.maps
    found = run(points, maps.contiguous(), *scatterer.tensors)
    return tuple(one[..., :count, :n] for one in whole(found, placed))
