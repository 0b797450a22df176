"""Lonely spots of the presets: where DIALS predicts them, what Darwin's formula makes of them."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import torch
from dials.array_family import flex
from libtbx.phil import parse
from random_models import image_sequence

from nanobragg_plugin.adapters import detector_phil, geometry_phil, load
from nanobragg_plugin.adapters import params as adapt
from nanobragg_plugin.simulate import simulate

#: Half the edge of the window around a spot, pixels.
HALF = 10


def preset(name: str, *assignments: str) -> SimpleNamespace:
    """The parameters and the dxtbx experiment of a preset, with changes as on the command line."""
    scope = adapt.with_preset(adapt.master_scope(), name)
    params = scope.fetch(parse("\n".join(assignments))).extract()
    experiment = geometry_phil.experiment_from_phil(params.geometry)
    detector_phil.set_panels([experiment], params.detector)
    return SimpleNamespace(params=params, experiment=experiment)


def lonely(experiment: object, d_min: float, d_max: float, image: float) -> SimpleNamespace:
    """dials.predict's panel, xyz (pixels, images) and s1 of a reflection within d_min and d_max,
    Angstrom, with no other in its window and no gap: nearest to `image`, and not near to the
    rotation axis; of a still, the nearest to its reflecting position."""
    still = experiment.scan is None
    if not still:  # else DIALS predicts a still
        experiment.imageset = image_sequence(experiment)
    table = flex.reflection_table.from_predictions(experiment, dmin=d_min, padding=1.0)
    table.compute_d_single(experiment)
    xyz, panel, s1 = (np.array(table[column]) for column in ("xyzcal.px", "panel", "s1"))
    near = (np.abs(xyz[:, None, :2] - xyz[:, :2]) <= 2 * HALF).all(2)
    near &= (panel[:, None] == panel) & (np.abs(xyz[:, None, 2] - xyz[:, 2]) < 20)
    size = np.array(experiment.detector[0].get_image_size())  # of every panel
    keep = ((xyz[:, :2] > HALF) & (xyz[:, :2] < size - HALF - 1)).all(1)
    keep &= (np.array(table["d"]) < d_max) & (near.sum(1) == 1)
    keep &= [whole(experiment.detector[int(i)], *at[:2]) for i, at in zip(panel, xyz)]
    if still:
        cost = np.abs(np.array(table["delpsical.rad"]))
    else:
        cost = np.abs(xyz[:, 2] - image) + lorentz(experiment, s1)
    choice = np.where(keep, cost, np.inf).argmin()
    assert keep[choice]
    return SimpleNamespace(panel=int(panel[choice]), xyz=xyz[choice], s1=s1[choice])


def whole(panel: object, fast: float, slow: float) -> bool:
    """Whether no untrusted rectangle reaches into a spot's window."""
    around = fast - HALF - 1, slow - HALF - 1, fast + HALF + 1, slow + HALF + 1
    return not any(
        x0 < around[2] and around[0] < x1 and y0 < around[3] and around[1] < y1
        for x0, y0, x1, y1 in panel.get_mask()
    )


def lorentz(experiment: object, s1: np.ndarray) -> np.ndarray:
    """1/(lambda^2 |axis . s0 x s1|) of s1 [n, 3]: how long a reflection is in passing."""
    spindle = np.cross(experiment.beam.get_s0(), s1) @ experiment.goniometer.get_rotation_axis()
    return 1 / (np.abs(spindle) * experiment.beam.get_wavelength() ** 2)


def window(spot: SimpleNamespace) -> tuple[int, int]:
    """First fast and slow pixel of the window around a spot."""
    return int(spot.xyz[0]) - HALF, int(spot.xyz[1]) - HALF


def whole_photons(
    name: str, spot: SimpleNamespace, *assignments: str
) -> tuple[SimpleNamespace, list[list[np.ndarray]]]:
    """A preset's parameters and experiment, and expected photons [image][panel] of the pixels in
    a spot's window, with F = 100 electrons throughout."""
    fast, slow = window(spot)
    roi = f"sampling.roi={fast} {fast + 2 * HALF} {slow} {slow + 2 * HALF} {spot.panel}"
    given = preset(name, "structure_factors.default_F=100", roi, *assignments)
    chosen = load.select_images(given.experiment, given.params.sampling.image_range)
    plan = adapt.plan(given.params, chosen)
    images = []
    for i in range(plan.n_images):
        with torch.no_grad():
            made = simulate(
                plan.experiment_of_image(i), plan.exposure(i), plan.structure_factors, plan.options
            )
        images.append([panel.numpy() for panel in made])
    return given, images


def darwin(given: SimpleNamespace, spot: SimpleNamespace) -> float:
    """Photons of a whole reflection of F = 100 electrons (Darwin's formula, as in Holton & Frankel
    2010, Acta Cryst. D66, 393-408), in SI units."""
    beam, experiment = given.params.beam, given.experiment
    panel = experiment.detector[spot.panel]
    wavelength = experiment.beam.get_wavelength() * 1e-10
    cell = experiment.crystal.get_unit_cell().volume() * 1e-30
    illuminated = math.prod(given.params.crystal.size_mm) * 1e-9
    flux_density = beam.flux / (beam.beamsize_mm[0] * beam.beamsize_mm[1] * 1e-6)
    radians_per_s = math.radians(experiment.scan.get_oscillation()[1]) / beam.exposure_s
    unit = spot.s1 / np.linalg.norm(spot.s1)
    fraction = experiment.beam.get_polarization_fraction()
    polarization = fraction * (1 - unit[0] ** 2) + (1 - fraction) * (1 - unit[1] ** 2)
    path = panel.get_thickness() / abs(unit @ panel.get_normal())
    captured = 1 - math.exp(-panel.get_mu() * path) if path else 1.0  # no sensor: all
    # a gauss domain scatters less than one with sharp faces: the integral of exp(-2 x^2/0.63)
    shape = (math.pi * 0.63 / 2) ** 1.5
    scattered = (2.8179403262e-15 * 100 / cell) ** 2 * wavelength**3 * illuminated * shape
    passing = float(lorentz(experiment, spot.s1[None])[0]) / radians_per_s
    return scattered * flux_density * passing * polarization * captured
