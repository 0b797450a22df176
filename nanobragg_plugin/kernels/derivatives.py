"""The sum over terms with its derivatives, reverse and forward, from the rows of `channels`.

The rows of a block of terms and points, small enough to stay in a processor's cache, are summed up
by products of matrices: over points, weighed by a cotangent times 1, x, y and z of s1, they are the
gradient of the maps; over terms, weighed by the maps, that of s1, and weighed by tangents of the
maps the sum's tangents, any number of them at once. No row outlives its block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from nanobragg_plugin import lattice_slopes
from nanobragg_plugin.kernels import blocks, tangents
from nanobragg_plugin.kernels.blocks import Block, Lattice, Numbers
from nanobragg_plugin.kernels.channels import DELTA, FUDGE, NCELLS, VALUE
from nanobragg_plugin.kernels.lattice_sum import Scatterer, Terms, columns
from nanobragg_plugin.kernels.pool import in_threads

#: Bytes of the tables of squares that shares fill side by side.
TABLE_BYTES = 256 << 20


class Remembered:
    """The sums of a batch of pixels in their order: the backward pass, which evaluates the batch
    again, does not make them again."""

    def __init__(self) -> None:
        self._values: list[Tensor] = []
        self._next: int | None = None

    def begin(self) -> None:
        """The batch is evaluated, for the first time or again."""
        self._next = 0 if self._values else None

    def known(self) -> Tensor | None:
        """The next sum; None: it is made for the first time."""
        if self._next is None:
            return None
        self._next += 1
        return self._values[self._next - 1]

    def keep(self, value: Tensor) -> None:
        """A sum that was made."""
        if self._next is None:
            self._values.append(value.detach())


def lattice_sum(
    lattice: Lattice, s1_unit: Tensor, terms: Terms, scatterer: Scatterer, known: Tensor | None
) -> Tensor:
    """The sum [n] at points [3, n], differentiable in both modes, once; terms and scatterer are
    those of `lattice` with their gradients, known its value, if it is."""
    tensors = scatterer.squares, scatterer.ncells, scatterer.fudge
    return _LatticeSum.apply(lattice, known, s1_unit, terms.maps, terms.weight, *tensors)


class _LatticeSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, lattice: Lattice, known: Tensor | None, *tensors: Tensor) -> Tensor:
        ctx.lattice = lattice
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)
        return lattice.value(tensors[0].detach()) if known is None else known.detach()

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # torch's once_differentiable misses some of these
            raise RuntimeError(
                "an image has no second derivatives: its gradient cannot be made with "
                "create_graph=True"
            )
        wanted = ctx.needs_input_grad[2:]
        return None, None, *gradients(ctx.lattice, ctx.saved_tensors[0], cotangent, wanted)

    @staticmethod
    def jvp(ctx: Any, _lattice: None, _known: None, *given: Tensor | None) -> Tensor:
        s1_unit, *others = (None if one is None else one[None] for one in given)
        given = tangents.Tangents(*others)
        along = tangents.of_sum(ctx.lattice, ctx.saved_tensors[0], given, s1_unit is not None)
        if s1_unit is None:
            return along.tangents[0]
        return along.tangents[0] + (along.slope * s1_unit[0]).sum(0)


def has_slopes(scatterer: Scatterer) -> bool:
    """Whether derivatives are made here: torch makes the others."""
    return scatterer.xtal_shape in lattice_slopes.SHAPES


def gradients(
    lattice: Lattice, s1_unit: Tensor, cotangent: Tensor, wanted: Sequence[bool]
) -> list[Tensor | None]:
    """Of cotangent [n], with respect to s1_unit [3, n], maps, weight, squares, ncells and fudge,
    those that are wanted."""
    of_s1, _, _, of_squares, *of_shape = wanted
    reverse = _Reverse(lattice, s1_unit, cotangent, of_s1, of_squares, any(of_shape))
    sums, s1, squares = reverse.total()
    terms, scatterer = lattice.terms, lattice.scatterer
    weight = terms.weight.to(sums)
    constant = sums[..., 0]
    maps = (sums[DELTA:NCELLS].roll(-1, -1) * weight[:, None]).transpose(0, 1)
    found = [s1, maps.to(terms.maps), constant[VALUE].to(terms.weight), squares, None, None]
    if any(of_shape):
        found[4] = (constant[NCELLS:FUDGE] @ weight).to(scatterer.ncells)
        of_fudge = constant[FUDGE] @ weight if len(sums) > FUDGE else weight.new_zeros(())
        found[5] = of_fudge.to(scatterer.fudge)
    return [one if is_wanted else None for one, is_wanted in zip(found, wanted)]


@dataclass(frozen=True)
class _Reverse:
    lattice: Lattice
    s1_unit: Tensor
    cotangent: Tensor
    of_s1: bool
    of_squares: bool
    everything: bool

    def total(self) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Sums over points of rows times cotangent times 1, x, y, z [rows, terms, 4], and the
        gradients of s1_unit and of squares, of all shares in their order."""
        cotangent, s1_unit, shares = self.cotangent, self.s1_unit, [[]]
        scale = cotangent.abs().amax() if len(cotangent) else cotangent.sum()
        if scale == 0:
            scale = torch.ones_like(scale)
        else:  # NaN goes on
            table = 8 * self.lattice.scatterer.squares.numel() if self.of_squares else 1
            count = max(1, min(blocks.SHARES, TABLE_BYTES // table))
            shares = blocks.shares(self.lattice.blocks(s1_unit), count) or shares
        centre, value_type = blocks.centre(s1_unit), self.lattice.scatterer.squares.dtype
        relative = (cotangent / scale).to(value_type)
        away = (s1_unit - centre[:, None]).to(value_type)
        seen = torch.cat([relative[None], away * relative]).T.contiguous()
        work = partial(self._share, seen, scale.to(value_type))
        sums, slopes, squares = zip(*in_threads(work, shares, s1_unit.is_cpu))
        total = blocks.added(sums) * scale
        total[..., 1:] += total[..., :1] * centre  # of points from the origin
        of_s1 = torch.zeros_like(self.s1_unit) if self.of_s1 else None
        for points, slope in chain(*slopes):
            blocks.add(of_s1, points, slope)
        return total, of_s1, blocks.added(squares) if self.of_squares else None

    def _share(
        self, seen: Tensor, scale: Tensor, some_blocks: list[Block]
    ) -> tuple[Tensor, list[tuple[Numbers, Tensor]], Tensor | None]:
        """Of some blocks the sums times scale, s1_unit's gradients, and squares'. seen [n, 4]: in
        value type the cotangent divided by its largest, scale, times 1 and the way from centre."""
        lattice, s1_unit, slopes = self.lattice, self.s1_unit, []
        scatterer, rows = lattice.scatterer, blocks.row_count(lattice.scatterer, self.everything)
        sums = s1_unit.new_zeros(rows, len(lattice.terms), 4)
        of_squares = torch.zeros_like(scatterer.squares) if self.of_squares else None
        before = None
        for of_terms, points in some_blocks:
            if of_terms is not before:
                before, terms = of_terms, lattice.terms[of_terms]
                slope = blocks.Slope(terms, seen.dtype)
            some, weights = columns(s1_unit, points), seen[points]
            made, *placed = blocks.rows(lattice, some, terms, self.everything, self.of_squares)
            part = made.flatten(0, 1) @ weights
            blocks.add(sums, of_terms, part.unflatten(0, made.shape[:2]).to(sums))
            if self.of_s1:
                slopes.append((points, slope(made) * self.cotangent[points]))
            if of_squares is not None:
                place, f_latt_sqr = placed
                f_latt_sqr.mul_(weights[:, 0]).mul_((terms.weight * scale)[:, None])
                of_squares.index_add_(0, place.flatten(), f_latt_sqr.flatten())
        return sums, slopes, of_squares
