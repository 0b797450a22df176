"""Scatter of what lies in the beam and is no crystal: water, air, a loop.

A molecule scatters r_e^2 F^2(sin theta/lambda) polar photons of a photon/m^2 into a steradian; of
the photons of a beam that passes n molecules/m^2 a pixel sees

    r_e^2 F^2 n omega polar capture,

at its middle, in each layer of its sensor. F includes what is between molecules, as a measured
curve does.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from nanobragg_plugin.background import Material
from nanobragg_plugin.constants import R_E_SQR
from nanobragg_plugin.corrections import polarization
from nanobragg_plugin.geometry import scattering_vector
from nanobragg_plugin.kernels.samples import weighted_samples
from nanobragg_plugin.models import Beam, Experiment, Exposure, Panel, SimulationOptions
from nanobragg_plugin.orientation import incident

#: Pixels that are evaluated at a time.
POINTS = 1 << 18


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
    directions, wavelengths = incident(experiment.beam, exposure)
    image = torch.zeros(panel.shape, dtype=panel.origin.dtype, device=panel.origin.device)
    for material in materials:
        for share, along in zip(material.share, material.along_mm):
            # seen from where it is
            moved = replace(panel, origin=panel.origin - along * directions.mean((0, 1)))
            image = image + share * _from(moved, number, experiment, material, once, exposure)
    return image


def _from(
    panel: Panel,
    number: int,
    experiment: Experiment,
    material: Material,
    options: SimulationOptions,
    exposure: Exposure,
) -> Tensor:
    beam = experiment.beam
    directions, wavelengths = incident(beam, exposure)
    steps = max(len(directions), len(wavelengths))
    weight = beam.weight / beam.weight.sum() / steps
    slow, fast = (torch.arange(n, device=panel.origin.device) for n in panel.shape)
    rows = []
    for some in slow.split(max(1, POINTS // len(fast))):
        pixels = torch.cartesian_prod(some, fast)
        total = torch.zeros(len(pixels), dtype=panel.origin.dtype, device=panel.origin.device)
        for sample, omega, capture in weighted_samples(panel, pixels, options, number, _nothing):
            for step in range(steps):
                for source, part in enumerate(weight):
                    s0 = directions[step % len(directions), source]
                    wavelength = wavelengths[step % len(wavelengths), source]
                    q = scattering_vector(sample.s1_unit, s0, wavelength)
                    f = material.amplitude(torch.linalg.vector_norm(q, dim=-1) / 2)
                    polar = _polarization(beam, sample.s1_unit, s0)
                    total = total + part * omega * capture * f**2 * polar
        rows.append(total)
    image = torch.cat(rows).reshape(panel.shape) * (R_E_SQR * material.per_area)
    return image if panel.mask is None else image * panel.mask.to(image)


def _polarization(beam: Beam, s1_unit: Tensor, s0_unit: Tensor) -> Tensor | float:
    if beam.kahn_factor is None:
        return 1.0
    return polarization(s1_unit, s0_unit, beam.polarization_axis, beam.kahn_factor)


def _nothing(*_: object, **__: object) -> None:
    pass
