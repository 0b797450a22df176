# ruff: noqa: E402
"""Models that cannot be simulated: one `Sorry` each, that says which model and what is wrong."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("dials")

from dxtbx.model import Beam, Crystal, Detector, Experiment, Goniometer, Scan
from libtbx.utils import Sorry
from random_models import Choice, random_experiment

from nanobragg_plugin.adapters import checks
from nanobragg_plugin.adapters import models as adapters

NAN = float("nan")
VARYING = Choice(varying=True)


def test_bad_detectors() -> None:
    def bad(change: str, *values: object) -> Detector:
        detector = random_experiment(0).detector
        getattr(detector[2], change)(*values)
        return detector

    x, y, o = (1, 0, 0), (0, 1, 0), (-10.0, -10.0, 0.0)
    for message, detector in (
        ("origin of panel 2 .panel2.", bad("set_local_frame", x, y, (NAN, 0, 0))),
        ("90.05730 degrees apart", bad("set_local_frame", x, (-1e-3, 1, 0), o)),
        ("pixel size of panel 2", bad("set_pixel_size", (0.1, 0.0))),
        ("pixel size of panel 2", bad("set_pixel_size", (NAN, 0.1))),
        ("image size of panel 2", bad("set_image_size", (0, 10))),
        ("thickness of panel 2", bad("set_thickness", -0.1)),
        ("mu of panel 2", bad("set_mu", math.inf)),
    ):
        with pytest.raises(Sorry, match=message):
            adapters.panels(detector)


def test_panel_through_the_crystal() -> None:
    detector = Detector()
    panel = detector.add_panel()
    panel.set_frame((1, 0, 0), (0, 1, 0), (-5, -5, 0))
    panel.set_image_size((10, 10))
    panel.set_pixel_size((0.1, 0.1))
    with pytest.raises(Sorry, match="through the crystal"):
        adapters.panels(detector)


def test_bad_beams() -> None:
    def bad(change: str, value: object) -> Beam:
        beam = random_experiment(0).beam
        getattr(beam, change)(value)
        return beam

    s0 = random_experiment(0).beam.get_s0()
    for message, beam in (
        ("wavelength", bad("set_wavelength", -1.0)),
        ("wavelength", bad("set_wavelength", 0.0)),
        ("wavelength", bad("set_wavelength", NAN)),
        ("parallel to s0", bad("set_polarization_normal", s0)),
        ("0 or parallel", bad("set_polarization_normal", (0, 0, 0))),
        ("polarization normal", bad("set_polarization_normal", (0, NAN, 0))),
        ("polarization fraction", bad("set_polarization_fraction", 1.2)),
        ("polarization fraction", bad("set_polarization_fraction", NAN)),
        ("scan point 1", bad("set_s0_at_scan_points", [s0, (NAN, 0, 1), s0])),
        ("scan points", bad("set_s0_at_scan_points", [s0, (0, 0, 0), s0])),
    ):
        with pytest.raises(Sorry, match=message):
            adapters.beam(beam, 1.0)


def test_beams_of_newer_dxtbx() -> None:
    """What dxtbx >= 3.16 has and this one may not: PolychromaticBeam raises where s0 is asked
    for (beam.h), and a Probe that is not x-rays."""

    class Polychromatic:
        def get_wavelength_range(self) -> tuple[float, float]:
            return 0.9, 1.3

    class Electrons:
        def get_probe_name(self) -> str:
            return "electron"

    with pytest.raises(Sorry, match="polychromatic"):
        adapters.beam(Polychromatic(), 1.0)
    with pytest.raises(Sorry, match="electron"):
        adapters.beam(Electrons(), 1.0)


def test_bad_goniometers() -> None:
    identity, stretched = (1, 0, 0, 0, 1, 0, 0, 0, 1), (1, 0, 0, 0, 1.1, 0, 0, 0, 1)
    varying = Goniometer((1, 0, 0))
    varying.set_setting_rotation_at_scan_points([identity, (NAN,) * 9])
    for message, theirs in (
        ("fixed rotation", Goniometer((1, 0, 0), (NAN,) * 9)),
        ("setting rotation .* not a rotation", Goniometer((1, 0, 0), identity, stretched)),
        ("scan point 1", varying),
    ):
        with pytest.raises(Sorry, match=message):
            adapters.goniometer(theirs)


def test_bad_crystals() -> None:
    nan = Crystal((10, 0, 0), (0, 10, 0), (0, 0, 10), "P1")
    nan.set_B((NAN,) * 9)
    flat = Crystal((10, 0, 0), (0, 10, 0), (0, 0, 10), "P1")
    # (dxtbx itself refuses a static one)
    flat.set_A_at_scan_points([(0.1, 0, 0.1, 0, 0.1, 0, 0, 0, 1e-9)] * 2)
    varying = Crystal((10, 0, 0), (0, 10, 0), (0, 0, 10), "P1")
    varying.set_A_at_scan_points([varying.get_A(), (NAN,) * 9, varying.get_A()])
    for message, theirs in (("finite", nan), ("no volume", flat), ("scan point 1", varying)):
        with pytest.raises(Sorry, match=message):
            adapters.crystal_orientation(theirs)


def test_bad_scan() -> None:
    with pytest.raises(Sorry, match="oscillation"):
        adapters.exposure(Scan((1, 3), (NAN, 0.1)))


@pytest.mark.parametrize("name", ["crystal", "beam", "detector", "goniometer"])
def test_missing_models(name: str) -> None:
    experiment = random_experiment(0)
    checks.check_experiment(experiment)
    setattr(experiment, name, None)
    with pytest.raises(Sorry, match=f"no {name}"):
        checks.check_experiment(experiment)


def test_a_still_needs_no_goniometer() -> None:
    whole = random_experiment(0)
    still = Experiment(beam=whole.beam, detector=whole.detector, crystal=whole.crystal)
    checks.check_experiment(still)


@pytest.mark.parametrize("name", ["crystal", "beam", "goniometer"])
def test_scan_points_that_do_not_fit(name: str) -> None:
    experiment = random_experiment(0, VARYING)
    checks.check_experiment(experiment)
    longer = random_experiment(0, Choice(images=41, varying=True))
    setattr(experiment, name, getattr(longer, name))
    with pytest.raises(Sorry, match=f"scan-varying {name} .* 42 scan points.* 40 images"):
        checks.check_experiment(experiment)
