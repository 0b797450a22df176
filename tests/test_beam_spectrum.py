# ruff: noqa: E402
"""Spectra of experiments and images (`beam.spectrum`).

Expected: spots where DIALS predicts them for each wavelength; the spread of a spot by Bragg's law;
images that are sums of images of one wavelength; NXmx as its manual and dxtbx have it.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import h5py
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("dials")

import simulate_helpers as sim
from cctbx.eltbx import attenuation_coefficient
from dials.algorithms.spot_prediction import ScanStaticRayPredictor
from dxtbx.format.FormatNXmx import FormatNXmx
from dxtbx.model import Beam, Crystal, Detector, Goniometer
from dxtbx.model import Spectrum as DxtbxSpectrum
from dxtbx.model.experiment_list import ExperimentListFactory
from dxtbx.nexus import CachedWavelengthBeamFactory
from libtbx.phil import parse
from libtbx.utils import Sorry
from scitbx.array_family import flex
from test_beam_sources import core_beam, scope

from nanobragg_plugin.adapters import beam_sources, beam_spectrum
from nanobragg_plugin.adapters import params as adapt
from nanobragg_plugin.adapters import spectrum as spectra
from nanobragg_plugin.format.FormatNXmxNanoBragg import FormatNXmxNanoBragg
from nanobragg_plugin.simulate import Simulator

EV_ANGSTROM = 12398.42  # of nanoBragg.c; CODATA has 12398.4198
SHAPE = "beam.spectrum.shape="
COLOURS = (f"{SHAPE}two_colour", "beam.spectrum.separation_ev=600")
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


# ---- the beam model that is written


def write_spectrum(mean: float, name: str = "s.txt") -> None:
    energies = mean + np.linspace(-60, 60, 90)
    lines = [f"{e!r} {math.exp(-(((e - mean) / 20) ** 2))!r}" for e in energies]
    Path(name).write_text("\n".join(lines))


def test_a_file_sets_the_wavelength_of_the_model(tmp_cwd):
    write_spectrum(12450.0)  # the model has 1 A, 12398.42 eV
    before = sim.sweep()
    experiment, found, notes = beam_spectrum.with_spectrum(
        given(shape="spectrum_file", spectrum_file="s.txt", samples=20), before
    )
    assert experiment.beam.get_wavelength() == pytest.approx(EV_ANGSTROM / 12450, rel=1e-9)
    assert before.beam.get_wavelength() == 1.0 and experiment.detector is not None
    assert len(found.energies) == 20 and found.mean == pytest.approx(12450, rel=1e-12)
    assert "The beam's 1 A become that of the mean photon energy" in notes[1]
    beam = Beam(before.beam)
    beam.set_s0_at_scan_points(flex.vec3_double([(0, 0.01, -1)] * 4))
    lengths = [1 / math.hypot(*s0) for s0 in beam.get_s0_at_scan_points()]
    with pytest.raises(Sorry, match="varies over the scan"):
        beam_spectrum.with_spectrum(
            given(shape="spectrum_file", spectrum_file="s.txt"), sim.sweep(beam=beam)
        )
    beam.set_s0_at_scan_points(flex.vec3_double([(0, 0.01 * lengths[0], -lengths[0])] * 4))
    experiment, _, _ = beam_spectrum.with_spectrum(
        given(shape="spectrum_file", spectrum_file="s.txt"), sim.sweep(beam=beam)
    )
    for s0 in experiment.beam.get_s0_at_scan_points():
        assert math.hypot(*s0) == pytest.approx(12450 / EV_ANGSTROM, rel=1e-6)


@pytest.mark.parametrize("mean", [12398.42 * 1.011, 12398.42 / 1.011, 12398.42 * 1.6])
def test_a_file_of_another_beam_is_refused(mean, tmp_cwd):
    write_spectrum(mean)
    with pytest.raises(Sorry, match="but the beam's wavelength 1 A: mend the file, or give") as e:
        beam_spectrum.with_spectrum(
            given(shape="spectrum_file", spectrum_file="s.txt"), sim.sweep()
        )
    assert f"geometry.beam.wavelength={EV_ANGSTROM / mean:.6g}" in str(e.value)


def test_other_shapes_leave_the_model_alone():
    for values in (
        {"shape": "gaussian", "fwhm_percent": 1},
        {"shape": "pink", "fwhm_percent": 5},
        {"shape": "two_colour", "separation_ev": 90, "second_share": 0.1},
    ):
        before = sim.sweep()
        experiment, found, _ = beam_spectrum.with_spectrum(given(**values), before)
        assert experiment is before and found.wavelength == pytest.approx(1, rel=1e-12)
    for nothing in (given(), given(shape="none")):
        assert beam_spectrum.with_spectrum(nothing, before) == (before, None, ())


class PolychromaticBeam(Beam):
    """As that of dxtbx from 3.16 on: a range of wavelengths, neither a wavelength nor s0."""

    range = (0.9, 1.2)

    def get_wavelength_range(self) -> tuple[float, float]:
        return self.range

    def _none(self, *args: object) -> None:
        raise RuntimeError("PolychromaticBeam has no fixed wavelength or s0")

    get_wavelength = set_wavelength = get_s0 = set_s0 = get_s0_at_scan_points = _none
    num_scan_points = property(_none)


def polychromatic(low: float, high: float) -> PolychromaticBeam:
    beam = PolychromaticBeam((0, 0.1, 1), 1.0)
    beam.range = low, high
    beam.set_polarization_fraction(0.7)
    beam.set_flux(3e11)
    return beam


def test_a_polychromatic_beam_fills_its_range_evenly():
    experiment = sim.sweep(beam=polychromatic(0.9, 1.2))
    experiment, found, notes = beam_spectrum.with_spectrum(given(samples=50), experiment)
    wavelengths = EV_ANGSTROM / found.energies[::-1]
    np.testing.assert_allclose(wavelengths, 0.9 + 0.3 * (np.arange(50) + 0.5) / 50, rtol=1e-12)
    np.testing.assert_allclose(found.photons, 1 / 50, rtol=1e-12)
    beam = experiment.beam
    # the mean of 1/wavelength over the range: ln(1.2/0.9)/0.3
    assert beam.get_wavelength() == pytest.approx(0.3 / math.log(1.2 / 0.9), rel=1e-5)
    np.testing.assert_allclose(
        beam.get_sample_to_source_direction(), np.array([0, 0.1, 1]) / math.hypot(0.1, 1)
    )
    assert beam.get_polarization_fraction() == 0.7 and beam.get_flux() == 3e11
    assert "polychromatic" in notes[1]
    text = "structure_factors.default_F=1\nbeam.fluence=1"
    params = adapt.master_scope().fetch(parse(text)).extract()
    plan = adapt.plan(params, sim.sweep(beam=polychromatic(0.9, 1.2)))
    assert plan.experiment.beam.wavelength.shape == (1, 25)


def test_a_sensor_absorbs_at_the_mean_wavelength_of_a_polychromatic_beam():
    """A panel without mu: silicon at the mean photon energy (cctbx's NIST tables)."""
    detector = sim.detector()
    detector[0].set_mu(0)
    experiment = sim.sweep(beam=polychromatic(0.9, 1.2), detector=detector)
    experiment, found, _ = beam_spectrum.with_spectrum(given(), experiment)
    table = attenuation_coefficient.get_table("Si")
    assert experiment.detector[0].get_mu() == pytest.approx(
        table.mu_at_angstrom(found.wavelength) / 10, rel=1e-12
    )


def test_a_polychromatic_beam_with_a_spectrum(tmp_cwd):
    write_spectrum(12398.42)
    params = given(shape="spectrum_file", spectrum_file="s.txt")
    for low, high in ((0.99, 1.01), (0, 0)):
        experiment = sim.sweep(beam=polychromatic(low, high))
        experiment, found, _ = beam_spectrum.with_spectrum(params, experiment)
        assert experiment.beam.get_wavelength() == pytest.approx(1, rel=1e-9)
    with pytest.raises(Sorry, match="but the beam's wavelength"):
        beam_spectrum.with_spectrum(params, sim.sweep(beam=polychromatic(0.8, 0.9)))
    assert type(experiment.beam) is Beam and len(found.energies) == 25


@pytest.mark.parametrize(
    ("ends", "words"),
    [
        ((0, 0), "has no wavelength range: set it, or give beam.spectrum.shape=spectrum"),
        ((1, math.inf), "has no wavelength range"),
        ((1, 1), "the wavelength range of the polychromatic beam is 1 to 1 A"),
    ],
)
def test_ranges_that_are_refused(ends, words):
    with pytest.raises(Sorry, match=words):
        beam_spectrum.with_spectrum(given(), sim.sweep(beam=polychromatic(*ends)))


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


# ---- files


def simulated(*arguments: str) -> np.ndarray:
    """Expected photons of the first image."""
    options = ["compute.precision=double", "compute.tolerance=0", "noise.poisson=False"]
    options += ["output.overwrite=True", *arguments]
    sim.simulate("models.expt", *sim.QUICK, *options)
    return sim.pixels()[0].astype(float)


def test_an_image_is_the_weighted_sum_over_the_wavelengths(tmp_cwd):
    """Of images of a beam of one wavelength each (the sensor is the same)."""
    images = []
    for energy in (EV_ANGSTROM - 150, EV_ANGSTROM + 450):
        sim.write_expt("models.expt", sim.sweep(beam=Beam((0, 0, 1), EV_ANGSTROM / energy)))
        images.append(simulated())
    sim.write_expt("models.expt", sim.sweep(beam=Beam((0, 0, 1), 1.0)))
    both = simulated(*COLOURS, "beam.spectrum.second_share=0.25")
    expected = 0.75 * images[0] + 0.25 * images[1]
    # measured worst case 1.2e-7: rounding to float32
    np.testing.assert_allclose(both, expected, rtol=3e-7, atol=0)
    assert np.abs(images[0] - images[1]).max() > 0.1 * images[0].max()


def test_the_file_has_the_spectrum_as_nxmx_has_it(tmp_cwd):
    """NXbeam: a variant of incident_wavelength with its weights. Stock readers: the wavelength of
    the mean, and where they read spectra the spectrum."""
    sim.write_expt("models.expt", sim.sweep())
    simulated(*GAUSSIAN, "beam.spectrum.samples=9")
    with h5py.File("simulated.nxs") as handle:
        beam = handle["/entry/instrument/beam"]
        assert beam["incident_wavelength"][()] == pytest.approx(1.0, rel=1e-12)
        name = beam["incident_wavelength"].attrs["variant"]
        wavelengths, weights = beam[name][()], beam[f"{name}_weights"][()]
        assert beam[name].attrs["units"] == "angstrom"
    sigma = 0.01 / math.sqrt(8 * math.log(2)) * EV_ANGSTROM
    model = ExperimentListFactory.from_filenames(["simulated.nxs"])[0]
    assert issubclass(model.imageset.get_format_class(), FormatNXmxNanoBragg)
    found = [model.imageset.get_spectrum(0)]
    found.append(sim.load("simulated.expt", True)[0].imageset.get_spectrum(1))
    stock = FormatNXmx("simulated.nxs")
    assert stock.get_beam().get_wavelength() == pytest.approx(1.0, rel=1e-12)
    assert model.beam.get_wavelength() == pytest.approx(1.0, rel=1e-12)
    if hasattr(CachedWavelengthBeamFactory, "make_spectrum"):  # dxtbx of 2022 has none
        found.append(stock.get_spectrum(0))
    for spectrum in found:
        energies = np.sort(np.array(list(spectrum.get_energies_eV())))
        np.testing.assert_allclose(energies, np.sort(EV_ANGSTROM / wavelengths), rtol=1e-7)
        assert spectrum.get_weighted_energy_eV() == pytest.approx(EV_ANGSTROM, rel=1e-7)
        assert spectrum.get_weighted_energy_variance() == pytest.approx(sigma**2, rel=1e-4)
    assert weights.sum() == pytest.approx(1) and weights.argmax() == 4
    simulated()
    assert FormatNXmxNanoBragg("simulated.nxs").get_spectrum() is None
    with h5py.File("simulated.nxs") as handle:
        assert "variant" not in handle["/entry/instrument/beam/incident_wavelength"].attrs


def test_dispersion_is_written_too(tmp_cwd):
    sim.write_expt("models.expt", sim.sweep())
    simulated("beam.dispersion_percent=2", "beam.hdivrange_mrad=1", "beam.hdivsteps=2")
    spectrum = FormatNXmxNanoBragg("simulated.nxs").get_spectrum()
    energies = EV_ANGSTROM / np.array([1.01, 1.005, 1, 0.995, 0.99])
    np.testing.assert_allclose(list(spectrum.get_energies_eV()), energies, rtol=1e-12)
    np.testing.assert_allclose(list(spectrum.get_weights()), 0.2, rtol=1e-12)


def test_the_spectrum_of_images(tmp_cwd):
    """What was written is read: the same pixels again, from the images' own spectrum."""
    sim.write_expt("models.expt", sim.sweep())
    options = ["compute.precision=double", "compute.tolerance=0", "noise.poisson=False"]
    seven = [*GAUSSIAN, "beam.spectrum.samples=7", "output.prefix=first"]
    sim.simulate("models.expt", *sim.QUICK, *options, *seven)
    first = sim.pixels("first.nxs").astype(float)
    sim.simulate("first.expt", *sim.QUICK, *options, f"{SHAPE}image_set")
    again = sim.pixels().astype(float)
    np.testing.assert_allclose(again, first, rtol=2e-7, atol=0)  # measured: 6e-8
    imageset = sim.load("first.expt")[0].imageset
    assert len(beam_spectrum.spectrum_of(imageset, 2).energies) == 7


def test_images_without_a_spectrum_or_of_several(tmp_cwd, monkeypatch):
    sim.write_expt("models.expt", sim.sweep())
    sim.simulate("models.expt", *sim.QUICK, "output.prefix=first")
    arguments = ("first.expt", *sim.QUICK, f"{SHAPE}image_set")
    assert "first.nxs holds no spectrum: give beam.spectrum.spectrum_file" in sim.refused(
        *arguments
    )

    def spectrum(self: object, index: int) -> DxtbxSpectrum:
        return DxtbxSpectrum(flex.double([12390 + 5.0 * index, 12400]), flex.double([1, 2]))

    with monkeypatch.context() as patch:
        patch.setattr(FormatNXmxNanoBragg, "get_spectrum", spectrum)
        words = sim.refused(*arguments)
        sim.simulate(*arguments, "sampling.image_range=12,12", "output.prefix=second")
    assert re.search("the spectra of images 1 and 2 of .*first.nxs differ", words)
    # of the images that are chosen alone, here one
    assert len(FormatNXmxNanoBragg("second.nxs").get_spectrum().get_weights()) == 2
    Path("first.nxs").rename("elsewhere.nxs")
    assert re.search(
        r"the spectrum of image 1 of .*first.nxs cannot be read", sim.refused(*arguments)
    )
