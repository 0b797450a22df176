"""output.expected: what noise was drawn from, beside the pixels of an NXmx file."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("dials")

import simulate_helpers as sim  # noqa: E402
from dxtbx.format.FormatNXmx import FormatNXmx  # noqa: E402
from nxmx_experiments import random_counts, random_experiment  # noqa: E402

from nanobragg_plugin.format.FormatNXmxNanoBragg import FormatNXmxNanoBragg  # noqa: E402
from nanobragg_plugin.format.nxmx_writer import NXmxWriter  # noqa: E402

EXPECTED = "/entry/nanobragg/expected"


@pytest.fixture
def expt(tmp_cwd: Path) -> str:
    return sim.write_expt("models.expt", sim.sweep(detector=sim.detector(2)))


def expected_of(path: str = "simulated.nxs") -> np.ndarray:
    with h5py.File(path) as handle:
        return handle[EXPECTED][()]


def test_without_noise_both_agree(expt: str) -> None:
    sim.simulate(expt, *sim.QUICK, "noise.poisson=False", "output.expected=True")
    expected = expected_of()
    assert expected.dtype == np.float32 and expected.max() > 100 and expected.min() >= 3
    np.testing.assert_array_equal(expected, sim.pixels())


def test_with_noise_the_pixels_are_drawn_from_it(expt: str) -> None:
    sim.simulate(expt, *sim.QUICK, "output.expected=True")
    sim.simulate(expt, *sim.QUICK, "noise.poisson=False", "output.prefix=no_noise")
    expected, counts = expected_of(), sim.pixels()
    np.testing.assert_array_equal(expected, sim.pixels("no_noise.nxs"))
    assert counts.dtype == np.int32
    # of 2592 pixels of at least 3 photons chi^2 is 1 within 3 % (1 sigma)
    assert ((counts - expected) ** 2 / expected).mean() == pytest.approx(1, abs=0.1)


def test_gain_offset_and_flicker_come_after_it(expt: str) -> None:
    after = ("detector.quantum_gain=3", "detector.adc_offset_adu=40", "noise.flicker=0.1")
    sim.simulate(expt, *sim.QUICK, "output.expected=True")
    sim.simulate(expt, *sim.QUICK, *after, "output.expected=True", "output.prefix=after")
    np.testing.assert_array_equal(expected_of("after.nxs"), expected_of())
    assert sim.pixels("after.nxs").min() >= 40


def test_readers(expt: str) -> None:
    """The stock class reads the pixels as if there were nothing else; ours gives both."""
    sim.simulate(expt, *sim.QUICK, "output.expected=True")
    stock, own = FormatNXmx("simulated.nxs"), FormatNXmxNanoBragg("simulated.nxs")
    frames, expected = sim.pixels(), expected_of()
    assert stock.get_num_images() == 3
    for index in range(3):
        for panel in (0, 1):
            place = slice(18 * panel, 18 * panel + 18)
            for image in (stock, own):
                found = image.get_raw_data(index)[panel].as_numpy_array()
                np.testing.assert_array_equal(found, frames[index, place])
            found = own.get_expected(index)[panel].as_numpy_array()
            np.testing.assert_array_equal(found, expected[index, place])
    (again,) = sim.load("simulated.expt", check_format=True)
    assert again.imageset.get_raw_data(1)[1].as_numpy_array().tolist() == frames[1, 18:].tolist()


def test_without_it_there_is_none(expt: str) -> None:
    sim.simulate(expt, *sim.QUICK)
    with h5py.File("simulated.nxs") as handle:
        assert EXPECTED not in handle
    assert FormatNXmxNanoBragg("simulated.nxs").get_expected(0) is None


def test_stored_as_the_pixels_are(expt: str) -> None:
    for compression in ("gzip", "none"):
        name = f"output.compression={compression}"
        sim.simulate(expt, *sim.QUICK, "output.expected=True", name, "output.overwrite=True")
        with h5py.File("simulated.nxs") as handle:
            pixels, expected = handle["/entry/data/data"], handle[EXPECTED]
            assert expected.chunks == pixels.chunks and expected.compression == pixels.compression
            assert expected.attrs["units"] == "photons"


def test_panels_of_unequal_sizes(tmp_path: Path) -> None:
    experiment = random_experiment(3)
    counts = random_counts(experiment, 3)
    rng = np.random.default_rng(2)
    photons = [[rng.exponential(3, panel.shape) for panel in image] for image in counts]
    path = tmp_path / "a.nxs"
    with NXmxWriter(path, experiment, with_expected=True) as writer:
        for index in (2, 0, 1):
            writer.write(index, counts[index], photons[index])
    assert writer.names == [path]
    image = FormatNXmxNanoBragg(str(path))
    for index in range(3):
        for found, put in zip(image.get_expected(index), photons[index]):
            np.testing.assert_array_equal(found.as_numpy_array(), put.astype(np.float32))


def test_forgotten_or_too_much(tmp_path: Path) -> None:
    experiment = random_experiment(0)
    counts = random_counts(experiment, 1)[0]
    with pytest.raises(ValueError, match="of image 0 are missing"):
        with NXmxWriter(tmp_path / "a.nxs", experiment, with_expected=True) as writer:
            writer.write(0, counts)
    with pytest.raises(ValueError, match="more than the file has room for"):
        with NXmxWriter(tmp_path / "a.nxs", experiment) as writer:
            writer.write(0, counts, counts)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", ["cbf", "smv", "raw"])
def test_other_formats_have_no_place_for_it(form: str, expt: str) -> None:
    said = sim.refused(expt, *sim.QUICK, "output.expected=True", f"output.format={form}")
    assert f"output.expected=True needs output.format=nxmx: {form} files" in said
