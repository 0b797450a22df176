"""Images of the crystal's diffuse scattering (`nanobragg_plugin.diffuse`).

A pixel sees r_e^2 fluence omega polar capture of the cells in the beam, at points that are as close
as the halos ask for and no closer than the spots'; of the crystal's mean orientation and cell: the
spread of its domains is narrow beside a halo.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from nanobragg_plugin import diffuse
from nanobragg_plugin.constants import R_E_SQR
from nanobragg_plugin.corrections import polarization
from nanobragg_plugin.geometry import scattering_vector
from nanobragg_plugin.kernels.pool import in_threads
from nanobragg_plugin.kernels.samples import weighted_samples
from nanobragg_plugin.models import Experiment, Exposure, Layers, SimulationOptions
from nanobragg_plugin.mosaic import crystal_frame
from nanobragg_plugin.orientation import at_positions, incident, rotations
from nanobragg_plugin.sampling import q_max
from nanobragg_plugin.structure_factors import StructureFactors

#: Pixels that are evaluated at a time: on a CPU few, which stay in its cache.
POINTS, POINTS_ELSEWHERE = 1 << 11, 1 << 16


@dataclass(frozen=True)
class _Step:
    """frame [3, 3]: the crystal's, turned; B [3, 3]: its lattice in there; s0_unit [sources, 3];
    wavelength [sources]."""

    frame: Tensor
    B: Tensor
    s0_unit: Tensor
    wavelength: Tensor


def steps_of(experiment: Experiment, exposure: Exposure) -> list[_Step]:
    """What an exposure's steps see."""
    position = torch.tensor(exposure.position, dtype=torch.float64)
    directions, wavelengths = incident(experiment.beam, exposure)
    turns = rotations(experiment.goniometer, exposure)
    a_matrices = at_positions(experiment.crystal.A, position.to(turns.device))
    steps = []
    for number, turn in enumerate(turns):
        a_matrix = a_matrices[number % len(a_matrices)]
        frame = crystal_frame(a_matrix)
        s0_unit, wavelength = (x[number % len(x)] for x in (directions, wavelengths))
        steps.append(_Step(turn @ frame, frame.T @ a_matrix, s0_unit, wavelength))
    return steps


def coarser(experiment: Experiment, exposure: Exposure) -> Exposure:
    """The exposure in as few steps as a halo's half width at the corner of the detector asks for:
    the means of runs of its steps."""
    many = len(exposure.phi)
    apart = (max(exposure.phi) - min(exposure.phi)) * many / max(1, many - 1)
    farthest = apart * q_max(experiment.panels, experiment.beam)
    count = min(many, max(1, math.ceil(farthest / _half_width(experiment))))
    edges = [round(k * many / count) for k in range(count + 1)]
    runs = [slice(first, last) for first, last in zip(edges, edges[1:])]
    phi, position = (
        tuple(sum(values[run]) / len(values[run]) for run in runs)
        for values in (exposure.phi, exposure.position)
    )
    return Exposure(phi, position)


def _half_width(experiment: Experiment) -> float:
    """1/Angstrom, of the narrowest halo."""
    gamma = float(experiment.crystal.diffuse.gamma.detach().max())
    return diffuse.HALF_WIDTH / (2 * math.pi * gamma)


def _options(experiment: Experiment, options: SimulationOptions, number: int) -> SimulationOptions:
    """With fewer sub-pixels, if those are closer than half a halo's half width, and, of pixels that
    are, with one layer of the sensor instead of several."""
    panel, layers = experiment.panels[number], options.layers
    angle = panel.pixel_size.max() / (panel.origin * panel.normal).sum().abs()
    pixel = float((angle / experiment.beam.wavelength.min()).detach())
    enough = max(1, math.ceil(2 * pixel / _half_width(experiment)))
    if enough == 1 and layers is not None:
        layers = tuple(_whole(one) for one in layers)
    return replace(options, oversample=min(options.oversample, enough), layers=layers)


def _whole(layers: Layers | None) -> Layers | None:
    """All layers as one."""
    return None if layers is None else Layers(layers.edges[[0, -1]])


def scattered(
    experiment: Experiment,
    number: int,
    exposure: Exposure,
    amplitudes: StructureFactors,
    options: SimulationOptions,
) -> Tensor:
    """Expected photons [slow, fast] of a panel; 0 where masked. Differentiable in all but where the
    nearest lattice point changes; batches are evaluated again in the backward pass."""
    panel, crystal, beam = experiment.panels[number], experiment.crystal, experiment.beam
    steps = steps_of(experiment, coarser(experiment, exposure))
    options = _options(experiment, options, number)
    like = panel.origin
    good = torch.ones(panel.shape, dtype=torch.bool) if panel.mask is None else panel.mask
    pixels = torch.nonzero(good.to(like.device))

    def of(some: Tensor) -> Tensor:
        return _sum(experiment, number, some, steps, amplitudes, options)

    batches = pixels.split(POINTS if like.is_cpu else POINTS_ELSEWHERE)
    if torch.is_grad_enabled():
        parts = [checkpoint(of, some, use_reentrant=False) for some in batches]
    else:
        parts = list(in_threads(of, batches, like.is_cpu))
    cells = crystal.spot_scale * crystal.Ncells_abc.prod()
    image = torch.zeros(panel.shape, dtype=like.dtype, device=like.device)
    if not len(pixels):
        return image
    found = torch.cat(parts) * (R_E_SQR * beam.fluence * cells)
    return image.index_put(tuple(pixels.T), found.to(image))


def _sum(
    experiment: Experiment,
    number: int,
    pixels: Tensor,
    steps: Sequence[_Step],
    amplitudes: StructureFactors,
    options: SimulationOptions,
) -> Tensor:
    """The mean over samples [n] of pixels [n, 2]; layers share the photons."""
    panel, beam, model = experiment.panels[number], experiment.beam, experiment.crystal.diffuse
    weight = beam.weight / beam.weight.sum() / (len(steps) * options.oversample**2)
    total = torch.zeros(len(pixels), dtype=panel.origin.dtype, device=panel.origin.device)
    for sample, omega, capture in weighted_samples(panel, pixels, options, number, _nothing):
        for step in steps:
            for s0_unit, wavelength, part in zip(step.s0_unit, step.wavelength, weight):
                q = scattering_vector(sample.s1_unit, s0_unit, wavelength) @ step.frame
                found = diffuse.intensity(model, step.B, q, amplitudes)
                if options.d_min > 0:
                    seen = torch.linalg.vector_norm(q, dim=-1) * options.d_min <= 1
                    found = torch.where(seen, found, torch.zeros_like(found))
                if beam.kahn_factor is not None:
                    axis, kahn = beam.polarization_axis, beam.kahn_factor
                    found = found * polarization(sample.s1_unit, s0_unit, axis, kahn)
                total = total + part * omega * capture * found
    return total


def spots_left(experiment: Experiment, number: int, exposure: Exposure) -> Tensor:
    """The part of the spots' photons [slow, fast] that displacements leave: exp(-x) at the middle
    of each pixel of a panel, of the mean beam, in the middle of the exposure."""
    panel, beam = experiment.panels[number], experiment.beam
    middle = Exposure(
        (sum(exposure.phi) / len(exposure.phi),), (sum(exposure.position) / len(exposure.phi),)
    )
    (step,) = steps_of(experiment, middle)
    weight = (beam.weight / beam.weight.sum())[:, None]
    s0 = (step.s0_unit / step.wavelength[:, None] * weight).sum(0)
    options = SimulationOptions()
    pixels = torch.cartesian_prod(*(torch.arange(n, device=s0.device) for n in panel.shape))
    parts = []
    for some in pixels.split(POINTS_ELSEWHERE):
        ((sample, _, _),) = weighted_samples(panel, some, options, number, _nothing)
        q = (sample.s1_unit * torch.linalg.vector_norm(s0) - s0) @ step.frame
        parts.append(torch.exp(-diffuse.exponent(experiment.crystal.diffuse, q)))
    return torch.cat(parts).reshape(panel.shape)


def _nothing(*_: object, **__: object) -> None:
    pass
