"""Scatter of what lies in the beam and is no crystal: water, air, a loop.

A molecule scatters r_e^2 F^2(sin theta/lambda) polar photons of a photon/m^2 into a steradian; of
the photons of a beam that passes n molecules/m^2 a pixel sees

    r_e^2 F^2 n omega polar capture

in each layer of its sensor: F^2 as its mean over the pixel (which a powder ring may be narrower
than), the others at the pixel's middle. F includes what is between molecules, as a measured
curve does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from nanobragg_plugin.background import Material, unmasked
from nanobragg_plugin.constants import R_E_SQR
from nanobragg_plugin.corrections import polarization
from nanobragg_plugin.curve import Curve
from nanobragg_plugin.geometry import dot, scattering_vector
from nanobragg_plugin.kernels.samples import Sample, weighted_samples
from nanobragg_plugin.models import Beam, Experiment, Exposure, Panel, SimulationOptions
from nanobragg_plugin.orientation import incident

#: Pixels that are evaluated at a time.
POINTS = 1 << 18
#: The shortest |s1 - s0| wavelength that is divided by: of a pixel in the beam.
SHORTEST = 1e-9


def scattered(
    experiment: Experiment,
    number: int,
    exposure: Exposure,
    materials: tuple[Material, ...],
    options: SimulationOptions,
) -> Tensor:
    """Expected photons [slow, fast] of a panel, of one photon of the beam; 0 where masked."""
    panel = experiment.panels[number]
    once = replace(options, oversample=1)
    direction = incident(experiment.beam, exposure)[0].mean((0, 1))
    image = torch.zeros(panel.shape, dtype=panel.origin.dtype, device=panel.origin.device)
    for material in materials:
        sees = partial(_scatter, experiment.beam, material.f_squared)
        factor = R_E_SQR * material.per_area
        for share, along in zip(material.share, material.along_mm):
            # seen from where it is
            moved = replace(panel, origin=panel.origin - along * direction)
            seen = _summed(moved, number, experiment.beam, exposure, once, sees)
            image = image + share * factor * seen
    return image


def measured(
    experiment: Experiment,
    number: int,
    exposure: Exposure,
    profile: Curve,
    options: SimulationOptions,
) -> Tensor:
    """Photons [slow, fast] of a panel of a profile, photons/sr, that holds all but the solid angle,
    which is that of the panel's surface; 0 where masked."""
    bare = replace(options, oversample=1, layers=None)
    panel = experiment.panels[number]

    def sees(panel: Panel, sample: Sample, s0: Tensor, wavelength: Tensor) -> Tensor:
        return profile.mean(*_seen(panel, sample, s0, wavelength))

    return _summed(panel, number, experiment.beam, exposure, bare, sees)


def _summed(
    panel: Panel,
    number: int,
    beam: Beam,
    exposure: Exposure,
    options: SimulationOptions,
    sees: Callable[[Panel, Sample, Tensor, Tensor], Tensor],
) -> Tensor:
    """The sum [slow, fast] over layers, and mean over steps and sources, of what a pixel sees
    times solid angle and capture; 0 where masked."""
    steps = tuple(_incident(beam, exposure))
    slow, fast = (torch.arange(n, device=panel.origin.device) for n in panel.shape)
    rows = []
    for some in slow.split(max(1, POINTS // len(fast))):
        pixels = torch.cartesian_prod(some, fast)
        total = torch.zeros(len(pixels), dtype=panel.origin.dtype, device=panel.origin.device)
        for sample, omega, capture in weighted_samples(panel, pixels, options, number, _nothing):
            for weight, s0, wavelength in steps:
                seen = sees(panel, sample, s0, wavelength)
                total = total + weight * omega * capture * seen
        rows.append(total)
    return unmasked(panel, torch.cat(rows).reshape(panel.shape))


def _incident(beam: Beam, exposure: Exposure) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Weight, of 1 in all, direction [3] and wavelength of every source at every step."""
    directions, wavelengths = incident(beam, exposure)
    steps = max(len(directions), len(wavelengths))
    weight = beam.weight / beam.weight.sum() / steps
    for step in range(steps):
        for source, part in enumerate(weight):
            s0 = directions[step % len(directions), source]
            yield part, s0, wavelengths[step % len(wavelengths), source]


def _scatter(
    beam: Beam,
    f_squared: Curve,
    panel: Panel,
    sample: Sample,
    s0: Tensor,
    wavelength: Tensor,
) -> Tensor:
    """F^2 polar [n]."""
    seen = f_squared.mean(*_seen(panel, sample, s0, wavelength))
    return seen * _polarization(beam, sample.s1_unit, s0)


def _seen(
    panel: Panel, sample: Sample, s0: Tensor, wavelength: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """sin(theta)/lambda [n], 1/Angstrom, at the middle of pixels, and how much of it they span
    along fast and slow: its derivatives, as s1 changes by (v - s1 (s1 . v))/R along v, times a
    pixel."""
    s1 = sample.s1_unit
    q = scattering_vector(s1, s0, wavelength)
    length = torch.linalg.vector_norm(q, dim=-1)
    cosine = dot(s1, s0)
    bottom = 2 * sample.distance * wavelength * (length * wavelength).clamp(min=SHORTEST)
    spans = []
    for v, size in zip((panel.fast, panel.slow), panel.pixel_size):
        spans.append(size * (dot(s1, v) * cosine - (v * s0).sum()).abs() / bottom)
    return length / 2, *spans


def _polarization(beam: Beam, s1_unit: Tensor, s0_unit: Tensor) -> Tensor | float:
    if beam.kahn_factor is None:
        return 1.0
    return polarization(s1_unit, s0_unit, beam.polarization_axis, beam.kahn_factor)


def _nothing(*_: object, **__: object) -> None:
    pass
