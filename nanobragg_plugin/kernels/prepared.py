"""What the images of a sweep share: the table of amplitudes, and where the pixels are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain

import torch
from torch import Tensor

from nanobragg_plugin.kernels.lattice_sum import Scatterer, columns, flat_table
from nanobragg_plugin.models import Crystal, Experiment, Panel, SimulationOptions
from nanobragg_plugin.structure_factors import StructureFactors

#: Bytes of pixel geometry that are kept from one image to the next, and of a pixel.
KEPT_BYTES, PIXEL_BYTES = 320 << 20, 48


@dataclass(frozen=True)
class Rough:
    """Points as the bound of the sparse kernel takes them, float32: s1_unit [3, n]; inverse [n]: 1
    / what weighs them, at most."""

    s1_unit: Tensor
    inverse: Tensor

    @classmethod
    def of(cls, s1_unit: Tensor, weight: Tensor) -> Rough:
        """Of s1_unit [3, n] and what weighs it [n]."""
        return cls(s1_unit.detach().float().contiguous(), weight.detach().reciprocal().float())

    def __getitem__(self, which: Tensor | slice) -> Rough:
        some = self.inverse[which] if isinstance(which, slice) else self.inverse.take(which)
        return Rough(columns(self.s1_unit, which), some)

    def __len__(self) -> int:
        return len(self.inverse)


@dataclass(frozen=True)
class Tiles:
    """Squares of a panel's pixels: the number of the first pixel [m]; counted [m, pixels], whether
    a pixel is to be simulated, None: all are; rough: a middle point; extent [m], float32: how far
    s1 of others is from it."""

    first: Tensor
    counted: Tensor | None
    rough: Rough
    extent: Tensor


@dataclass(frozen=True)
class Rays:
    """Samples of pixels, one each: s1_unit [3, n]; weight [n]: solid angle, capture and
    polarization; rough: as the bound takes them."""

    s1_unit: Tensor
    weight: Tensor
    rough: Rough

    def __getitem__(self, which: Tensor | slice) -> Rays:
        if isinstance(which, slice):
            return Rays(self.s1_unit[:, which], self.weight[which], self.rough[which])
        return Rays(columns(self.s1_unit, which), self.weight.take(which), self.rough[which])


def joined(parts: Iterator[Rays], count: int) -> Rays:
    """Rays one after the other, `count` of them, which do not exist twice at any time."""
    first = next(parts)
    whole = [x.new_empty(*x.shape[:-1], count) for x in _tensors(first)]
    start = 0
    for part in chain([first], parts):
        stop = start + len(part.weight)
        for x, of_part in zip(whole, _tensors(part)):
            x[..., start:stop] = of_part
        start = stop
    return Rays(*whole[:2], Rough(*whole[2:]))


def _tensors(rays: Rays) -> tuple[Tensor, ...]:
    return rays.s1_unit, rays.weight, rays.rough.s1_unit, rays.rough.inverse


class Prepared:
    """Made of an experiment once; its goniometer, cell and fluence do not matter here."""

    def __init__(
        self,
        experiment: Experiment,
        structure_factors: StructureFactors,
        options: SimulationOptions,
    ) -> None:
        self.options, self.xtal_shape = options, experiment.crystal.xtal_shape
        self.panels = tuple(in_dtype(panel, options) for panel in experiment.panels)
        self.amplitudes = structure_factors.to(dtype=options.value_dtype)
        self.squares, self.box = flat_table(self.amplitudes)
        self.rays: dict[int, Rays] = {}
        self.tiles: dict[int, Tiles] = {}
        self._bounds: tuple[Tensor, Tensor] | None = None

    def scatterer(self, crystal: Crystal, metric: Tensor) -> Scatterer:
        """What is summed, of a crystal whose A^T A is metric [3, 3]."""
        options = self.options
        return Scatterer(
            self.squares,
            self.box,
            crystal.Ncells_abc.to(options.index_dtype),
            crystal.fudge.to(options.value_dtype),
            metric,
            crystal.xtal_shape,
        )

    def may_keep_rays(self) -> bool:
        """Whether there is room for the rays of all panels."""
        pixels = sum(panel.shape[0] * panel.shape[1] for panel in self.panels)
        return PIXEL_BYTES * pixels <= KEPT_BYTES

    def bounds(self) -> tuple[Tensor, Tensor]:
        """F_cell^2 of each reflection, followed by that of the strongest of it and its 26
        neighbours (of all, where the table is large), float32 [2 n]; and of the strongest [].

        As a table of the same `box` that begins n further on. Of a gauss crystal the logarithms.
        """
        if self._bounds is None:
            squares = self.squares.detach().float()
            if self.xtal_shape.startswith("gauss"):
                squares = squares.log()
            strongest = squares.amax()
            around = strongest.expand(len(squares))
            if len(squares) <= 1 << 25:
                box = squares.reshape(self.amplitudes.Fhkl.shape)
                around = torch.nn.functional.max_pool3d(box[None], 3, 1, 1).flatten()
            self._bounds = torch.cat([squares, around]), strongest
        return self._bounds


def in_dtype(panel: Panel, options: SimulationOptions) -> Panel:
    """The panel in the type of positions."""
    dtype = options.index_dtype
    names = ("origin", "fast", "slow", "pixel_size", "thickness", "mu")
    converted = {name: getattr(panel, name).to(dtype) for name in names}
    for name in ("curved", "odet"):
        if getattr(panel, name) is not None:
            converted[name] = getattr(panel, name).to(dtype)
    return replace(panel, **converted)
