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
KEPT_BYTES, PIXEL_BYTES = 384 << 20, 56


def is_logarithm(xtal_shape: str) -> bool:
    """Whether the bound is made of logarithms."""
    return xtal_shape.startswith("gauss")


@dataclass(frozen=True)
class Rough:
    """Points as the bound of the sparse kernel takes them, float32: s1_unit [3, n]; limit [n]: 1 /
    what weighs them, at most, of gauss crystals its logarithm."""

    s1_unit: Tensor
    limit: Tensor

    @classmethod
    def of(cls, s1_unit: Tensor, weight: Tensor, xtal_shape: str) -> Rough:
        """Of s1_unit [3, n] and what weighs it [n]."""
        limit = weight.detach().reciprocal()
        limit = limit.log() if is_logarithm(xtal_shape) else limit
        return cls(s1_unit.detach().float().contiguous(), limit.float())

    def __getitem__(self, which: Tensor | slice) -> Rough:
        some = self.limit[which] if isinstance(which, slice) else self.limit.index_select(0, which)
        return Rough(columns(self.s1_unit, which), some)


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
    polarization as far as they are taken at every sample; once [n]: as far as they are not; None:
    1. rough: the same points, None without a bound."""

    s1_unit: Tensor
    weight: Tensor | None
    once: Tensor | None
    rough: Rough | None

    def __getitem__(self, which: Tensor | slice) -> Rays:
        rough = None if self.rough is None else self.rough[which]
        if isinstance(which, slice):
            weight, once = (None if x is None else x[which] for x in (self.weight, self.once))
            return Rays(self.s1_unit[:, which], weight, once, rough)
        weight, once = (
            None if x is None else x.index_select(0, which) for x in (self.weight, self.once)
        )
        return Rays(columns(self.s1_unit, which), weight, once, rough)

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        """All, in their order."""
        rough = (None, None) if self.rough is None else (self.rough.s1_unit, self.rough.limit)
        return self.s1_unit, self.weight, self.once, *rough


def joined(parts: Iterator[Rays], count: int) -> Rays:
    """Rays one after the other, `count` of them, which do not exist twice at any time."""
    first = next(parts)
    whole = [None if x is None else x.new_empty(*x.shape[:-1], count) for x in first.tensors]
    start = 0
    for part in chain([first], parts):
        stop = start + part.s1_unit.shape[1]
        for x, of_part in zip(whole, part.tensors):
            if x is not None:
                x[..., start:stop] = of_part
        start = stop
    return Rays(*whole[:3], None if first.rough is None else Rough(*whole[3:]))


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
            if is_logarithm(self.xtal_shape):
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
