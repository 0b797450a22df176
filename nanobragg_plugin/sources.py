"""A beam of some divergence and bandwidth as a list of sources (nanoBragg.c, "generic list of
sources")."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nanobragg_plugin.models import Beam
from nanobragg_plugin.rotation import about_axis


@dataclass(frozen=True)
class Grid:
    """Steps across a range, from its lower end on: k step - width/2, k = 0 ... count - 1.

    width and step in radians of a divergence, relative to the wavelength of a dispersion.
    """

    width: float = 0.0
    step: float = 0.0
    count: int = 1

    @property
    def offsets(self) -> tuple[float, ...]:
        """The places of the steps, 0 is the middle of the range."""
        return tuple(self.step * k - self.width / 2 for k in range(self.count))


@dataclass(frozen=True)
class Spread:
    """Divergence along the E vector (`horizontal`) and across it, cut to an ellipse if `round`;
    dispersion of the wavelength."""

    horizontal: Grid = Grid()
    vertical: Grid = Grid()
    dispersion: Grid = Grid()
    round: bool = True

    @property
    def directions(self) -> list[tuple[float, float]]:
        """(horizontal, vertical) angles, radians, of the directions, horizontal outermost."""
        return [
            (h, v)
            for h in self.horizontal.offsets
            for v in self.vertical.offsets
            if not self.round or self._within(h, v)
        ]

    def _within(self, h: float, v: float) -> bool:
        """nanoBragg.c's ellipse, which reaches 1.1 of the square of the semi-axes and, of an even
        number of steps, half a step farther. A range of 0 cuts nothing."""
        if self.horizontal.width == 0 or self.vertical.width == 0:
            return True
        return 4 * (_share(h, self.horizontal) + _share(v, self.vertical)) <= 1.1


def _share(angle: float, grid: Grid) -> float:
    margin = grid.step**2 / 4 if grid.count % 2 == 0 else 0.0
    return (angle**2 - margin) / grid.width / grid.width


@dataclass(frozen=True)
class Lines:
    """Wavelengths relative to the beam's, and how many photons have each, on any scale."""

    factors: tuple[float, ...]
    photons: tuple[float, ...]


def with_spread(beam: Beam, spread: Spread, lines: Lines | None = None) -> Beam:
    """The beam, whose direction and wavelength are the middle, as sources: each direction with
    every wavelength, the wavelengths innermost. Directions weigh alike; wavelengths do, or are
    `lines` in place of the dispersion.

    A direction is turned about the E vector by the vertical angle, then about beam x E vector
    by the horizontal one. Differentiable in the beam.
    """
    if lines is None:
        factors = [1 + offset for offset in spread.dispersion.offsets]
        lines = Lines(tuple(factors), (1.0,) * len(factors))
    middle = beam.direction[:, :1]  # [points, 1, 3]
    horizontal, vertical = torch.tensor(spread.directions, dtype=middle.dtype).to(middle).unbind(1)
    axis = beam.polarization_axis / torch.linalg.vector_norm(beam.polarization_axis)
    across = torch.linalg.cross(middle, axis.expand_as(middle))
    across = across / torch.linalg.vector_norm(across, dim=-1, keepdim=True)
    points, n = len(middle), len(horizontal)
    turns = about_axis(across.expand(points, n, 3), horizontal.expand(points, n))
    turns = turns @ about_axis(axis.expand(n, 3), vertical)
    directions = (turns @ middle[..., None])[..., 0]
    wavelengths = beam.wavelength[:, :1] * torch.tensor(lines.factors, dtype=middle.dtype).to(
        middle
    )
    photons = torch.tensor(lines.photons, dtype=torch.float64)
    m = len(photons)
    return replace(
        beam,
        direction=directions.repeat_interleave(m, dim=1),
        wavelength=wavelengths.repeat(1, n),
        weight=(photons / photons.mean()).repeat(n).to(beam.weight),
    )


def with_list(beam: Beam, positions: Tensor, wavelengths: Tensor, weights: Tensor) -> Beam:
    """The beam as sources at positions [n, 3] seen from the crystal (any length), of
    wavelengths [n] Angstrom and weights [n], which are normalized to a mean of 1."""
    directions = -positions / torch.linalg.vector_norm(positions, dim=-1, keepdim=True)
    return replace(
        beam,
        direction=directions[None].to(beam.direction),
        wavelength=wavelengths[None].to(beam.wavelength),
        weight=(weights / weights.mean()).to(beam.weight),
    )


def spectrum_of(*beams: Beam) -> tuple[Tensor, Tensor]:
    """The wavelengths that the sources of beams have, each once, [m] Angstrom, rising, and the
    share of the photons [m] of each: weights times fluences. Of a beam that changes along the scan
    those of its first point."""
    wavelengths = torch.cat([beam.wavelength[0].detach() for beam in beams])
    weights = [beam.fluence * beam.weight / beam.weight.sum() for beam in beams]
    wavelengths, where = torch.unique(wavelengths, return_inverse=True)
    weights = torch.cat(weights).detach().to(wavelengths)
    photons = torch.zeros_like(wavelengths).index_add_(0, where, weights)
    return wavelengths, photons / photons.sum()


def split_sources(beam: Beam, groups: Sequence[Sequence[int]]) -> list[tuple[Beam, float]]:
    """For each group of sources (their places in the list, each in one group) the beam of these
    alone, weights normalized to a mean of 1, and its share of the fluence.

    An image is the sum over groups of share times the group's image; but where a factor is taken
    from the first source (oversample_omega or oversample_polar False), of each group's own first.
    ValueError unless every source is in exactly one group.
    """
    if sorted(source for group in groups for source in group) != list(range(len(beam.weight))):
        raise ValueError(f"{groups} do not hold each of {len(beam.weight)} sources once")
    parts = []
    for group in groups:
        places = torch.tensor(group, device=beam.weight.device)
        weight = beam.weight[places]
        part = replace(
            beam,
            direction=beam.direction[:, places],
            wavelength=beam.wavelength[:, places],
            weight=weight / weight.mean(),
        )
        parts.append((part, float(weight.sum() / beam.weight.sum())))
    return parts
