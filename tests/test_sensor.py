"""How far the thickness of a sensor moves what comes in obliquely: against dxtbx's parallax and the
mean depth of absorption; mu of a sensor's material."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("dials")

import simulate_helpers as sim  # noqa: E402
from cctbx.eltbx import attenuation_coefficient  # noqa: E402
from dxtbx.model import Beam, Detector, ParallaxCorrectedPxMmStrategy  # noqa: E402

from nanobragg_plugin import sampling, structure_factors  # noqa: E402
from nanobragg_plugin.adapters import models as adapters  # noqa: E402
from nanobragg_plugin.background import Material  # noqa: E402
from nanobragg_plugin.models import Experiment, SimulationOptions  # noqa: E402
from nanobragg_plugin.simulate import Simulator  # noqa: E402

LOG = Path("nanobragg.simulate.log")
DISTANCE, ANGLES = 150.0, (2, 5, 10, 15, 20, 25, 30, 35, 40, 45)


def strip(pixel: float, thickness: float, wavelength: float) -> tuple[Detector, Beam]:
    """A row of pixels, mm, from the beam to 47 degrees, of silicon with the parallax of dxtbx."""
    detector = Detector()
    panel = detector.add_panel()
    panel.set_local_frame((1, 0, 0), (0, -1, 0), (0, pixel / 2, -DISTANCE))
    panel.set_image_size((int(DISTANCE * math.tan(math.radians(47)) / pixel), 1))
    panel.set_pixel_size((pixel, pixel))
    panel.set_material("Si")
    panel.set_thickness(thickness)
    panel.set_mu(attenuation_coefficient.get_table("Si").mu_at_angstrom(wavelength) / 10)
    panel.set_px_mm_strategy(ParallaxCorrectedPxMmStrategy(panel.get_mu(), thickness))
    return detector, Beam((0, 0, 1), wavelength)


def ring(two_theta: float, wavelength: float, pixel: float) -> Material:
    """Makes a Gaussian of 1.5 pixels on the surface of the strip, around an angle, degrees; solid
    angle is as cos^3."""
    off = 1.5 * np.linspace(-7, 7, 281)
    angle = np.arctan(math.tan(math.radians(two_theta)) + off * pixel / DISTANCE)
    photons = np.exp(-(off**2) / (2 * 1.5**2)) / np.cos(angle) ** 3
    stol = np.sin(angle / 2) / wavelength
    tensors = (torch.as_tensor(x) for x in (stol, np.sqrt(photons), 1.0))
    return Material(*tensors, along_mm=torch.zeros(1).double(), share=torch.ones(1).double())


def centroids(detector: Detector, beam: Beam) -> np.ndarray:
    """Where rings are, pixels along the strip, in as many layers as are taken by default."""
    panels, pixel = adapters.panels(detector), detector[0].get_pixel_size()[0]
    layers = sampling.sensor_layers(panels[0], None, "absorption")
    experiment = Experiment(
        panels,
        replace(adapters.beam(beam, 1.0), kahn_factor=None),
        adapters.goniometer(None),
        adapters.crystal(sim.crystal(), adapters.CrystalOptions((5, 5, 5))),
    )
    options = SimulationOptions(layers=(layers,))
    simulator = Simulator(experiment, structure_factors.constant(1.0), options)
    exposure, found = adapters.exposure(None), []
    for angle in ANGLES:
        (image,) = simulator.scattered(exposure, (ring(angle, beam.get_wavelength(), pixel),))
        row = image[0].numpy()
        found.append(float(row @ (np.arange(len(row)) + 0.5) / row.sum()))
    return np.array(found)


def predicted(detector: Detector) -> np.ndarray:
    """By dxtbx, for rays in the plane of the strip."""
    rays = [(math.sin(a), 0.0, -math.cos(a)) for a in np.radians(ANGLES)]
    return np.array([detector[0].get_ray_intersection_px(ray)[0] for ray in rays])


def by_mean_depth(detector: Detector) -> np.ndarray:
    """Where the surface is met, and as far on as photons that are absorbed go on average: the
    mean of s over exp(-mu s) up to the sensor's back, along the ray."""
    panel, angle = detector[0], np.radians(ANGLES)
    mu, path = panel.get_mu(), panel.get_thickness() / np.cos(angle)
    mean = 1 / mu - path * np.exp(-mu * path) / (1 - np.exp(-mu * path))
    return (DISTANCE * np.tan(angle) + mean * np.sin(angle)) / panel.get_pixel_size()[0]


@pytest.mark.parametrize("pixel", (0.172, 0.075))
@pytest.mark.parametrize("thickness, wavelength", ((0.45, 1.6), (0.45, 2.755), (1.5, 0.98)))
def test_a_sensor_that_absorbs_all(pixel: float, thickness: float, wavelength: float) -> None:
    """mu t of 6 to 34: within 0.05 pixel of dxtbx from 2 to 45 degrees, though the shift is up to
    2.4 pixels. Measured worst 2.4e-3, of mu t = 6."""
    detector, beam = strip(pixel, thickness, wavelength)
    assert 5.9 < detector[0].get_mu() * thickness < 35
    theirs, surface = predicted(detector), DISTANCE * np.tan(np.radians(ANGLES)) / pixel
    assert (theirs - surface)[1:].min() > 5e-3 and np.diff(theirs - surface).min() > 0
    assert np.abs(centroids(detector, beam) - theirs).max() < 5e-3


@pytest.mark.parametrize(
    "pixel, thickness, wavelength, missing",
    (
        (0.172, 0.45, 0.98, 0.068),
        (0.075, 0.45, 0.98, 0.157),
        (0.172, 0.32, 1.0, 0.097),
        (0.075, 0.32, 1.0, 0.222),
        (0.075, 0.32, 0.7, 0.97),
    ),
)
def test_a_sensor_that_lets_photons_through(
    pixel: float, thickness: float, wavelength: float, missing: float
) -> None:
    """mu t of 0.5 to 1.8: at the mean depth of those that are absorbed, measured worst 1.1e-3
    pixel; dxtbx, which does not divide by their share, falls `missing` pixels short of it, by its
    own formula as here."""
    detector, beam = strip(pixel, thickness, wavelength)
    found, expected = centroids(detector, beam), by_mean_depth(detector)
    assert np.abs(found - expected).max() < 3e-3
    assert (expected - predicted(detector)).max() == pytest.approx(missing, abs=2e-3)


# ---- mu of a material


def without_mu(path: str, **of: object) -> str:
    """An experiment list whose panel has no mu, and what is given."""
    detector = sim.detector()
    detector[0].set_mu(0.0)
    for name, value in of.items():
        getattr(detector[0], f"set_{name}")(value)
    return sim.write_expt(path, sim.sweep(detector=detector))


def test_mu_of_a_list_s_material(tmp_cwd) -> None:
    """At 1 Angstrom silicon has 18.1 cm^2/g (NIST: 33.89 at 10 keV and 10.34 at 15 keV, between
    them by logarithms) and 2.33 g/cm^3. The log says so, the written models have it, and the
    image is that of a list that gives it."""
    sim.simulate(without_mu("models.expt"), *sim.QUICK)
    mu = sim.load()[0].detector[0].get_mu()
    assert mu == pytest.approx(18.1 * 2.33 / 10, rel=0.01)
    assert f"Si of 0.45 mm absorbs {mu:.4g}/mm" in LOG.read_text()
    given = sim.pixels()
    detector = sim.detector()
    detector[0].set_mu(mu)
    sim.write_expt("given.expt", sim.sweep(detector=detector))
    sim.simulate("given.expt", *sim.QUICK, "output.prefix=again")
    assert np.array_equal(sim.pixels("again.nxs"), given)
    assert "absorbs" not in LOG.read_text()


def test_a_sensor_of_nothing_known(tmp_cwd) -> None:
    """Is simulated as none, with a warning; a material that is unknown is refused."""
    path = without_mu("models.expt", material="")
    sim.simulate(path, *sim.QUICK)
    assert "neither material nor mu" in LOG.read_text()
    sim.simulate(without_mu("none.expt", thickness=0.0), *sim.QUICK, "output.prefix=bare")
    assert np.array_equal(sim.pixels("bare.nxs"), sim.pixels())
    assert "neither material nor mu" not in LOG.read_text()
    path = without_mu("odd.expt", material="unobtainium")
    said = sim.refused(path, *sim.QUICK, "output.prefix=x")
    assert "the absorption of 'unobtainium', the material of panel 0, is not known" in said
