"""The NXmx writer, our format class over it, and dxtbx's own readers of the same files."""

from __future__ import annotations

import os

import numpy as np
import pytest

pytest.importorskip("dxtbx")

from dxtbx.format.FormatNXmx import FormatNXmx
from dxtbx.imageset import ImageSequence
from dxtbx.model import BeamFactory, Experiment, Goniometer, Scan
from dxtbx.model.experiment_list import ExperimentListFactory
from libtbx.utils import Sorry
from nxmx_experiments import (
    random_beam,
    random_counts,
    random_detector,
    random_experiment,
    random_goniometer,
)
from scipy.spatial.transform import Rotation

from nanobragg_plugin.format import nxmx_models
from nanobragg_plugin.format.FormatNXmxNanoBragg import FormatNXmxNanoBragg
from nanobragg_plugin.format.nxmx_frames import lab_rotation
from nanobragg_plugin.format.nxmx_writer import NXmxWriter

SEEDS = range(12)
MODELS = ("beam", "detector", "goniometer", "scan", "crystal")


def write(path, experiment, images, **options):
    with NXmxWriter(path, experiment, n_images=len(images), **options) as writer:
        for index in reversed(range(len(images))):
            writer.write(index, images[index])
    return str(path)


def assert_equal_dicts(a, b, tolerance):
    """Same keys, same strings and integers, floats within a relative tolerance."""
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_equal_dicts(a[key], b[key], tolerance)
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b):
            assert_equal_dicts(x, y, tolerance)
    elif isinstance(a, float):
        assert a == pytest.approx(b, rel=tolerance, abs=tolerance)
    else:
        assert a == b


def assert_pixels(read, expected):
    assert len(read) == len(expected)
    for one, other in zip(read, expected):
        np.testing.assert_array_equal(one.as_numpy_array(), other)


def landmarks(detector, beam, axis=None) -> np.ndarray:
    """Every pixel corner of every panel, mm, and the beam and the axis as 100 mm long arrows.

    From the bare frames: nothing of the pixel to millimetre strategy is in it.
    """
    points = [100 * np.array(beam.get_sample_to_source_direction())]
    if axis is not None:
        points.append(100 * np.array(axis))
    for panel in detector:
        fast, slow = np.array(panel.get_fast_axis()), np.array(panel.get_slow_axis())
        width, height = panel.get_image_size()
        x, y = np.meshgrid(np.arange(width + 1), np.arange(height + 1))
        pixel = panel.get_pixel_size()
        points.extend(
            np.array(panel.get_origin())
            + x.reshape(-1, 1) * pixel[0] * fast
            + y.reshape(-1, 1) * pixel[1] * slow
        )
    return np.array(points)


def stock_landmarks(stock) -> np.ndarray:
    axis = stock.get_goniometer().get_rotation_axis()
    return landmarks(stock.get_detector(), stock.get_beam(), axis)


def turned(model: np.ndarray, stock: np.ndarray) -> np.ndarray:
    """The proper rotation about the sample that lays the model's points on the stock reader's.

    Kabsch's, so nothing of our own frames is in it. Largest deviation seen: 2e-13 mm.
    """
    u, _, vt = np.linalg.svd(stock.T @ model)
    rotation = u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt
    assert np.abs(model @ rotation.T - stock).max() < 1e-9
    return rotation


def crystal_setting(goniometer, degrees: float) -> np.ndarray:
    """R = S Rot(e, phi) F of dxtbx."""
    setting, fixed = (
        np.array(m).reshape(3, 3)
        for m in (goniometer.get_setting_rotation(), goniometer.get_fixed_rotation())
    )
    axis = np.array(goniometer.get_rotation_axis_datum())
    return setting @ Rotation.from_rotvec(np.radians(degrees) * axis).as_matrix() @ fixed


@pytest.mark.parametrize("seed", SEEDS)
def test_models_in_are_models_out(tmp_path, seed):
    experiment = random_experiment(seed)
    images = random_counts(experiment, 3, seed)
    path = write(tmp_path / "sweep.nxs", experiment, images)
    image_file = FormatNXmxNanoBragg(path)
    # the last bit or so: dxtbx makes axes unit vectors and inverts A; seen: 4e-16
    for name in MODELS:
        read, model = getattr(image_file, f"get_{name}")(), getattr(experiment, name)
        assert_equal_dicts(read.to_dict(), model.to_dict(), 2e-15)
        assert read == model
    for read, panel in zip(image_file.get_detector(), experiment.detector):
        assert type(read.get_px_mm_strategy()) is type(panel.get_px_mm_strategy())
        assert read.get_pixel_lab_coord((2.5, 3)) == pytest.approx(
            panel.get_pixel_lab_coord((2.5, 3)), rel=1e-14, abs=1e-12
        )
    assert image_file.get_models().identifier == experiment.identifier
    imageset = FormatNXmxNanoBragg.get_imageset(path)
    assert isinstance(imageset, ImageSequence) and len(imageset) == 3
    assert imageset.get_scan().get_image_range() == experiment.scan.get_image_range()
    for index, image in enumerate(images):
        assert_pixels(imageset.get_raw_data(index), image)


@pytest.mark.parametrize("seed", SEEDS)
def test_stock_reader_sees_the_same_experiment_turned(tmp_path, seed):
    experiment = random_experiment(seed)
    experiment.beam.reset_scan_points()
    images = random_counts(experiment, 3, seed)
    path = write(tmp_path / "sweep.nxs", experiment, images)
    stock = FormatNXmx(path)
    assert stock.get_num_images() == 3
    for index, image in enumerate(images):
        assert_pixels(stock.get_raw_data(index), image)
    beam, goniometer = stock.get_beam(), stock.get_goniometer()
    assert beam.get_wavelength() == pytest.approx(experiment.beam.get_wavelength(), rel=1e-15)
    rotation = turned(
        landmarks(experiment.detector, experiment.beam, experiment.goniometer.get_rotation_axis()),
        stock_landmarks(stock),
    )
    normal = rotation @ np.array(experiment.beam.get_polarization_normal())
    assert abs(normal @ np.array(beam.get_polarization_normal())) == pytest.approx(1, abs=1e-12)
    for degrees in (0.0, 77.0):
        expected = rotation @ crystal_setting(experiment.goniometer, degrees) @ rotation.T
        np.testing.assert_allclose(crystal_setting(goniometer, degrees), expected, atol=1e-12)
    scan = stock.get_scan()
    assert scan.get_oscillation() == pytest.approx(experiment.scan.get_oscillation(), abs=1e-12)
    assert scan.get_exposure_times()[0] == pytest.approx(0.1)
    if len(experiment.detector) == 1:
        panel = stock.get_detector()[0]
        assert panel.get_trusted_range() == experiment.detector[0].get_trusted_range()


@pytest.mark.parametrize("kind", ["single", "settings", "multi"])
def test_one_image_keeps_its_axis_for_the_stock_reader(tmp_path, kind):
    rng = np.random.default_rng(5)
    beam = random_beam(rng)
    experiment = Experiment(
        beam=beam,
        detector=random_detector(rng, 2, beam),
        goniometer=random_goniometer(rng, kind),
        scan=Scan((7, 7), (12.0, 0.5)),
    )
    path = write(tmp_path / "one.nxs", experiment, random_counts(experiment, 1))
    stock = FormatNXmx(path)
    turned(
        landmarks(experiment.detector, beam, experiment.goniometer.get_rotation_axis()),
        landmarks(
            stock.get_detector(), stock.get_beam(), stock.get_goniometer().get_rotation_axis()
        ),
    )
    assert stock.get_scan().get_oscillation() == pytest.approx((12.0, 0.5))
    assert FormatNXmxNanoBragg(path).get_scan() == experiment.scan


def test_beam_that_moves_is_at_its_mean_for_the_stock_reader(tmp_path):
    experiment = random_experiment(3)
    path = write(tmp_path / "sweep.nxs", experiment, random_counts(experiment, 3))
    mean_beam = random_beam(np.random.default_rng(0))
    s0 = [tuple(v) for v in experiment.beam.get_s0_at_scan_points()]
    mean_beam.set_direction(tuple(-np.mean(s0, axis=0)))
    axis = experiment.goniometer.get_rotation_axis()
    turned(landmarks(experiment.detector, mean_beam, axis), stock_landmarks(FormatNXmx(path)))


def test_backward_scan_is_forward_about_the_opposite_axis_for_the_stock_reader(tmp_path):
    """Rot(e, 29.75) is Rot(-e, -29.75). dxtbx 3.11 itself cannot load a scan that turns back."""
    experiment = random_experiment(0)
    experiment.scan = Scan((4, 6), (30.0, -0.5))
    stock = FormatNXmx(write(tmp_path / "a.nxs", experiment, random_counts(experiment, 3)))
    assert stock.get_scan().get_oscillation() == pytest.approx((-30.0, 0.5))
    axis = -np.array(experiment.goniometer.get_rotation_axis())
    turned(landmarks(experiment.detector, experiment.beam, axis), stock_landmarks(stock))


def test_usual_laboratory_is_not_turned():
    """dxtbx's standard beam and polarization are those of the stock readers: nothing to turn."""
    assert np.array_equal(lab_rotation(BeamFactory.simple(1.0)), np.eye(3))


def test_refined_setting_of_a_multi_axis_goniometer_survives(tmp_path):
    """dxtbx's own to_dict loses a setting rotation that is not the axes'; ours keeps it."""
    experiment = random_experiment(2)
    matrix = Rotation.from_rotvec([0.1, 0.2, 0.3]).as_matrix()
    experiment.goniometer.set_setting_rotation(matrix.flatten().tolist())
    path = write(tmp_path / "sweep.nxs", experiment, random_counts(experiment, 3))
    for reader in (FormatNXmxNanoBragg, FormatNXmx):
        goniometer = reader(path).get_goniometer()
        if reader is FormatNXmxNanoBragg:
            assert goniometer.get_setting_rotation() == pytest.approx(matrix.flatten(), abs=1e-15)
        else:
            rotation = lab_rotation(experiment.beam)
            expected = rotation @ crystal_setting(experiment.goniometer, 33) @ rotation.T
            np.testing.assert_allclose(crystal_setting(goniometer, 33), expected, atol=1e-12)


@pytest.mark.parametrize("panels", [1, 3])
@pytest.mark.parametrize("scan", [None, Scan((11, 14), (20.0, 0.0))])
def test_stills_are_stills(tmp_path, panels, scan):
    rng = np.random.default_rng(panels)
    beam = random_beam(rng)
    experiment = Experiment(beam=beam, detector=random_detector(rng, panels, beam), scan=scan)
    if scan is not None:
        experiment.goniometer = Goniometer((1, 0, 0))
    images = random_counts(experiment, 4)
    path = write(tmp_path / "stills.nxs", experiment, images)
    turned(
        landmarks(experiment.detector, beam),
        landmarks(FormatNXmx(path).get_detector(), FormatNXmx(path).get_beam()),
    )
    experiments = ExperimentListFactory.from_filenames([path])
    assert len(experiments) == 4
    for expt, image in zip(experiments, images):
        assert not isinstance(expt.imageset, ImageSequence) and expt.scan is None
        assert expt.beam == experiment.beam and expt.detector == experiment.detector
        assert_pixels(expt.imageset.get_raw_data(0), image)
    experiments.as_file(str(tmp_path / "stills.expt"))
    again = ExperimentListFactory.from_json_file(str(tmp_path / "stills.expt"))
    assert_pixels(again[2].imageset.get_raw_data(0), images[2])
    assert nxmx_models.read_models(path).scan == scan


def test_image_numbers_survive_an_expt(tmp_path):
    experiment = random_experiment(1)
    experiment.scan = Scan((11, 20), (0.0, 0.1))
    images = random_counts(experiment, 10)
    path = write(tmp_path / "sweep.nxs", experiment, images)
    experiments = ExperimentListFactory.from_filenames([path])
    assert experiments[0].scan == experiment.scan
    experiments.as_file(str(tmp_path / "a.expt"))
    # part of it: images 14 to 16
    experiments[0].scan = experiment.scan[3:6]
    experiments.as_file(str(tmp_path / "b.expt"))
    for name, begin, end in (("a", 0, 10), ("b", 3, 6)):
        imageset = ExperimentListFactory.from_json_file(str(tmp_path / f"{name}.expt"))[0].imageset
        assert imageset.get_scan().get_image_range() == (11 + begin, 10 + end)
        for i, image in enumerate(images[begin:end]):
            assert_pixels(imageset.get_raw_data(i), image)


@pytest.mark.parametrize("equal_widths", [True, False])
def test_masks(tmp_path, equal_widths):
    experiment = random_experiment(3)
    for i, panel in enumerate(experiment.detector):
        panel.set_image_size((9 if equal_widths else 9 + i, 13 + i))
    experiment.detector[0].add_mask(2, 3, 5, 8)
    rng = np.random.default_rng(0)
    mask = [rng.uniform(size=p.get_image_size()[::-1]) < 0.8 for p in experiment.detector]
    images = random_counts(experiment, 3, high=8000)  # all of them trusted
    path = write(tmp_path / "a.nxs", experiment, images, mask=mask)
    # dxtbx's rectangles are fast, slow, fast, slow
    mask[0][3:8, 2:5] = False
    assert_pixels(FormatNXmxNanoBragg(path).get_static_mask(), mask)
    assert_pixels(FormatNXmxNanoBragg.get_imageset(path).get_mask(0), mask)
    stock = FormatNXmx(path).get_static_mask()
    if equal_widths:
        assert_pixels(stock, mask)
    else:
        assert stock is None
    with pytest.raises(Sorry, match="one array for each panel"):
        NXmxWriter(tmp_path / "b.nxs", experiment, mask=mask[:2])
    assert os.listdir(tmp_path) == ["a.nxs"]
