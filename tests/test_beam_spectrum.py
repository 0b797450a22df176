# ruff: noqa: E402
"""Spectra of experiments (`beam.spectrum`): what they diffract.

Expected: spots where DIALS predicts them for each wavelength; the spread of a spot by Bragg's
law; streaks of stills.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("dials")

import simulate_helpers as sim
from dials.algorithms.spot_prediction import ScanStaticRayPredictor
from dxtbx.model import Beam, Crystal, Detector, Goniometer
from libtbx.phil import parse
from libtbx.utils import Sorry
from test_beam_sources import core_beam, scope

from nanobragg_plugin.adapters import beam_sources, beam_spectrum
from nanobragg_plugin.adapters import params as adapt
from nanobragg_plugin.adapters import spectrum as spectra
from nanobragg_plugin.simulate import Simulator

EV_ANGSTROM = 12398.42  # of nanoBragg.c; CODATA has 12398.4198
SHAPE = "beam.spectrum.shape="
GAUSSIAN = (f"{SHAPE}gaussian", "beam.spectrum.fwhm_percent=1")


def given(**values: object):
    """The scope beam.spectrum, extracted."""
    return scope(**{f"spectrum.{name}": value for name, value in values.items()}).spectrum


# ---- one reflection of a crystal that turns


HKL = (1, 3, 2)
WAVELENGTH = 1.1


def one_reflection(*arguments: str) -> tuple:
    """Image [slow, fast] of a wide rotation in which only HKL scatters, and the experiment: what
    leaves the crystal at both colours, or all of a spectrum, is on it once. Domains are so small
    that a spot covers some pixels: the centroid of one that does not is that of its pixel."""
    beam = Beam((0, 0, 1), WAVELENGTH)
    detector = Detector()
    panel = detector.add_panel()
    panel.set_local_frame((1, 0, 0), (0, -1, 0), (-9.5, 10.5, -50))
    panel.set_image_size((160, 150))
    panel.set_pixel_size((0.12, 0.13))
    panel.set_trusted_range((-1, 1e9))
    crystal = Crystal((31, 2, 1), (-3, 40, 4), (5, -2, 50), space_group_symbol="P1")
    experiment = sim.sweep(
        beam=beam,
        detector=detector,
        goniometer=Goniometer((1, 0, 0)),
        crystal=crystal,
        scan=sim.scan(),
    )
    angle = min(ray.angle for ray in rays(experiment, WAVELENGTH))
    experiment.scan.set_image_range((1, 1))
    experiment.scan.set_oscillation((math.degrees(angle) - 6, 12))
    Path("one.hkl").write_text("{} {} {} 100\n".format(*HKL))
    text = [
        "structure_factors.file=one.hkl",
        "beam.fluence=1e24",
        "crystal.Ncells_abc=11,9,7",
        "sampling.oversample=2",
        "sampling.phisteps=120",
        "compute.compile=never",
        "sampling.oversample_omega=True",
        "beam.polarization_correction=False",
        *arguments,
    ]
    params = adapt.master_scope().fetch(parse("\n".join(text))).extract()
    plan = adapt.plan(params, experiment)
    simulator = Simulator(plan.experiment, plan.structure_factors, plan.options)
    return simulator.image(plan.exposure(0), 1e24)[0].numpy(), experiment


def rays(experiment, wavelength: float) -> list:
    """DIALS' rays of HKL at a wavelength."""
    goniometer = experiment.goniometer
    predict = ScanStaticRayPredictor(
        (0, 0, -1 / wavelength),
        goniometer.get_rotation_axis_datum(),
        goniometer.get_fixed_rotation(),
        goniometer.get_setting_rotation(),
        (0, 2 * math.pi),
    )
    return list(predict(HKL, experiment.crystal.get_A()))


def two_theta(experiment, image: np.ndarray) -> np.ndarray:
    """Radians, of every pixel's middle, by dxtbx's geometry."""
    panel, slow, fast = experiment.detector[0], *np.indices(image.shape) + 0.5
    origin, (along_fast, along_slow) = np.array(panel.get_origin()), panel.get_pixel_size()
    lab = origin + np.multiply.outer(fast * along_fast, np.array(panel.get_fast_axis()))
    lab = lab + np.multiply.outer(slow * along_slow, np.array(panel.get_slow_axis()))
    return np.arccos(-lab[..., 2] / np.linalg.norm(lab, axis=-1))


def bragg(experiment, energy: float) -> float:
    """2 theta, radians, of HKL at an energy, eV."""
    d = experiment.crystal.get_unit_cell().d(HKL)
    return 2 * math.asin(EV_ANGSTROM / energy / (2 * d))


def test_two_colours_make_two_spots_where_dials_predicts_them(tmp_cwd):
    share, apart = 0.4, 2400
    colours = f"beam.spectrum.separation_ev={apart}", f"beam.spectrum.second_share={share}"
    image, experiment = one_reflection(f"{SHAPE}two_colour", *colours)
    mean = EV_ANGSTROM / WAVELENGTH
    panel = experiment.detector[0]
    photons = []
    for energy in (mean - share * apart, mean + (1 - share) * apart):
        angle = min(rays(experiment, WAVELENGTH), key=lambda ray: ray.angle).angle
        ray = min(rays(experiment, EV_ANGSTROM / energy), key=lambda ray: abs(ray.angle - angle))
        fast, slow = panel.get_ray_intersection_px(ray.s1)
        assert 5 < fast < 155 and 5 < slow < 145
        near = (
            np.hypot(*(np.indices(image.shape) + 0.5 - np.array([slow, fast])[:, None, None])) < 4
        )
        spot = np.where(near, image, 0)
        at = (np.indices(image.shape) + 0.5).reshape(2, -1) @ spot.ravel() / spot.sum()
        # measured worst 0.01 pixels
        assert np.abs(at - [slow, fast]).max() < 0.02
        # of a rotating crystal a spot has photons x wavelength^3 x Lorentz factor (Darwin)
        wavelength, s0 = EV_ANGSTROM / energy, np.array([0, 0, -energy / EV_ANGSTROM])
        lorentz = 1 / abs(np.array(ray.s1) @ np.cross((1, 0, 0), s0)) / wavelength**2
        photons.append(spot.sum() / (wavelength**3 * lorentz))
    assert sum(photons) > 0
    assert photons[1] / sum(photons) == pytest.approx(share, abs=1e-3)  # measured: 3e-4


def moments(values: np.ndarray, weights: np.ndarray) -> tuple[float, float, float]:
    """Mean, and second and third moment about it."""
    mean = (values * weights).sum() / weights.sum()
    return mean, *(((values - mean) ** k * weights).sum() / weights.sum() for k in (2, 3))


@pytest.mark.parametrize(("shape", "low_side"), [("gaussian", 0.5), ("pink", 0.8)])
def test_a_spot_spreads_radially_by_bragg_s_law(shape, low_side, tmp_cwd):
    """The moments of 2 theta are those of Bragg's law over the spectrum's formula, besides what the
    spot has at one energy; wavelength^3/sin 2 theta, as the spot's photons go, is about
    wavelength^2 (and shifts the mean by 2 % of the width)."""
    percent = 6.0
    image, experiment = one_reflection(
        f"{SHAPE}{shape}", f"beam.spectrum.fwhm_percent={percent}", "beam.spectrum.samples=40"
    )
    alone, _ = one_reflection()
    mean, second, third = moments(two_theta(experiment, image), image)
    own, own_second, own_third = moments(two_theta(experiment, alone), alone)
    energy = EV_ANGSTROM / WAVELENGTH
    assert own == pytest.approx(bragg(experiment, energy), rel=4e-4)  # measured: 2.1e-4
    fwhm = percent / 100 * energy
    # Wallis 2014: the mean is sqrt(2/pi) (s2 - s1) from the peak
    apart = (1 - 2 * low_side) * 2 * fwhm / math.sqrt(8 * math.log(2))
    peak = energy - math.sqrt(2 / math.pi) * apart
    energies = np.linspace(energy - 2 * fwhm, energy + 2 * fwhm, 4001)
    half = np.where(energies < peak, low_side, 1 - low_side) * fwhm
    density = 0.5 ** (((energies - peak) / half) ** 2)
    angles = np.array([bragg(experiment, e) for e in energies])
    expected, expected_second, expected_third = moments(angles, density / energies**2)
    sigma = math.sqrt(expected_second)
    # measured: mean 0.006 sigma, sigma 0.9 %, third moment 0.04 sigma^3 (tails are cut at 3 sigma)
    assert sigma > 1.4 * math.sqrt(own_second)
    assert mean - own == pytest.approx(expected - bragg(experiment, energy), abs=0.01 * sigma)
    assert math.sqrt(second - own_second) == pytest.approx(sigma, rel=0.015)
    assert third - own_third == pytest.approx(expected_third, abs=0.07 * sigma**3)
    assert (expected_third > 0.5 * sigma**3) == (shape == "pink")


def test_the_fluence_is_all_photons(tmp_cwd):
    """A spectrum spreads the photons of a spot: their number stays, but for wavelength^3 and the
    Lorentz factor, whose curvature is 1e-3 here (measured: 7e-4)."""
    alone, _ = one_reflection()
    spread, _ = one_reflection(f"{SHAPE}gaussian", "beam.spectrum.fwhm_percent=4")
    assert spread.sum() == pytest.approx(alone.sum(), rel=2e-3)
    assert spread.max() < 0.8 * alone.max()


# ---- sources


def test_every_direction_has_every_wavelength():
    """Directions as without a spectrum, in turn with each wavelength; weights of the photons."""
    beam = core_beam()
    _, spectrum, _ = beam_spectrum.with_spectrum(
        given(shape="two_colour", separation_ev=200, second_share=0.25), sim.sweep()
    )
    diverging = {"hdivrange_mrad": 4, "hdivsteps": 3, "vdivrange_mrad": 2, "vdivsteps": 2}
    plain = beam_sources.with_sources(beam, scope(**diverging))
    found = beam_sources.with_sources(beam, scope(**diverging), spectrum)
    n = plain.direction.shape[1]
    assert n == 6 and found.direction.shape == (1, 2 * n, 3)
    for k in range(2):
        torch.testing.assert_close(found.direction[:, k::2], plain.direction, rtol=0, atol=0)
    # in energy order: the first colour, 3/4 of the photons, has the longer wavelength
    mean = EV_ANGSTROM / 1.0  # of sim.sweep, relative to which the lines are
    factors = [mean / (mean - 50), mean / (mean + 150)]
    expected = torch.tensor([1.2 * f for f in factors] * n, dtype=torch.float64)
    torch.testing.assert_close(found.wavelength[0], expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(
        found.weight, torch.tensor([1.5, 0.5] * n, dtype=torch.float64), rtol=1e-14, atol=0
    )


@pytest.mark.parametrize(
    ("beam", "words"),
    [
        ({"dispersion_percent": 1}, "beam.spectrum and beam.dispersion_percent"),
        ({"source_file": "x"}, "both say which wavelengths there are"),
        (
            {"hdivrange_mrad": 1, "hdivsteps": 9999, "vdivrange_mrad": 1, "vdivsteps": 99},
            "or less of beam.spectrum.samples",
        ),
    ],
)
def test_sources_that_are_refused(beam, words):
    lines = spectra.gaussian(12000.0, 100.0, 25)
    with pytest.raises(Sorry, match=re.escape(words)):
        beam_sources.with_sources(core_beam(), scope(**beam), lines)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"shape": "gaussian"}, "shape=gaussian needs beam.spectrum.fwhm_percent"),
        ({"shape": "pink"}, "shape=pink needs beam.spectrum.fwhm_percent"),
        ({"shape": "two_colour"}, "shape=two_colour needs beam.spectrum.separation_ev"),
        ({"shape": "spectrum_file"}, "shape=spectrum_file needs beam.spectrum.spectrum_file"),
        ({"fwhm_percent": 1}, "fwhm_percent has no meaning for beam.spectrum.shape=none: give"),
        ({"shape": "gaussian", "fwhm_percent": 0}, "beam.spectrum.fwhm_percent=0: it must be"),
        ({"shape": "gaussian", "fwhm_percent": 90}, "reaches energies below 0: make it narrower"),
        (
            {"shape": "pink", "fwhm_percent": 1, "separation_ev": 5},
            "separation_ev has no meaning for beam.spectrum.shape=pink",
        ),
        (
            {"shape": "image_set", "spectrum_file": "x"},
            "spectrum_file has no meaning for beam.spectrum.shape=image_set",
        ),
        ({"shape": "two_colour", "separation_ev": 0}, "separation_ev=0: the colours would be one"),
        (
            {"shape": "two_colour", "separation_ev": 9, "second_share": 1},
            "second_share=1: one colour would have all photons",
        ),
        ({"shape": "two_colour", "separation_ev": 1e6}, "reaches energies below 0"),
        ({"shape": "image_set"}, "image_set, but the experiment has no images"),
    ],
)
def test_parameters_that_are_refused(values, words):
    with pytest.raises(Sorry, match=re.escape(words)) as caught:
        beam_spectrum.with_spectrum(given(**values), sim.sweep())
    assert "\n" not in str(caught.value)


# ---- streaks of stills


def streak(samples: int) -> tuple[np.ndarray, str]:
    """Photons along the streak of one reflection on a still, and the log's notes: the crystal has
    domains in all orientations about the axis that turns it through its Bragg angle."""
    detector = sim.detector()
    panel = detector[0]
    panel.set_local_frame((1, 0, 0), (0, -1, 0), (-20, 0.5, -100))
    panel.set_image_size((200, 10))
    panel.set_pixel_size((0.1, 0.1))
    panel.set_thickness(0)
    theta = math.asin(1.0 / (2 * 7.5))
    across, along = math.cos(theta), math.sin(theta)
    # h along -x and turned by theta towards the source, so that (4, 0, 0) is in place at 1 A
    crystal = Crystal(
        (-30 * across, 0, 30 * along), (0, 40, 0), (50 * along, 0, 50 * across),
        space_group_symbol="P1",
    )  # fmt: skip
    Path("one.hkl").write_text("4 0 0 100\n")
    text = [
        "structure_factors.file=one.hkl",
        "beam.fluence=1e24",
        "crystal.Ncells_abc=40,40,40",
        "crystal.mosaic.spread_deg=0.8",
        "crystal.mosaic.domains=400",
        "sampling.oversample=1",
        "compute.compile=never",
        f"beam.spectrum.samples={samples}",
        *(a for a in GAUSSIAN[:1]),
        "beam.spectrum.fwhm_percent=5",
    ]
    params = adapt.master_scope().fetch(parse("\n".join(text))).extract()
    still = sim.still(crystal=crystal, detector=detector, beam=Beam((0, 0, 1), 1.0))
    plan = adapt.plan(params, still)
    simulator = Simulator(plan.experiment, plan.structure_factors, plan.options)
    image = simulator.image(plan.exposure(0), 1e24)[0].numpy()
    return image.sum(0), "\n".join(plan.notes)


def peaks(profile: np.ndarray) -> int:
    """Local maxima above a tenth of the highest."""
    inner = profile[1:-1]
    return int(
        ((inner > profile[:-2]) & (inner >= profile[2:]) & (inner > profile.max() / 10)).sum()
    )


def test_the_streak_of_a_still_is_smooth_with_the_number_of_wavelengths_that_the_log_names(
    tmp_cwd,
):
    few, words = streak(9)
    found = re.search(r"put a spot up to (\S+) of its widths apart.*samples=(\d+) would", words)
    assert found and float(found[1]) > 1.5
    many, words = streak(int(found[2]))
    assert "note: neighbouring" not in words
    assert peaks(few) >= 5 and peaks(many) == 1
