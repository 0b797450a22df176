"""SMV files: what dxtbx's own class, and ours, read from them."""

from __future__ import annotations

import os

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("dials")

import image_file_helpers as ifh  # noqa: E402
from dxtbx.model import Experiment, MultiAxisGoniometer, Scan  # noqa: E402
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from libtbx.utils import Sorry  # noqa: E402
from nxmx_experiments import random_counts  # noqa: E402
from scipy.spatial.transform import Rotation  # noqa: E402
from scitbx.array_family import flex  # noqa: E402

from nanobragg_plugin.format.FormatSMVNanoBragg import FormatSMVNanoBragg  # noqa: E402
from nanobragg_plugin.format.smv_writer import SmvWriter, header_bytes  # noqa: E402


def write(folder, experiment, counts, **options):
    with SmvWriter(folder / "image_#####.img", experiment, **options) as writer:
        for index, image in enumerate(counts):
            writer.write(index, image)
    return writer.names


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6))
def test_the_stock_class_reads_the_same_geometry(seed, tmp_path_factory) -> None:
    folder = tmp_path_factory.mktemp("smv")
    experiment = ifh.experiment_of(seed, panels=1)
    counts = random_counts(experiment, 3, seed)
    names = write(folder, experiment, counts)
    start, width = experiment.scan.get_oscillation()
    for index, path in enumerate(names):
        image = ifh.opened(path, with_us=False)
        assert type(image).__name__ == "FormatSMVRigakuSaturn"
        # measured worst cases of 600 seeds: 1.8e-15 mm, 3.3e-16, 4.4e-16, 1.4e-14 degrees
        assert ifh.worst_corner(image.get_detector(), experiment.detector) < 1e-11
        s0 = np.array(image.get_beam().get_s0()) - experiment.beam.get_s0()
        assert np.abs(s0).max() < 1e-14
        assert image.get_beam().get_polarization_normal() == pytest.approx(
            experiment.beam.get_polarization_normal(), abs=1e-14
        )
        fraction = experiment.beam.get_polarization_fraction()
        assert image.get_beam().get_polarization_fraction() == fraction
        scan = image.get_scan()
        assert scan.get_image_range() == (experiment.scan.get_image_range()[0] + index,) * 2
        assert scan.get_oscillation() == pytest.approx((start + index * width, width), abs=1e-12)
        assert scan.get_exposure_times()[0] == 0.1 and scan.get_epochs()[0] == 5 + index
        axis = image.get_goniometer().get_rotation_axis()
        assert axis == pytest.approx(experiment.goniometer.get_rotation_axis(), abs=1e-12)
        (panel,) = image.get_detector()
        assert panel.get_trusted_range() == (0, 59999)
        np.testing.assert_array_equal(ifh.pixels(image)[0], counts[index][0])


@pytest.mark.parametrize("seed", [0, 4, 8, 12])
def test_the_goniometer_as_newer_dxtbx_reads_it(seed, tmp_path) -> None:
    """dxtbx from 3.13 on makes a multi-axis goniometer of CRYSTAL_GONIO_*, the axis next to the
    crystal last, and asserts that its rotation axis is ROTATION_VECTOR within 1e-6."""
    experiment = ifh.experiment_of(seed, panels=1)
    (path, *_) = write(tmp_path, experiment, random_counts(experiment, 3))
    header = FormatSMVNanoBragg.get_smv_header(path)[1]
    names = header["CRYSTAL_GONIO_NAMES"].split()[::-1]
    values = [float(x) for x in header["CRYSTAL_GONIO_VALUES"].split()][::-1]
    vectors = np.array(header["CRYSTAL_GONIO_VECTORS"].split(), float).reshape(-1, 3)[::-1]
    assert header["CRYSTAL_GONIO_UNITS"].split() == ["deg"] * len(names)
    scanned = names.index(header["ROTATION_AXIS_NAME"])
    goniometer = MultiAxisGoniometer(
        flex.vec3_double(vectors), flex.double(values), flex.std_string(names), scanned
    )
    axis = [float(x) for x in header["ROTATION_VECTOR"].split()]
    assert goniometer.get_rotation_axis() == pytest.approx(axis, abs=1e-12)
    for angle in (0.0, 33.0):
        np.testing.assert_allclose(
            ifh.rotation(goniometer, angle), ifh.rotation(experiment.goniometer, angle), atol=1e-12
        )


@pytest.mark.parametrize("seed", [0, 4, 8])
def test_our_class_has_all_that_was_simulated(seed, tmp_path) -> None:
    experiment = ifh.experiment_of(seed, panels=1)
    counts = random_counts(experiment, 3)
    record = {"phil": "a = 1; b = 'x'\n}\n" * 500, "umlaut": "Ä"}
    names = write(tmp_path, experiment, counts, provenance=record)
    for index, path in enumerate(names):
        image = ifh.opened(path, with_us=True)
        assert type(image) is FormatSMVNanoBragg
        assert image.get_detector() == experiment.detector
        assert image.get_detector()[0].get_pedestal() == experiment.detector[0].get_pedestal()
        assert image.get_scan() == experiment.scan[index : index + 1]
        assert image.get_beam().get_flux() == experiment.beam.get_flux()
        turned = [ifh.rotation(g, 7) for g in (image.get_goniometer(), experiment.goniometer)]
        np.testing.assert_allclose(*turned, atol=1e-14)
        assert image.get_crystal().get_A() == pytest.approx(experiment.crystal.get_A(), abs=1e-15)
        assert image.get_provenance() == record
        np.testing.assert_array_equal(ifh.pixels(image)[0], counts[index][0])


def test_stills(tmp_path) -> None:
    """To the stock class, whose kind of file always turns, by 0 degrees."""
    experiment = ifh.experiment_of(0, panels=1)
    still = Experiment(beam=experiment.beam, detector=experiment.detector)
    counts = random_counts(still, 1)
    (path,) = write(tmp_path, still, counts)
    stock, own = (ifh.opened(path, with_us) for with_us in (False, True))
    assert stock.get_scan().is_still() and own.get_scan() is None
    assert own.get_goniometer() is None
    for image in (stock, own):
        assert ifh.worst_corner(image.get_detector(), still.detector) < 1e-11
        np.testing.assert_array_equal(ifh.pixels(image)[0], counts[0][0])


def test_overloads_bad_pixels_and_negative_values(tmp_path) -> None:
    experiment = ifh.experiment_of(0, panels=1)
    experiment.detector[0].set_trusted_range((-1, 65535))
    experiment.detector[0].add_mask(0, 0, 2, 1)
    mask = np.ones((15, 7), bool)
    mask[4, 6] = False
    values = np.full((15, 7), 2.0)
    values[3, 4], values[0, 5] = 1e6, 65534.4
    (path, *_) = write(tmp_path, experiment, [[values]] * 3, mask=[mask])
    for with_us in (False, True):
        image = ifh.opened(path, with_us)
        (found,) = ifh.pixels(image)
        assert found[3, 4] == 65535 and found[0, 5] == 65534
        mask[0, :2] = False
        assert (found[~mask] == 65535).all() and (found[mask] == 2).sum() == 15 * 7 - 3 - 2
        trusted = image.get_detector()[0].get_trusted_range_mask(
            flex.int(np.ascontiguousarray(found))
        )
        assert not trusted.as_numpy_array()[~mask].any()
        assert not trusted.as_numpy_array()[3, 4]
    for value, message in ((-2, "less than uint16 holds"), (np.nan, "not finite")):
        values[5, 5] = value
        with pytest.raises(Sorry, match=message):
            write(tmp_path, experiment, [[values]])


def test_what_an_smv_file_does_not_hold(tmp_path) -> None:
    with pytest.raises(Sorry, match="one panel, the detector has 2"):
        SmvWriter(tmp_path / "a_#####.img", ifh.experiment_of(1, panels=2))
    experiment = ifh.experiment_of(0, panels=1)
    for trusted in ((-5, 100), (-1, 65536), (0, 0)):
        experiment.detector[0].set_trusted_range(trusted)
        with pytest.raises(Sorry, match="SMV holds 0 to 65535"):
            SmvWriter(tmp_path / "a_#####.img", experiment)
    experiment = ifh.experiment_of(0, panels=1)
    experiment.scan = Scan((1, 3), (0.0, -0.1))
    with pytest.raises(Sorry, match="turns backwards"):
        SmvWriter(tmp_path / "a_#####.img", experiment)
    assert os.listdir(tmp_path) == []


def test_no_other_class_takes_them(tmp_path) -> None:
    """Of all of dxtbx's for SMV, only those above FormatSMVRigakuSaturn; FormatSMVJHSim and ADSC's,
    which would have the geometry wrong, do not."""
    experiment = ifh.experiment_of(0, panels=1)
    (path, *_) = write(tmp_path, experiment, random_counts(experiment, 3))
    taking = []
    with ifh.registry(with_us=False):
        from dxtbx.format import Registry

        pending = ["FormatSMV"]
        while pending:
            name = pending.pop()
            if Registry.get_format_class_for(name).understand(str(path)):
                taking.append(name)
                pending += Registry._format_dag.get(name, [])
    assert sorted(taking) == ["FormatSMV", "FormatSMVRigaku", "FormatSMVRigakuSaturn"]


def test_header_says_where_the_pixels_begin() -> None:
    """Whatever its length, about the ends of blocks too."""
    for length in [*range(440, 520), *range(9900, 10300, 7)]:
        data = header_bytes([("A", "b" * length)])
        assert len(data) % 512 == 0 and data.startswith(f"{{\nHEADER_BYTES={len(data)};\n".encode())
        assert data.rstrip(b" ").endswith(b";\n}\n\f")


def test_odd_names_of_axes_and_dates(tmp_path) -> None:
    experiment = ifh.experiment_of(0, panels=1)
    experiment.goniometer = MultiAxisGoniometer(
        flex.vec3_double([(1, 0, 0), (0, 0.6, 0.8)]), flex.double([10, 20]),
        flex.std_string(["a b=;", "c"]), 0,
    )  # fmt: skip
    experiment.scan.set_epochs([1.7e9, -1e9, 0.5])
    names = write(tmp_path, experiment, random_counts(experiment, 3))
    dates = [FormatSMVNanoBragg.get_smv_header(path)[1]["DTREK_DATE_TIME"] for path in names]
    # of `date -u -d @1700000000` and so on
    assert dates[:2] == ["14-Nov-2023 22:13:20", "24-Apr-1938 22:13:20"]
    stock = ifh.opened(names[0], with_us=False)
    assert stock.get_scan().get_epochs()[0] == 1.7e9
    axis = Rotation.from_rotvec(np.radians(20) * np.array([0, 0.6, 0.8])).apply([1, 0, 0])
    assert stock.get_goniometer().get_rotation_axis() == pytest.approx(axis, abs=1e-12)


def test_half_way_leaves_nothing(tmp_path) -> None:
    experiment = ifh.experiment_of(0, panels=1)
    counts = random_counts(experiment, 3)
    with pytest.raises(KeyboardInterrupt):
        with SmvWriter(tmp_path / "a_#####.img", experiment) as writer:
            writer.write(1, counts[1])
            assert len(os.listdir(tmp_path)) == 1
            raise KeyboardInterrupt
    with pytest.raises(Sorry, match="2 of 3 images are missing"):
        with SmvWriter(tmp_path / "a_#####.img", experiment) as writer:
            writer.write(1, counts[1])
    assert os.listdir(tmp_path) == []
