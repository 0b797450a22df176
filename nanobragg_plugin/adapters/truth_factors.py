"""What makes a reflection of F^2 the photons that it is, factor by factor."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from nanobragg_plugin import sampling, structure_factors
from nanobragg_plugin.adapters import checks
from nanobragg_plugin.adapters.params import Part, Plan
from nanobragg_plugin.cell import volume
from nanobragg_plugin.constants import (
    GAUSS_WIDTH_SQR,
    R_E_SQR,
    ROUND_SCALE,
    TOPHAT_RADIUS_SQR,
)
from nanobragg_plugin.corrections import polarization
from nanobragg_plugin.models import Beam, Crystal


@dataclass(frozen=True)
class Factors:
    """Of reflections, [n] each. f_squared: electrons^2; lorentz: |s0| |s1| / |e . (s0 x s1)| of the
    axis e in the laboratory, 1/sin(2 theta) at right angles to it, 1 of a still; polarization;
    whole: photons of the reflection if all of it were recorded.

    Of a rotation `whole` is integrated over rocking curve and spot, Darwin's formula (as in Holton
    & Frankel 2010, Acta Cryst. D66, 393-408). Of a still it is the photons if the reflection were
    exactly on the Ewald sphere, of a spot that is a gaussian of the same integral in reciprocal
    space; so that photons/whole is the partiality that processing of stills has a model of.
    """

    f_squared: np.ndarray
    lorentz: np.ndarray
    polarization: np.ndarray
    whole: np.ndarray


def factors(
    plan: Plan, hkl: np.ndarray, s1: np.ndarray, panel: np.ndarray, image: np.ndarray
) -> Factors:
    """hkl, s1 [n, 3]; panel, image [n]: on which each is, numbers from 0."""
    f_squared, lorentz = f_squared_of(plan, hkl), _lorentz(plan.dxtbx_experiment, s1)
    polar, captured = _polarization(plan, s1), _captured(plan, s1, panel)
    scan = plan.dxtbx_experiment.scan
    fluence = np.array(plan.fluences)[image]
    if checks.is_rotation(scan):
        width = math.radians(abs(scan.get_oscillation()[1]))
        wavelength = plan.dxtbx_experiment.beam.get_wavelength()
        whole = wavelength**3 * lorentz / width * _scattering(plan)
    else:
        whole = _slice(plan, hkl, s1)
    whole = whole * fluence * f_squared * polar * captured
    return Factors(f_squared, lorentz, polar, whole)


def q_max(plan: Plan) -> float:
    """1/Angstrom, of what the detector's corners see of all parts of the beam."""
    seen = (sampling.q_max(one.experiment.panels, one.experiment.beam) for one in plan.parts)
    return max(seen)


def f_squared_of(plan: Plan, hkl: np.ndarray) -> np.ndarray:
    """electrons^2 [n] of hkl [n, 3]; of amplitudes that differ between the parts of a beam their
    mean."""
    indices = torch.from_numpy(np.ascontiguousarray(hkl)).T
    total, weight = np.zeros(len(hkl)), 0.0
    for part in plan.parts:
        share = float(part.experiment.beam.fluence * part.experiment.crystal.spot_scale)
        table = part.structure_factors.to(device="cpu")
        total += share * structure_factors.nearest(table, *indices).double().numpy() ** 2
        weight += share
    return total / weight if weight else total


def _lorentz(experiment: Any, s1: np.ndarray) -> np.ndarray:
    if not checks.is_rotation(experiment.scan):
        return np.ones(len(s1))
    s0, axis = (
        np.array(experiment.beam.get_s0()),
        np.array(experiment.goniometer.get_rotation_axis()),
    )
    speed = np.abs(np.cross(s0, s1) @ axis)
    return (s0 @ s0) / np.maximum(speed, 1e-12)


def _polarization(plan: Plan, s1: np.ndarray) -> np.ndarray:
    beam = plan.experiment.beam
    if beam.kahn_factor is None:
        return np.ones(len(s1))
    s0 = beam.direction.mean((0, 1)).cpu()
    s0 = s0 / torch.linalg.vector_norm(s0)
    of_beam = beam.polarization_axis.cpu(), beam.kahn_factor.cpu()
    return polarization(torch.from_numpy(_unit(s1)), s0, *of_beam).numpy()


def _captured(plan: Plan, s1: np.ndarray, panel: np.ndarray) -> np.ndarray:
    """Fraction of the photons that the sensor of each one's panel captures, 1 where none is
    simulated; of point pixels besides what they have in place of their solid angle."""
    captured, rays = np.ones(len(s1)), _unit(s1)
    for number in np.unique(panel):
        on = panel == number
        model, layers = plan.experiment.panels[number], plan.options.layers_of(int(number))
        cosine = np.abs(rays[on] @ model.normal.cpu().numpy())
        if layers is not None:
            captured[on] = -np.expm1(-float(layers.edges[-1] * model.mu) / cosine)
        if plan.options.point_pixel:  # 1/m^2
            captured[on] /= cosine * float(model.pixel_size.prod()) * 1e-6
    return captured


def _unit(s1: np.ndarray) -> np.ndarray:
    return s1 / np.linalg.norm(s1, axis=1)[:, None]


def _scattering(plan: Plan) -> float:
    """r_e^2 m^2/Angstrom^3, times the integral of F_latt^2 over a reflection in reciprocal space,
    of all domains in the beam."""
    return sum(map(_scattering_of, plan.parts))


def _scattering_of(part: Part) -> float:
    crystal, fluence = part.experiment.crystal, part.experiment.beam.fluence
    of_domain = _shape_integral(crystal) / float(volume(crystal.A[0]))
    return R_E_SQR * float(fluence * crystal.spot_scale) * of_domain


def _shape_integral(crystal: Crystal) -> float:
    """Integral of F_latt^2 over h, k and l about a reflection, of one domain."""
    cells, fudge = float(crystal.Ncells_abc.prod()), float(crystal.fudge)
    if crystal.xtal_shape == "square":
        return cells
    # over x, in units of 1/N, for a height of 1; a sphere's transform has Parseval's 6 pi^2
    whole = {
        "round": ROUND_SCALE**2 * 6 / math.pi,
        "gauss": (math.pi * GAUSS_WIDTH_SQR / 2) ** 1.5,
        "tophat": 4 / 3 * math.pi * TOPHAT_RADIUS_SQR**1.5,
    }[crystal.xtal_shape.replace("_star", "")] / fudge**1.5
    if not crystal.xtal_shape.endswith("_star"):
        return cells * whole
    # x is |dr*| Na Nb Nc there, in 1/Angstrom
    return whole * float(volume(crystal.A[0])) / cells


def _slice(plan: Plan, hkl: np.ndarray, s1: np.ndarray) -> np.ndarray:
    """As `_scattering` times wavelength^3, of the slice through the middle of a spot alone."""
    along, r = _unit(s1), hkl @ plan.experiment.crystal.A[0].cpu().numpy().T
    beams = [part.experiment.beam for part in plan.parts]
    of_beam, total = _beam_sigma_sqr(beams, r), np.zeros(len(r))
    for part in plan.parts:
        crystal = part.experiment.crystal
        sigma_sqr = _domain_sigma_sqr(crystal, along) + _mosaic_sigma_sqr(crystal, along, r)
        total += _scattering_of(part) / np.sqrt(2 * math.pi * (sigma_sqr + of_beam))
    return plan.dxtbx_experiment.beam.get_wavelength() ** 2 * total


def _domain_sigma_sqr(crystal: Crystal, along: np.ndarray) -> np.ndarray:
    """1/Angstrom^2 [n]: of a domain's spot along unit vectors [n, 3], as a gaussian of its height
    and integral."""
    cells = crystal.Ncells_abc.cpu().numpy()
    sigma = (_shape_integral(crystal) / cells.prod()) ** (1 / 3) / math.sqrt(2 * math.pi)
    a_matrix = crystal.A[0].cpu().numpy()
    return ((along @ a_matrix * (sigma / cells)) ** 2).sum(1)


def _mosaic_sigma_sqr(crystal: Crystal, along: np.ndarray, r: np.ndarray) -> np.ndarray:
    """Mean square over the domains of their displacement of points r [n, 3] along [n, 3]."""
    turns = (crystal.umats.cpu().double() - torch.eye(3)).numpy().reshape(-1, 9)
    moment = turns.T @ turns / len(turns)
    outer = (along[:, :, None] * r[:, None, :]).reshape(-1, 9)
    return np.einsum("ni,ij,nj->n", outer, moment, outer)


def _beam_sigma_sqr(beams: Sequence[Beam], r: np.ndarray) -> np.ndarray:
    """Variance over the sources of beams of the distance of points r [n, 3] from the Ewald
    sphere."""
    total, mean, mean_sqr = 0.0, np.zeros(len(r)), np.zeros(len(r))
    for beam in beams:
        wavenumber = 1 / beam.wavelength[0].cpu().numpy()
        s0 = beam.direction[0].cpu().numpy() * wavenumber[:, None]
        weight = (beam.fluence * beam.weight / beam.weight.sum()).cpu().numpy()
        for one, k, share in zip(s0, wavenumber, weight):
            distance = np.linalg.norm(r + one, axis=1) - k
            mean += share * distance
            mean_sqr += share * distance**2
            total += share
    if not total:
        return mean
    return np.maximum(mean_sqr / total - (mean / total) ** 2, 0)
