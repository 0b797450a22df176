"""The tangents of a sum over terms: what it changes by as its inputs do, in many directions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nanobragg_plugin.kernels import blocks
from nanobragg_plugin.kernels.blocks import Block, Lattice, Numbers
from nanobragg_plugin.kernels.channels import DELTA, FUDGE, NCELLS, VALUE
from nanobragg_plugin.kernels.lattice_sum import Terms, columns
from nanobragg_plugin.kernels.pool import in_threads


@dataclass(frozen=True)
class Tangents:
    """What a sum's inputs but s1_unit change by in each of T directions; None: by nothing. maps [T,
    terms, 3, 4]; weight [T, terms]; squares [T, n]; ncells [T, 3]; fudge [T]; count: T."""

    maps: Tensor | None
    weight: Tensor | None
    squares: Tensor | None
    ncells: Tensor | None
    fudge: Tensor | None
    count: int = 1

    @property
    def everything(self) -> bool:
        """Whether the shape changes."""
        return self.ncells is not None or self.fudge is not None


def stacked(parts: Sequence[Tangents]) -> Tangents:
    """Of directions of their own (no dimension T), those of all."""
    found = {}
    for name in ("maps", "weight", "squares", "ncells", "fudge"):
        every = [getattr(part, name) for part in parts]
        like = next((one for one in every if one is not None), None)
        if like is not None:
            like = torch.stack([torch.zeros_like(like) if one is None else one for one in every])
        found[name] = like
    return Tangents(**found, count=len(parts))


@dataclass(frozen=True)
class Along:
    """Of a sum at n points: value [n]; tangents [T, n] at points that stay; slope [3, n] with
    respect to s1_unit, or None."""

    value: Tensor
    tangents: Tensor
    slope: Tensor | None


def of_sum(lattice: Lattice, s1_unit: Tensor, given: Tangents, with_slope: bool) -> Along:
    """What a sum at points [3, n] is, and changes by."""
    n, count = s1_unit.shape[1], given.count
    forward = _Forward(lattice, s1_unit, given, with_slope)
    shares = blocks.shares(lattice.blocks(s1_unit))
    total = s1_unit.new_zeros(1 + count + 3 * with_slope, n)
    for parts in in_threads(forward.share, shares, s1_unit.is_cpu):
        for points, part in parts:
            blocks.add(total, points, part)
    value, changes, slope = total.split([1, count, 3 * with_slope])
    return Along(value[0], changes, slope if with_slope else None)


@dataclass(frozen=True)
class _Forward:
    lattice: Lattice
    s1_unit: Tensor
    given: Tangents
    with_slope: bool

    def share(self, some_blocks: list[Block]) -> list[tuple[Numbers, Tensor]]:
        """Value, tangents and slope one after the other [1 + T + 3, n] of some blocks."""
        given, found, matrix = self.given, [], None
        centre, placed_too = blocks.centre(self.s1_unit), given.squares is not None
        for number, (of_terms, points) in enumerate(some_blocks):
            some, terms = columns(self.s1_unit, points), self.lattice.terms[of_terms]
            made, *placed = blocks.rows(self.lattice, some, terms, given.everything, placed_too)
            if number == 0 or of_terms is not some_blocks[number - 1][0]:
                matrix, scale = self._matrix(made, of_terms, terms, centre)
                width = len(matrix) // given.count
                some_rows = matrix.any(1).nonzero()[:, 0]  # a third or more are nothing but zeros
                matrix = matrix[some_rows]
                slope = blocks.Slope(terms, made.dtype) if self.with_slope else None
            away = torch.cat([some.new_ones(1, some.shape[1]), some - centre[:, None]])
            along = some.new_zeros(given.count, width, some.shape[1])
            along.view(-1, some.shape[1])[some_rows] = (matrix @ made.flatten(0, 1)).to(along)
            parts = [
                (made[VALUE] * terms.weight[:, None]).sum(0, dtype=some.dtype)[None],
                (along * away[:width]).sum(1) * scale,
            ]
            if placed_too:
                place, f_latt_sqr = placed
                weighted = f_latt_sqr * terms.weight[:, None]
                for one, squares in zip(parts[1], given.squares):
                    one += (squares[place] * weighted).sum(0, dtype=some.dtype)
            if slope is not None:
                parts.append(slope(made))
            found.append((points, torch.cat(parts)))
        return found

    def _matrix(
        self, made: Tensor, of_terms: Numbers, terms: Terms, centre: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What multiplies rows [rows, terms, n] to tangents, times 1 and, where maps change, x, y
        and z: [T x 4, rows x terms] in value type, divided by scale [T, 1]."""
        given, rows, count = self.given, len(made), self.given.count
        matrix = centre.new_zeros(count, 4 if given.maps is not None else 1, rows, len(terms))
        weight = terms.weight.to(matrix)
        if given.maps is not None:
            maps = given.maps[:, of_terms].permute(0, 3, 2, 1) * weight  # [T, 4, 3, terms]
            matrix[:, 1:, DELTA:NCELLS] = maps[:, :3]
            shift = maps[:, 3] + (maps[:, :3] * centre[:, None, None]).sum(1)
            matrix[:, 0, DELTA:NCELLS] = shift
        if given.weight is not None:
            matrix[:, 0, VALUE] = given.weight[:, of_terms].to(matrix)
        if given.ncells is not None:
            matrix[:, 0, NCELLS:FUDGE] = given.ncells[..., None].to(matrix) * weight
        if given.fudge is not None and rows > FUDGE:
            matrix[:, 0, FUDGE] = given.fudge[:, None].to(matrix) * weight
        scale = matrix.abs().amax((1, 2, 3)).clamp(min=torch.finfo(matrix.dtype).tiny)
        scaled = matrix / scale[:, None, None, None]
        return scaled.flatten(2).flatten(0, 1).to(made), scale[:, None]
