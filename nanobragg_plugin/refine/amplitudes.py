"""Amplitudes of reflections as parameters.

There are many, but a pixel depends on few: those of the lattice points around it. Two points that
differ in the parity of an index are told apart by it, two of the same parity are too far from each
other to light the same pixel; so eight derivatives of an image, one for each combination of
parities, hold those by all amplitudes (a coloring, as of Curtis, Powell & Reid 1974, J. Inst.
Math. Appl. 13, 117).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.autograd import forward_ad

from nanobragg_plugin.jacobian import jacobian
from nanobragg_plugin.models import Experiment, Exposure
from nanobragg_plugin.refine.data import Picture
from nanobragg_plugin.refine.linear import Linear, linear
from nanobragg_plugin.refine.parameters import Parameter
from nanobragg_plugin.refine.parametrisations import Models
from nanobragg_plugin.refine.positions import at_points
from nanobragg_plugin.refine.target import Normal, State, Target, lit
from nanobragg_plugin.rotation import about_axis
from nanobragg_plugin.structure_factors import StructureFactors

#: Of the mean amplitude: the least that one may be. At 0 no pixel would depend on it, and below it
#: would be one above 0 again.
LEAST = 0.01
#: Of h, k, l modulo 2.
PARITIES = torch.cartesian_prod(*[torch.arange(2)] * 3)


@dataclass(frozen=True)
class Amplitudes:
    """hkl [n, 3]: one index of each set of equivalent reflections; start [n], electrons; which
    [box], int64: of each element of the table of amplitudes whose parameter it is, from 0, or -1.
    """

    hkl: Tensor
    start: Tensor
    which: Tensor

    @cached_property
    def parameters(self) -> tuple[Parameter, ...]:
        mean = max(float(self.start.mean()), 1e-5)
        return tuple(
            Parameter(
                name_of(hkl),
                "e",
                max(value, LEAST * mean),
                3 * max(value, mean / 10),
                bounds=(LEAST * mean, math.inf),
            )
            for hkl, value in zip(self.hkl.tolist(), self.start.tolist())
        )

    def apply(self, models: Models, values: Tensor) -> Models:
        experiment, factors = models
        known = self.which >= 0
        given = values.to(factors.Fhkl)[self.which.clamp(min=0)]
        return experiment, replace(factors, Fhkl=torch.where(known, given, factors.Fhkl))


def name_of(hkl: list[int]) -> str:
    """Of the parameter of a reflection."""
    return "F({},{},{})".format(*hkl)


def fractional(experiment: Experiment, exposure: Exposure, masks: tuple[Tensor, ...]) -> Tensor:
    """h, k, l [n, 3] of the pixels that masks let through, at the middle of the exposure and of the
    beam."""
    position = exposure.position[len(exposure.position) // 2]
    image = torch.tensor([position], dtype=torch.float64)
    beam, gonio = experiment.beam, experiment.goniometer
    direction = at_points(beam.direction.mean(1), image)[0]
    direction = direction / torch.linalg.vector_norm(direction)
    wavelength = at_points(beam.wavelength.mean(1), image)[0]
    phi = torch.tensor(sum(exposure.phi) / len(exposure.phi), dtype=torch.float64)
    turn = at_points(gonio.setting, image)[0] @ about_axis(gonio.axis, phi) @ gonio.fixed
    inverse = torch.linalg.inv(turn @ at_points(experiment.crystal.A, image)[0])
    found = []
    for panel, mask in zip(experiment.panels, masks):
        slow, fast = (mask.nonzero().double() + 0.5).T[:, :, None] * panel.pixel_size.flip(0)[
            :, None, None
        ]
        ray = panel.origin + fast * panel.fast + slow * panel.slow
        ray = ray / torch.linalg.vector_norm(ray, dim=-1, keepdim=True)
        found.append((ray - direction) / wavelength @ inverse.T)
    return torch.cat(found)


def nearest_of_parity(h: Tensor) -> Tensor:
    """[8, n, 3]: of each combination of parities the indices nearest to h [n, 3]."""
    return (2 * torch.round((h - PARITIES[:, None]) / 2) + PARITIES[:, None]).long()


def of_parity(table: StructureFactors, some: Tensor) -> list[Tensor]:
    """Of each combination of parities which elements [box] of a table, of some, have it."""
    axes = [torch.arange(size) + low - 1 for size, low in zip(some.shape, table.hkl_min)]
    h, k, l = torch.meshgrid(*(axis % 2 for axis in axes), indexing="ij")
    return [some & (h == a) & (k == b) & (l == c) for a, b, c in PARITIES.tolist()]


@dataclass(frozen=True)
class AmplitudesTarget(Target):
    """A target whose model has `amplitudes`."""

    amplitudes: Amplitudes | None = None
    _hits: dict[int, Tensor] = field(default_factory=dict, init=False, compare=False)

    @cached_property
    def _split(self) -> tuple[Tensor, Tensor, Tensor]:
        """Among the free parameters: places of all but amplitudes, and of those; and of each
        amplitude, free or not, its place among the latter, or -1."""
        mine = {one.name: number for number, one in enumerate(self.amplitudes.parameters)}
        numbers = [mine.get(name, -1) for name in self.free]
        others = torch.tensor([i for i, n in enumerate(numbers) if n < 0], dtype=torch.int64)
        places = torch.tensor([i for i, n in enumerate(numbers) if n >= 0], dtype=torch.int64)
        back = torch.full((len(mine),), -1, dtype=torch.int64)
        back[[n for n in numbers if n >= 0]] = torch.arange(len(places))
        return others, places, back

    def without(self) -> Target:
        """As a target that knows nothing of amplitudes."""
        names = "model", "data", "options", "noise", "background", "free"
        own = "image_scales", "image_b"
        return Target(**{name: getattr(self, name) for name in (*names, *own)})

    def normal(self, state: State) -> Normal:
        """The normal equations at a state, restraints included."""
        return super().normal(state) if len(self._split[1]) else self.without().normal(state)

    def _near(self, state: State) -> tuple[Linear, list[Tensor]]:
        """The models, by all free parameters but amplitudes, and the masks of those."""
        numbers = self.numbers[self._split[0]]

        def make(free: Tensor) -> Models:
            whole = state.inner.index_copy(0, numbers, free) if len(free) else state.inner
            return self.model.models(self.model.parameters.outer(whole))

        return linear(make, state.inner[numbers]), self._masks(state)

    def _masks(self, state: State) -> list[Tensor]:
        """Of each parity what the table of amplitudes changes by, with all free ones of it."""
        names = self.model.parameters.names
        numbers = [names.index(one.name) for one in self.amplitudes.parameters]
        values = self.model.parameters.outer(state.inner)
        ones = values.index_fill(0, torch.tensor(numbers), 1.0)
        table = self.model.models(ones)[1]
        back = self._split[2]
        which = self.amplitudes.which
        free = (which >= 0) & (back[which.clamp(min=0)] >= 0)
        zero = torch.zeros_like(table.Fhkl)
        return [torch.where(mask, table.Fhkl, zero) for mask in of_parity(table, free)]

    def _at(
        self, near: Linear | tuple[Linear, list[Tensor]], picture: Picture
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of a picture photons [n], columns [k, n] by free parameters, and which [k] these are."""
        if isinstance(near, Linear):  # of no parameter
            return super()._at(near, picture)
        near, masks = near
        own, seen, mix = near.seen_by(picture.exposure)
        first = len(own.point)
        at = torch.cat([own.point, own.point.new_zeros(len(masks))])

        def make(parameters: Tensor) -> Models:
            experiment, factors = lit(own(parameters[:first]), picture)
            tangent = forward_ad.unpack_dual(parameters).tangent
            along = [0.0] * len(masks) if tangent is None else tangent[first:].tolist()
            changes = [one * mask for one, mask in zip(along, masks) if one]
            if not changes:
                return experiment, factors
            table = forward_ad.make_dual(factors.Fhkl, sum(changes))
            return experiment, replace(factors, Fhkl=table)

        images, slopes = jacobian(make, at, picture.exposure, self.options, flat=True)
        found, slope = torch.cat(images).double(), torch.cat(slopes, 1).double()
        hits = self._hits_of(picture, near)
        used, inverse = hits.unique(return_inverse=True)
        columns = slope.new_zeros(len(used), len(found))
        columns.index_put_(
            (inverse, torch.arange(len(found)).expand_as(hits)), slope[first:], accumulate=True
        )
        columns, used = columns[used >= 0], used[used >= 0]
        which = torch.cat([self._split[0][seen], self._split[1][used]])
        return found, torch.cat([mix @ slope[:first], columns]), which

    def _hits_of(self, picture: Picture, near: Linear) -> Tensor:
        """[8, n]: of each parity which of the free amplitudes a pixel depends on, or -1."""
        number = picture.number
        if number not in self._hits:
            experiment, factors = near.models
            h = fractional(experiment, picture.exposure, picture.masks)
            low = torch.tensor(factors.hkl_min) - 1
            which, back = self.amplitudes.which, self._split[2]
            last = torch.tensor(which.shape) - 1
            # the outer layer is of no reflection
            i, j, k = torch.minimum((nearest_of_parity(h) - low).clamp(min=0), last).unbind(-1)
            found = which[i, j, k]
            self._hits[number] = torch.where(found >= 0, back[found.clamp(min=0)], found)
        return self._hits[number]
