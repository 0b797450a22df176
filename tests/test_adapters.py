# ruff: noqa: E402
"""Adapters of the models against dxtbx's, scitbx's and DIALS's own answers on random models."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("dials")

import numpy as np
from dials.array_family import flex
from dxtbx.model import Beam, MultiAxisGoniometer, Scan, SimplePxMmStrategy
from libtbx.utils import Sorry
from random_models import Choice, matrix_of, random_experiment
from scitbx import matrix

from nanobragg_plugin.adapters import models as adapters
from nanobragg_plugin.geometry import lab_position
from nanobragg_plugin.models import Exposure
from nanobragg_plugin.orientation import incident, real_space_vectors, rotations

SEEDS = range(6)
VARYING = Choice(varying=True)


def array(value: object) -> np.ndarray:
    return np.array(value, dtype=float).reshape(3, 3)


@pytest.mark.parametrize("seed", SEEDS)
def test_pixels_lie_where_dxtbx_has_them(seed: int) -> None:
    """panel.get_pixel_lab_coord, with the simple strategy though the panel has parallax; at and
    between pixel corners. Worst: 3e-14 mm."""
    rng = np.random.default_rng(seed)
    detector = random_experiment(seed, Choice(thickness=0.4, mu=3.0)).detector
    ours = adapters.panels(detector)
    assert len(ours) == len(detector) == 4
    for panel, theirs in zip(ours, detector):
        theirs.set_px_mm_strategy(SimplePxMmStrategy())
        fast, slow = (rng.uniform(0, size, 20) for size in theirs.get_image_size())
        expected = [theirs.get_pixel_lab_coord((f, s)) for f, s in zip(fast, slow)]
        position = lab_position(panel, torch.tensor(slow), torch.tensor(fast))
        assert np.abs(position.numpy() - np.array(expected)).max() < 1e-11
        assert panel.image_size == theirs.get_image_size()
        assert panel.shape == tuple(reversed(theirs.get_image_size()))
        assert float(panel.thickness) == 0.4 and float(panel.mu) == 3.0
        assert panel.name == theirs.get_name() and panel.mask is None
        assert panel.origin.dtype == torch.float64
        # away from the crystal, whichever way fast x slow points
        assert (
            abs(
                abs(float(panel.normal @ torch.tensor(theirs.get_normal(), dtype=torch.float64)))
                - 1
            )
            < 1e-12
        )
        assert float(panel.normal @ panel.origin) > 0


def test_masks_and_untrusted_rectangles() -> None:
    """Expected: dxtbx's own rectangle mask, and the mask given, both [slow, fast], True good."""
    detector = random_experiment(0).detector
    detector[1].add_mask(3, 5, 20, 9)
    fast, slow = detector[0].get_image_size()
    given = np.ones((slow, fast), dtype=bool)
    given[7, 11] = False
    as_flex = flex.bool(given.copy())
    ours = adapters.panels(detector, [None, given, as_flex, None])
    assert ours[0].mask is None and ours[3].mask is None
    expected = detector[1].get_untrusted_rectangle_mask().as_numpy_array() & given
    assert expected.sum() == slow * fast - 17 * 4 + (1 if 5 <= 7 < 9 and 3 <= 11 < 20 else 0) - 1
    assert (ours[1].mask.numpy() == expected).all()
    assert (ours[2].mask.numpy() == given).all()
    with pytest.raises(Sorry, match="mask of panel 2"):
        adapters.panels(detector, [None, None, given.T, None])
    with pytest.raises(Sorry, match="3 masks for a detector of 4 panels"):
        adapters.panels(detector, [None] * 3)


@pytest.mark.parametrize("seed", SEEDS)
def test_beam(seed: int) -> None:
    theirs = random_experiment(seed).beam
    ours = adapters.beam(theirs, 1e20)
    s0 = (ours.direction / ours.wavelength[..., None])[0, 0].numpy()
    assert np.abs(s0 - theirs.get_s0()).max() < 1e-15
    assert float(ours.kahn_factor) == pytest.approx(2 * theirs.get_polarization_fraction() - 1)
    expected = (
        matrix.col(theirs.get_polarization_normal()).cross(matrix.col(theirs.get_s0())).normalize()
    )
    assert np.abs(ours.polarization_axis.numpy() - np.array(expected)).max() < 1e-14
    assert float(ours.fluence) == 1e20 and ours.weight.tolist() == [1.0]


def test_beam_of_a_synchrotron() -> None:
    """Stock dxtbx: normal +y, fraction 0.999, s0 along -z: the E vector is horizontal."""
    ours = adapters.beam(Beam((0, 0, 1), 1.0), 1.0)
    assert ours.direction.tolist() == [[[0.0, 0.0, -1.0]]]
    assert ours.polarization_axis.abs().tolist() == [1.0, 0.0, 0.0]
    assert float(ours.kahn_factor) == pytest.approx(0.998, abs=1e-15)


@pytest.mark.parametrize("seed", SEEDS)
def test_rotation_of_a_multi_axis_goniometer(seed: int) -> None:
    """R, built by scitbx from the three axes and angles alone. Worst: 3e-16."""
    theirs = random_experiment(seed).goniometer
    ours = adapters.goniometer(theirs)
    axes, angles = theirs.get_axes(), theirs.get_angles()
    phi = (0.0, 0.4, -2.0)
    found = rotations(ours, Exposure(phi, (0.5, 0.5, 0.5))).numpy()
    for step, expected_phi in enumerate(phi):
        degrees = [angles[0], math.degrees(expected_phi), angles[2]]
        first, scan, last = (matrix_of(a, d) for a, d in zip(axes, degrees))
        assert np.abs(found[step] - last @ scan @ first).max() < 1e-14
    # get_rotation_axis() is in the laboratory: S is in it, and must not be applied to it again
    lab = array(theirs.get_setting_rotation()) @ ours.axis.numpy()
    assert np.abs(lab - theirs.get_rotation_axis()).max() < 1e-14
    assert np.abs(ours.axis.numpy() - theirs.get_rotation_axis()).max() > 1e-2


@pytest.mark.parametrize("scan_axis", range(3))
def test_any_axis_may_scan(scan_axis: int) -> None:
    random = random_experiment(1).goniometer
    axes, angles = random.get_axes(), random.get_angles()
    theirs = MultiAxisGoniometer(axes, angles, random.get_names(), scan_axis)
    degrees = list(angles)
    degrees[scan_axis] = 33.0
    expected = np.eye(3)
    for axis, angle in zip(axes, degrees):
        expected = matrix_of(axis, angle) @ expected
    found = rotations(adapters.goniometer(theirs), Exposure((math.radians(33.0),), (0.5,)))
    assert np.abs(found[0].numpy() - expected).max() < 1e-14


def test_no_goniometer_turns_nothing() -> None:
    found = rotations(adapters.goniometer(None), Exposure((0.7,), (0.5,)))
    assert found.tolist() == [torch.eye(3).tolist()]


@pytest.mark.parametrize("seed", SEEDS)
def test_scan_points(seed: int) -> None:
    """At scan point i, dxtbx's own values there; halfway, their mean; to float64 rounding."""
    experiment = random_experiment(seed, VARYING)
    points = experiment.scan.get_num_images() + 1
    beam = adapters.beam(experiment.beam, 1.0)
    goniometer = adapters.goniometer(experiment.goniometer)
    a_matrix = adapters.crystal_orientation(experiment.crystal).numpy()
    assert len(a_matrix) == len(beam.direction) == len(goniometer.setting) == points
    for i in range(points):
        assert np.abs(a_matrix[i] - array(experiment.crystal.get_A_at_scan_point(i))).max() < 1e-16
        setting = array(experiment.goniometer.get_setting_rotation_at_scan_point(i))
        assert np.abs(goniometer.setting[i].numpy() - setting).max() < 1e-16
        s0 = (beam.direction[i, 0] / beam.wavelength[i, 0]).numpy()
        assert np.abs(s0 - experiment.beam.get_s0_at_scan_point(i)).max() < 1e-15
    fixed = array(experiment.goniometer.get_fixed_rotation())
    found = rotations(goniometer, Exposure((0.0, 0.0), (7.0, 7.5)))
    s7, s8 = (array(experiment.goniometer.get_setting_rotation_at_scan_point(i)) for i in (7, 8))
    assert np.abs(found[0].numpy() - s7 @ fixed).max() < 1e-15
    assert np.abs(found[1].numpy() - (s7 + s8) / 2 @ fixed).max() < 1e-15


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("varying", [False, True])
def test_predicted_reflections_have_whole_indices(seed: int, varying: bool) -> None:
    """h of the s1 and the phi that DIALS predicts is h, by our rotation, orientation and beam.

    Worst of 20 seeds: 1.3e-14 for static models; 1.3e-5 for varying ones, where DIALS takes each
    reciprocal lattice point along the chord of its image (the models of the middle of the
    image instead of those of phi would give 1e-3).
    """
    experiment = random_experiment(seed, Choice(varying=varying))
    table = flex.reflection_table.from_predictions(experiment, dmin=2.2, padding=0.0)
    assert len(table) > 20
    frames = np.array(table["xyzcal.px"])[:, 2] - experiment.scan.get_array_range()[0]
    inside = (frames > 0) & (frames < experiment.scan.get_num_images())
    phi = tuple(np.array(table["xyzcal.mm"])[inside, 2])
    exposure = Exposure(phi, tuple(frames[inside]))
    crystal = adapters.crystal(experiment.crystal, adapters.CrystalOptions((10, 11, 12)))
    abc = real_space_vectors(crystal, adapters.goniometer(experiment.goniometer), exposure)
    direction, wavelength = incident(adapters.beam(experiment.beam, 1.0), exposure)
    s0 = direction[:, 0] / wavelength
    q = torch.tensor(np.array(table["s1"])[inside]) - s0
    hkl = torch.einsum("six,sx->si", abc[:, 0], q).numpy()
    error = np.abs(hkl - np.array(table["miller_index"])[inside]).max()
    assert error < (1e-4 if varying else 1e-11)


def test_crystal_options() -> None:
    theirs = random_experiment(0).crystal
    umats = torch.eye(3, dtype=torch.float64).expand(4, 3, 3)
    options = adapters.CrystalOptions(
        Ncells_abc=(5, 6, 7), xtal_shape="round", fudge=0.9, umats=umats, mosaic_frame="lab"
    )
    ours = adapters.crystal(theirs, options)
    assert np.abs(ours.A[0].numpy() - array(theirs.get_A())).max() < 1e-16
    assert ours.Ncells_abc.tolist() == [5.0, 6.0, 7.0] and ours.xtal_shape == "round"
    assert float(ours.fudge) == 0.9 and float(ours.spot_scale) == 1.0
    assert len(ours.umats) == 4 and ours.mosaic_frame == "lab"
    with pytest.raises(Sorry, match="Ncells_abc"):
        adapters.crystal(theirs, adapters.CrystalOptions(Ncells_abc=(5, 0, 7)))


def test_exposure() -> None:
    """phi of the images by dxtbx's own get_angle_from_array_index (of fractional indices)."""
    scan = Scan((5, 24), (-3.0, 0.5))
    first = scan.get_array_range()[0]
    for image in (0, 1, 19):
        for sampling, offset in (("midpoint", 0.5), ("start", 0.0)):
            ours = adapters.exposure(scan, image, 4, sampling)
            position = [image + (k + offset) / 4 for k in range(4)]
            expected = [scan.get_angle_from_array_index(first + p, deg=False) for p in position]
            assert ours.phi == pytest.approx(expected, abs=1e-15)
            assert ours.position == pytest.approx(position, abs=1e-15)
    shorter = adapters.exposure(scan, 1, 3, "start", phistep_deg=0.1)
    assert ours.phi != shorter.phi
    assert np.degrees(shorter.phi) == pytest.approx([-2.5, -2.4, -2.3])
    assert shorter.position == pytest.approx([1.0, 1.2, 1.4])
    with pytest.raises(Sorry, match="index 20 in a scan of 20 images"):
        adapters.exposure(scan, 20)


@pytest.mark.parametrize("start, width, image", [(-1.0, 0.5, 2), (-0.3, 0.1, 3), (-2.1, 0.7, 3)])
def test_phi_is_exactly_0_where_it_should_be(start: float, width: float, image: int) -> None:
    """-0.3 + 3 x 0.1 is 5e-17 in radians, but the carryover asks whether phi is exactly 0."""
    assert adapters.exposure(Scan((1, 9), (start, width)), image, 2, "start").phi[0] == 0.0


def test_exposure_of_stills() -> None:
    assert adapters.exposure(None, phisteps=5) == Exposure((0.0,), (0.5,))
    scan = Scan((1, 3), (0.0, 0.0))
    assert adapters.exposure(scan, 2, phisteps=5) == Exposure((0.0,), (2.5,))
    turned = adapters.exposure(Scan((1, 1), (30.0, 0.0)))
    assert turned.phi == pytest.approx((math.radians(30),))
