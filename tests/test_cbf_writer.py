"""CBF files: what dxtbx's own classes, and ours, read from them."""

from __future__ import annotations

import os

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("dials")

import image_file_helpers as ifh  # noqa: E402
import pycbf  # noqa: E402
from dxtbx.model import Experiment, Goniometer, MultiAxisGoniometer, Scan  # noqa: E402
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from libtbx.utils import Sorry  # noqa: E402
from nxmx_experiments import random_counts  # noqa: E402
from scitbx.array_family import flex  # noqa: E402

from nanobragg_plugin.format.cbf_writer import CbfWriter  # noqa: E402
from nanobragg_plugin.format.FormatCBFNanoBragg import FormatCBFNanoBragg  # noqa: E402
from nanobragg_plugin.format.header_models import packed_text, unpacked_text  # noqa: E402

STOCK = {
    (1, True): "FormatCBFFullByteOffset",
    (1, False): "FormatCBFFullStill",
    (2, True): "FormatCBFMultiTileHierarchy",
    (2, False): "FormatCBFMultiTileHierarchyStill",
}


def write(folder, experiment, counts, **options):
    with CbfWriter(folder / "image_#####.cbf", experiment, **options) as writer:
        for index, image in enumerate(counts):
            writer.write(index, image)
    return writer.names


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6))
def test_stock_classes_read_the_same_geometry(seed, tmp_path_factory) -> None:
    folder = tmp_path_factory.mktemp("cbf")
    experiment = ifh.experiment_of(seed)
    counts = random_counts(experiment, 3, seed)
    names = write(folder, experiment, counts)
    start, width = experiment.scan.get_oscillation()
    for index, path in enumerate(names):
        image = ifh.opened(path, with_us=False)
        assert type(image).__name__ == STOCK[min(2, len(experiment.detector)), True]
        # measured worst cases of 600 seeds: 2.1e-13 mm, 3.3e-16, 1.2e-15, 1.4e-14 degrees
        assert ifh.worst_corner(image.get_detector(), experiment.detector) < 1e-10
        s0 = np.array(image.get_beam().get_s0()) - experiment.beam.get_s0()
        assert np.abs(s0).max() < 1e-14
        scan = image.get_scan()
        assert scan.get_image_range() == (experiment.scan.get_image_range()[0] + index,) * 2
        assert scan.get_oscillation() == pytest.approx((start + index * width, width), abs=1e-12)
        assert scan.get_exposure_times()[0] == 0.1
        for angle in (start + index * width, start + (index + 1) * width):
            found = ifh.rotation(image.get_goniometer(), angle)
            np.testing.assert_allclose(
                found, ifh.rotation(experiment.goniometer, angle), atol=1e-12
            )
        for panel, theirs in zip(experiment.detector, image.get_detector()):
            assert theirs.get_trusted_range() == panel.get_trusted_range()
            assert theirs.get_gain() == panel.get_gain()
            assert theirs.get_pixel_size() == pytest.approx(panel.get_pixel_size(), rel=1e-14)
        for found, put in zip(ifh.pixels(image), counts[index]):
            np.testing.assert_array_equal(found, put)


def test_stock_classes_read_the_polarization(tmp_path) -> None:
    """Where the normal is across z, as dxtbx's reader has it."""
    experiment = ifh.experiment_of(0)
    for normal in ((0, 1, 0), (0.6, 0.8, 0), (-1, 0, 0), (0.6, -0.8, 0)):
        experiment.beam.set_polarization_normal(normal)
        (path, *_) = write(tmp_path, experiment, random_counts(experiment, 3))
        beam = ifh.opened(path, with_us=False).get_beam()
        assert beam.get_polarization_fraction() == experiment.beam.get_polarization_fraction()
        assert beam.get_polarization_normal() == pytest.approx(normal, abs=1e-14)


@pytest.mark.parametrize("panels", [1, 3])
def test_stills_are_stills(panels, tmp_path) -> None:
    experiment = ifh.experiment_of(8, panels)
    still = Experiment(beam=experiment.beam, detector=experiment.detector)
    counts = random_counts(still, 1)
    (path,) = write(tmp_path, still, counts)
    assert path.name == "image_00001.cbf"
    for with_us in (False, True):
        image = ifh.opened(path, with_us)
        name = "FormatCBFNanoBragg" if with_us else STOCK[min(2, panels), False]
        assert type(image).__name__ == name
        assert image.get_scan() is None and image.get_goniometer() is None
        assert ifh.worst_corner(image.get_detector(), still.detector) < 1e-10
        for found, put in zip(ifh.pixels(image), counts[0]):
            np.testing.assert_array_equal(found, put)


@pytest.mark.parametrize("seed", range(8))
def test_our_class_has_all_that_was_simulated(seed, tmp_path) -> None:
    experiment = ifh.experiment_of(seed)
    counts = random_counts(experiment, 3)
    record = {"phil": "a = 1; b = 'x'\n" * 500, "umlaut": "Ä"}
    names = write(tmp_path, experiment, counts, provenance=record)
    for index, path in enumerate(names):
        image = ifh.opened(path, with_us=True)
        assert type(image) is FormatCBFNanoBragg
        assert image.get_detector() == experiment.detector
        assert [p.get_pedestal() for p in image.get_detector()] == [
            p.get_pedestal() for p in experiment.detector
        ]
        assert image.get_scan() == experiment.scan[index : index + 1]
        beam = image.get_beam()
        assert beam.num_scan_points == 0 and beam.get_flux() == experiment.beam.get_flux()
        assert beam.get_polarization_normal() == experiment.beam.get_polarization_normal()
        crystal = image.get_crystal()
        assert type(crystal) is type(experiment.crystal) and crystal.num_scan_points == 0
        assert crystal.get_A() == pytest.approx(experiment.crystal.get_A(), abs=1e-15)
        assert image.get_provenance() == record
        assert image.get_models().identifier == experiment.identifier
        for found, put in zip(ifh.pixels(image), counts[index]):
            np.testing.assert_array_equal(found, put)


def test_backward_scans(tmp_path) -> None:
    """dxtbx 3.11 does not even slice them."""
    experiment = ifh.experiment_of(0)
    experiment.scan = Scan((1, 3), (20.0, -0.5))
    with pytest.raises(Sorry, match="turns backwards, -0.5 degrees"):
        write(tmp_path, experiment, [])


def test_bad_pixels_have_imgcifs_undefined_value(tmp_path) -> None:
    """Below the trusted range, so that dxtbx masks them, with a range of any kind."""
    experiment = ifh.experiment_of(1, panels=2)
    for panel, trusted in zip(experiment.detector, ((-1, 60000), (-40.5, 500))):
        panel.set_trusted_range(trusted)
    experiment.detector[0].add_mask(1, 2, 3, 5)  # fast 1 and 2, slow 2 to 4
    mask = np.ones((2, 15, 7), bool)
    mask[1, 4, 6] = False
    counts = random_counts(experiment, 3, high=400)
    (path, *_) = write(tmp_path, experiment, counts, mask=list(mask))
    mask[0, 2:5, 1:3] = False
    for with_us in (False, True):
        image = ifh.opened(path, with_us)
        values = ifh.pixels(image)
        for panel, value in enumerate((-1, -41)):
            good = mask[panel]
            assert (values[panel][~good] == value).all()
            np.testing.assert_array_equal(values[panel][good], counts[0][panel][good])
            trusted = image.get_detector()[panel].get_trusted_range_mask(
                flex.int(np.ascontiguousarray(values[panel]))
            )
            assert not trusted.as_numpy_array()[~good].any()


def test_bad_pixels_without_a_trusted_range(tmp_path, caplog) -> None:
    experiment = ifh.experiment_of(0)
    counts = random_counts(experiment, 3)
    good = np.ones((15, 7), bool)
    write(tmp_path, experiment, counts, mask=[good])
    experiment.detector[0].set_trusted_range((0, 0))
    write(tmp_path, experiment, counts, mask=[good])
    assert not caplog.records
    good[3, :] = False
    (path, *_) = write(tmp_path, experiment, counts, mask=[good])
    assert "Nothing marks the 7 bad pixels of panel 0" in caplog.text
    np.testing.assert_array_equal(ifh.pixels(ifh.opened(path, with_us=True))[0], counts[0][0])


def test_overloads_and_negative_values(tmp_path) -> None:
    experiment = ifh.experiment_of(0)
    values = np.full((15, 7), 2.0)
    values[3, 4], values[5, 6], values[0, 0] = 3e9, -3, 59999.4
    (path, *_) = write(tmp_path, experiment, [[values]] * 3)
    (found,) = ifh.pixels(ifh.opened(path, with_us=False))
    assert found[3, 4] == 2**31 - 1 and found[5, 6] == -3 and found[0, 0] == 59999
    with pytest.raises(Sorry, match="not finite"):
        write(tmp_path, experiment, [[values * np.nan]])


def test_what_a_cbf_file_does_not_hold(tmp_path) -> None:
    experiment = ifh.experiment_of(1, panels=2)
    experiment.detector[1].set_image_size((8, 15))
    with pytest.raises(Sorry, match="panels of different sizes"):
        CbfWriter(tmp_path / "a_#####.cbf", experiment)
    experiment = ifh.experiment_of(0)
    for number in (-1, 99998):
        experiment.scan = Scan((number, number + 2), (0.0, 0.1))
        with pytest.raises(Sorry, match="has no file name"):
            CbfWriter(tmp_path / "a_#####.cbf", experiment)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "names, read",
    [
        (["a b", "it's", "#_;"], None),
        (['"', "loop_", "?"], None),
        (["\u03c9", "SOURCE", "PANEL_00000_FAST"], ["AXIS_0", "AXIS_1", "AXIS_2"]),
    ],
)
def test_odd_names_of_axes(names, read, tmp_path) -> None:
    """What imgCIF cannot have, or has of its own, is renamed; our class has the names."""
    experiment = ifh.experiment_of(0)
    experiment.goniometer = MultiAxisGoniometer(
        flex.vec3_double([(1, 0, 0), (0, 0.6, 0.8), (0, 1, 0)]), flex.double([10, 20, 30]),
        flex.std_string(names), 1,
    )  # fmt: skip
    (path, *_) = write(tmp_path, experiment, random_counts(experiment, 3))
    for with_us in (False, True):
        image = ifh.opened(path, with_us)
        found = image.get_goniometer()
        assert list(found.get_names()) == (names if with_us else read or names)
        assert found.get_scan_axis() == 1
        np.testing.assert_allclose(
            ifh.rotation(found, 7.0), ifh.rotation(experiment.goniometer, 7.0), atol=1e-12
        )
        assert ifh.worst_corner(image.get_detector(), experiment.detector) < 1e-10


def test_half_way_leaves_nothing(tmp_path) -> None:
    experiment = ifh.experiment_of(0)
    counts = random_counts(experiment, 3)
    with pytest.raises(KeyboardInterrupt):
        with CbfWriter(tmp_path / "a_#####.cbf", experiment) as writer:
            writer.write(1, counts[1])
            assert len(os.listdir(tmp_path)) == 1  # as they come
            raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []
    first = experiment.scan.get_image_range()[0]
    message = f"2 of 3 images are missing, the first of them image {first}"
    with pytest.raises(Sorry, match=message):
        with CbfWriter(tmp_path / "a_#####.cbf", experiment) as writer:
            writer.write(1, counts[1])
    for arguments, error in (((3, counts[0]), IndexError), ((0, [counts[0][0].T]), ValueError)):
        with pytest.raises(error):
            with CbfWriter(tmp_path / "a_#####.cbf", experiment) as writer:
                writer.write(*arguments)
    with pytest.raises(ValueError, match="written before"):
        with CbfWriter(tmp_path / "a_#####.cbf", experiment) as writer:
            writer.write(0, counts[0])
            writer.write(0, counts[0])
    assert os.listdir(tmp_path) == []
    with pytest.raises(Sorry, match=r"nowhere.image_000\d\d.cbf cannot be written"):
        write(tmp_path / "nowhere", experiment, counts)


def test_a_full_disk(tmp_path, monkeypatch) -> None:
    """What CBFlib says then, in pycbf's only class."""
    experiment = ifh.experiment_of(0)

    def fail(self, name, *rest):
        open(name, "wb").write(b"part")
        raise Exception("CBFlib Error(s): CBF_FILEWRITE    ")

    monkeypatch.setattr(pycbf.cbf_handle_struct, "write_widefile", fail)
    with pytest.raises(Sorry, match="cannot be written: CBFlib Error.s.: CBF_FILEWRITE; make room"):
        write(tmp_path, experiment, random_counts(experiment, 3))
    assert os.listdir(tmp_path) == []


def test_same_input_same_bytes(tmp_path) -> None:
    experiment = ifh.experiment_of(2)
    counts = random_counts(experiment, 3)
    names = write(tmp_path, experiment, counts)
    before = [path.read_bytes() for path in names]
    assert [path.read_bytes() for path in write(tmp_path, experiment, counts)] == before


def test_only_our_files_are_ours(tmp_path) -> None:
    experiment = ifh.experiment_of(0)
    (path, *_) = write(tmp_path, experiment, random_counts(experiment, 3))
    other = tmp_path / "other_00001.cbf"
    other.write_bytes(path.read_bytes().replace(b"_nanobragg.", b"_unheard.o"))
    assert type(ifh.opened(other, with_us=True)).__name__ == "FormatCBFFullByteOffset"


def test_damaged_and_later_headers(tmp_path) -> None:
    experiment = ifh.experiment_of(0)
    (path, *_) = write(tmp_path, experiment, random_counts(experiment, 3))
    data = path.read_bytes()
    at = data.index(b"_nanobragg.models") + 40
    path.write_bytes(data[:at] + b"AAAA" + data[at + 4 :])
    with pytest.raises(Sorry, match="header is damaged"):
        ifh.opened(path, with_us=True)
    for text in ("", "AAAA", "é", packed_text({})[:-9]):
        with pytest.raises(ValueError):
            unpacked_text(text)
    with pytest.raises(ValueError, match="unpacks to too much"):
        unpacked_text(packed_text({"a": "b" * (1 << 26)}))


def test_a_single_axis_is_a_plain_goniometer_in_the_models(tmp_path) -> None:
    experiment = ifh.experiment_of(0)
    experiment.goniometer = Goniometer((0, 0, 1))
    (path, *_) = write(tmp_path, experiment, random_counts(experiment, 3))
    assert ifh.opened(path, with_us=True).get_goniometer() == experiment.goniometer
