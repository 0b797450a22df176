"""What parameters do to an experiment: small objects, each of which turns numbers into a change.

A part has `parameters`, and `apply(models, values)` makes the models with these values, by
differentiable operations. At the parameters' own values it leaves the models it was made for as
they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from nanobragg_plugin import mosaic
from nanobragg_plugin.constants import RTD
from nanobragg_plugin.models import Beam
from nanobragg_plugin.refine.crystal_parts import Cell as Cell
from nanobragg_plugin.refine.crystal_parts import Models
from nanobragg_plugin.refine.crystal_parts import Orientation as Orientation
from nanobragg_plugin.refine.parameters import LOG, Parameter, Parameters
from nanobragg_plugin.rotation import from_vector


class Part(Protocol):
    """Some parameters and what they do."""

    parameters: tuple[Parameter, ...]

    def apply(self, models: Models, values: Tensor) -> Models:
        """The models with these values [k], in the parameters' units."""


class Model:
    """Models with all parts that may be refined, applied in their order. changes: of parameters, by
    name, what is not as their parts have it: prior, bounds, reach."""

    def __init__(
        self, start: Models, parts: Sequence[Part], changes: dict[str, dict] | None = None
    ) -> None:
        self.start, self.parts = start, tuple(parts)
        self.changes = changes or {}
        self.parameters = Parameters(
            replace(one, **self.changes.get(one.name, {}))
            for part in parts
            for one in part.parameters
        )

    def models(self, values: Tensor) -> Models:
        """With values [p] of all parameters, in their units."""
        models, first = self.start, 0
        for part in self.parts:
            last = first + len(part.parameters)
            models = part.apply(models, values[first:last])
            first = last
        return models


def _crystal(models: Models, **changes: object) -> Models:
    experiment, factors = models
    return replace(experiment, crystal=replace(experiment.crystal, **changes)), factors


def _beam(models: Models, **changes: object) -> Models:
    experiment, factors = models
    return replace(experiment, beam=replace(experiment.beam, **changes)), factors


@dataclass(frozen=True)
class Ncells:
    """Unit cells of a domain along a, b, c, [3] at the start; one number for all, whose ratios are
    kept, or three. The crystal keeps its volume: there are fewer domains of larger ones."""

    start: tuple[float, float, float]
    isotropic: bool = True

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        axes = "a" if self.isotropic else "abc"
        return tuple(
            Parameter(f"Ncells_{axis}", "cells", value, math.log(10), LOG, (1.0, 1e6))
            for axis, value in zip(axes, self.start)
        )

    def apply(self, models: Models, values: Tensor) -> Models:
        start = values.new_tensor(self.start)
        ratios = values / start[: len(values)]
        crystal = models[0].crystal
        spot_scale = crystal.spot_scale / ratios.expand(3).prod()
        return _crystal(models, Ncells_abc=start * ratios, spot_scale=spot_scale)


@dataclass(frozen=True)
class MosaicSpread:
    """sigma (of a cap its largest angle), degrees, of as many domains, drawn by the seed; three
    values: about the axes of `mosaic.crystal_frame`."""

    start: tuple[float, ...]
    domains: int
    distribution: str
    seed: int
    frame: Tensor | None = None

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        names = [""] if len(self.start) == 1 else ["_a", "_b", "_c"]
        return tuple(
            Parameter(f"mosaic_spread{name}", "deg", value, math.log(10), LOG, (1e-5, 10.0))
            for name, value in zip(names, self.start)
        )

    def apply(self, models: Models, values: Tensor) -> Models:
        spread = values[0] if len(values) == 1 else values
        made = mosaic.mosaic_umats(
            spread / RTD, self.domains, self.distribution, self.seed, self.frame
        )
        return _crystal(models, umats=made)


@dataclass(frozen=True)
class Scale:
    """A factor on all of the crystal's photons."""

    start: float = 1.0

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        return (Parameter("scale", "", self.start, math.log(10), LOG),)

    def apply(self, models: Models, values: Tensor) -> Models:
        return _crystal(models, spot_scale=models[0].crystal.spot_scale * values[0])


@dataclass(frozen=True)
class BFactor:
    """Amplitudes times exp(-B (sin(theta)/lambda)^2) of their reflections, B in square Angstrom.
    metric [3, 3] 1/Angstrom^2: of the reciprocal cell; None: the one of the crystal as it is."""

    metric: Tensor | None = None

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        return (Parameter("B", "A^2", 0.0, 100.0),)

    def apply(self, models: Models, values: Tensor) -> Models:
        experiment, factors = models
        axes = [
            torch.arange(size, dtype=torch.float64) + (low - 1)
            for size, low in zip(factors.Fhkl.shape, factors.hkl_min)
        ]
        a_matrix = experiment.crystal.A[0]
        metric = a_matrix.T @ a_matrix if self.metric is None else self.metric
        h, k, l = torch.meshgrid(*axes, indexing="ij")
        stol_sqr = (metric[0, 0] * h * h + metric[1, 1] * k * k + metric[2, 2] * l * l) / 4 + (
            metric[0, 1] * h * k + metric[0, 2] * h * l + metric[1, 2] * k * l
        ) / 2
        faded = factors.Fhkl * torch.exp(-values[0] * stol_sqr).to(factors.Fhkl)
        return experiment, replace(factors, Fhkl=faded)


@dataclass(frozen=True)
class Wavelength:
    """Of the beam, Angstrom: the mean one; the others keep their ratio to it."""

    start: float

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        return (Parameter("wavelength", "A", self.start, 0.02 * self.start, bounds=(0.01, 20.0)),)

    def apply(self, models: Models, values: Tensor) -> Models:
        return _beam(models, wavelength=models[0].beam.wavelength * (values[0] / self.start))


@dataclass(frozen=True)
class BeamDirection:
    """Degrees: the beam and its polarization turn about two axes [2, 3] at right angles to it."""

    axes: Tensor

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        return tuple(Parameter(f"beam_{number}", "deg", 0.0, 1.0) for number in (1, 2))

    def apply(self, models: Models, values: Tensor) -> Models:
        turn = from_vector((values / RTD) @ self.axes)
        beam = models[0].beam
        return _beam(
            models,
            direction=beam.direction @ turn.T,
            polarization_axis=turn @ beam.polarization_axis,
        )


@dataclass(frozen=True)
class GoniometerAxis:
    """Degrees: the rotation axis at datum turns about two axes [2, 3] at right angles to it."""

    axes: Tensor

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        return tuple(Parameter(f"spindle_{number}", "deg", 0.0, 1.0) for number in (1, 2))

    def apply(self, models: Models, values: Tensor) -> Models:
        experiment, factors = models
        goniometer = experiment.goniometer
        axis = from_vector((values / RTD) @ self.axes) @ goniometer.axis
        return replace(experiment, goniometer=replace(goniometer, axis=axis)), factors


@dataclass(frozen=True)
class GoniometerSetting:
    """Degrees: the setting rotation S turns, about two axes [2, 3] at right angles to the rotation
    axis in the laboratory. (About that axis a crystal turns as well.)"""

    axes: Tensor

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        return tuple(Parameter(f"setting_{number}", "deg", 0.0, 1.0) for number in (1, 2))

    def apply(self, models: Models, values: Tensor) -> Models:
        experiment, factors = models
        goniometer = experiment.goniometer
        setting = from_vector((values / RTD) @ self.axes) @ goniometer.setting
        return replace(experiment, goniometer=replace(goniometer, setting=setting)), factors


@dataclass(frozen=True)
class Divergence:
    """mrad: root mean square angle of the beam's sources from its middle, which stays; their
    pattern is kept."""

    start: float

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        bounds = 1e-4, 100.0
        return (Parameter("divergence", "mrad", self.start, math.log(10), LOG, bounds),)

    def apply(self, models: Models, values: Tensor) -> Models:
        beam = models[0].beam
        middle = _middle(beam)
        away = beam.direction - middle
        made = middle + values[0] / self.start * away
        made = made / torch.linalg.vector_norm(made, dim=-1, keepdim=True)
        return _beam(models, direction=made)


def _middle(beam: Beam) -> Tensor:
    """[points, 1, 3]: the mean direction."""
    middle = (beam.direction * (beam.weight / beam.weight.sum())[:, None]).sum(1, keepdim=True)
    return middle / torch.linalg.vector_norm(middle, dim=-1, keepdim=True)


def mean_wavelength(beam: Beam) -> float:
    """Of a beam's sources, Angstrom, by their weights, at its first point."""
    return float((beam.wavelength[0] * beam.weight).sum() / beam.weight.sum())


def divergence_of(beam: Beam) -> float:
    """Of a beam's sources, mrad, root mean square from the middle, at its first point."""
    away = beam.direction[0] - _middle(beam)[0]
    weight = beam.weight / beam.weight.sum()
    return 1e3 * float((weight * away.square().sum(-1)).sum().sqrt())


@dataclass(frozen=True)
class DetectorPlace:
    """Some panels move together, as a rigid body: mm along axes [3, 3] (rows: fast, slow, normal),
    then degrees about the same axes through pivot [3] mm. prefix: of the names."""

    panels: tuple[int, ...]
    pivot: Tensor
    axes: Tensor
    prefix: str = "detector"

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        ways = "fast", "slow", "distance"
        far = max(abs(float(self.axes[2] @ self.pivot)), 1.0)
        shifts = [Parameter(f"{self.prefix}_{way}", "mm", 0.0, 0.03 * far) for way in ways]
        turns = [
            Parameter(f"{self.prefix}_tilt_{way}", "deg", 0.0, 3.0)
            for way in ("fast", "slow", "normal")
        ]
        return (*shifts, *turns)

    def apply(self, models: Models, values: Tensor) -> Models:
        experiment, factors = models
        shift, turn = values[:3] @ self.axes, from_vector((values[3:] / RTD) @ self.axes)
        panels = list(experiment.panels)
        for number in self.panels:
            panel = panels[number]
            panels[number] = replace(
                panel,
                origin=self.pivot + turn @ (panel.origin - self.pivot) + shift,
                fast=turn @ panel.fast,
                slow=turn @ panel.slow,
            )
        return replace(experiment, panels=tuple(panels)), factors


def across(direction: Tensor) -> Tensor:
    """[2, 3]: unit vectors at right angles to a direction [3] and to each other."""
    least = torch.zeros_like(direction)
    least[direction.abs().argmin()] = 1
    first = torch.linalg.cross(direction, least)
    first = first / torch.linalg.vector_norm(first)
    return torch.stack([first, torch.linalg.cross(direction, first)])
