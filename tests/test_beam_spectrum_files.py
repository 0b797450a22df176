# ruff: noqa: E402
"""Spectra in beam models and in files: images that are sums of images of one wavelength; NXmx as
its manual and dxtbx have it.
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
from dxtbx.format.FormatNXmx import FormatNXmx
from dxtbx.model import Beam
from dxtbx.model import Spectrum as DxtbxSpectrum
from dxtbx.model.experiment_list import ExperimentListFactory
from dxtbx.nexus import CachedWavelengthBeamFactory
from libtbx.phil import parse
from libtbx.utils import Sorry
from scitbx.array_family import flex
from test_beam_sources import scope

from nanobragg_plugin.adapters import beam_spectrum
from nanobragg_plugin.adapters import params as adapt
from nanobragg_plugin.format.FormatNXmxNanoBragg import FormatNXmxNanoBragg

EV_ANGSTROM = 12398.42  # of nanoBragg.c; CODATA has 12398.4198
SHAPE = "beam.spectrum.shape="
COLOURS = (f"{SHAPE}two_colour", "beam.spectrum.separation_ev=600")
GAUSSIAN = (f"{SHAPE}gaussian", "beam.spectrum.fwhm_percent=1")


def given(**values: object):
    """The scope beam.spectrum, extracted."""
    return scope(**{f"spectrum.{name}": value for name, value in values.items()}).spectrum


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
