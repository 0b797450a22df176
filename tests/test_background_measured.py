"""Background as it was measured: a radial profile and an image, through the command."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("dials")

import simulate_helpers as sim  # noqa: E402
from dials.array_family import flex  # noqa: E402, F401  the image set's arrays
from dxtbx.model import SimplePxMmStrategy  # noqa: E402

PROFILE, IMAGE = "background.profile_file=profile.txt", "background.image_file=image.npy"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    sim.write_expt("sweep.expt", sim.sweep(detector=sim.detector(2)))
    sim.write_expt("one.expt", sim.sweep())
    Path("profile.txt").write_text("# stol photons/sr\n0 9e6\n0.5 9e6\n")
    return tmp_path


def expected(*given: str, models: str = "sweep.expt") -> np.ndarray:
    """Expected photons without the crystal's and the usual background."""
    usual = [a for a in sim.QUICK if not a.startswith("crystal.spot_scale")]
    more = "crystal.spot_scale=1e-9", "background.level=0", "noise.poisson=False"
    sim.simulate(models, *usual, *more, "output.overwrite=True", *given)
    return sim.pixels().astype(float)


def pixel_angles(panel: object, s0: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Solid angle, sr, by the four corners as dxtbx places them (Van Oosterom & Strackee 1983, IEEE
    Trans. Biomed. Eng. 30, 125), and sin(theta)/lambda of the middle, of each pixel."""
    panel.set_px_mm_strategy(SimplePxMmStrategy())
    n_fast, n_slow = panel.get_image_size()
    omega, stol = np.zeros((n_slow, n_fast)), np.zeros((n_slow, n_fast))
    for slow, fast in np.ndindex(n_slow, n_fast):
        at = [(fast, slow), (fast + 1, slow), (fast + 1, slow + 1), (fast, slow + 1)]
        a, b, c, d = (np.array(panel.get_pixel_lab_coord(x)) for x in at)
        for u, v, w in ((a, b, c), (a, c, d)):
            u, v, w = (x / np.linalg.norm(x) for x in (u, v, w))
            below = 1 + u @ v + v @ w + w @ u
            omega[slow, fast] += 2 * abs(math.atan2(u @ np.cross(v, w), below))
        middle = np.array(panel.get_pixel_lab_coord((fast + 0.5, slow + 0.5)))
        q = middle / np.linalg.norm(middle) * np.linalg.norm(s0) - s0
        stol[slow, fast] = np.linalg.norm(q) / 2
    return omega, stol


def test_a_profile() -> None:
    """Photons/sr times solid angle, without polarization or the sensor's absorption, in all images
    and at any fluence; a sloping one at each pixel's sin(theta)/lambda. Measured worst 4.8e-5 and
    4.1e-5."""
    flat = expected(PROFILE)
    assert np.array_equal(flat[0], flat[2])
    assert np.array_equal(flat, expected(PROFILE, "beam.fluence=1e20"))
    Path("profile.txt").write_text("0 9e6\n0.5 1e6\n")
    sloping = expected(PROFILE, "background.profile_scale=3")
    experiment = sim.load()[0]
    s0 = np.array(experiment.beam.get_s0())
    for number, panel in enumerate(experiment.detector):
        omega, stol = pixel_angles(panel, s0)
        rows = np.s_[0, 18 * number : 18 * number + 18]
        by_hand = 3 * omega * np.interp(stol, (0, 0.5), (9e6, 1e6))
        assert np.allclose(flat[rows], 9e6 * omega, rtol=1e-4)
        assert np.allclose(sloping[rows], by_hand, rtol=1e-4)


def test_an_array() -> None:
    """Added to what else there is; negative pixels count 0."""
    rng = np.random.default_rng(1)
    image = rng.uniform(-1, 9, (18, 24))
    np.save("image.npy", image)
    found = expected(IMAGE, "background.image_scale=2", models="one.expt")
    assert np.allclose(found, 2 * image.clip(min=0), rtol=1e-6)
    more = expected(IMAGE, "background.level=5", models="one.expt")
    assert np.allclose(more, image.clip(min=0) + 5, rtol=1e-6)
    roi = expected(IMAGE, "sampling.roi=3,9,4,12", models="one.expt")
    assert (roi[:, 4:13, 3:10] > 0).any() and roi[:, :4].max() == roi[:, :, :3].max() == 0
    panels = rng.integers(0, 9, (2, 18, 24)).astype(np.uint16)
    np.save("image.npy", panels)
    assert np.allclose(expected(IMAGE)[1], np.concatenate(panels), rtol=1e-6)


def test_an_image() -> None:
    """A simulated one, of a detector with gain and offset, dead pixels in its mask and overloads:
    DIALS's photons where DIALS takes the pixel for good."""
    usual = "background.level=50", "detector.quantum_gain=2", "detector.adc_offset_adu=10"
    bad = "detector.bad_pixels.hot=0.1", "detector.bad_pixels.hot_adu=900"
    made = "output.prefix=seen", "detector.saturation_adu=125"
    sim.simulate("sweep.expt", *sim.QUICK, *usual, *bad, *made)
    imageset = sim.load("seen.expt", check_format=True)[0].imageset
    tiles = zip(imageset.get_corrected_data(0), imageset.get_mask(0))
    theirs = [np.where(m.as_numpy_array(), p.as_numpy_array(), 0) for p, m in tiles]
    theirs = np.concatenate(theirs)
    assert 150 < (theirs == 0).sum() < 350 and theirs.max() < 58
    found = expected("background.image_file=seen.nxs")
    assert np.allclose(found, theirs.clip(min=0), rtol=1e-6)
    record = Path("simulated.provenance.json").read_text()
    assert '"name": "seen.nxs"' in record


@pytest.mark.filterwarnings("ignore:loadtxt")
@pytest.mark.parametrize(
    "text", ("", "0 1\n", "0 -1\n1 1\n", "0 1\n0 2\n", "a b\n", "0 1\n1 inf\n")
)
def test_profiles_that_are_none(text: str) -> None:
    Path("profile.txt").write_text(text)
    said = sim.refused("sweep.expt", *sim.QUICK, PROFILE)
    assert "background.profile_file=profile.txt" in said and "photons per steradian" in said


ARRAYS = {
    "shape": (np.ones((24, 18)), "has 1 panels of 24 x 18 pixels (slow x fast), the detector 1 of"),
    "panels": (np.ones((2, 18, 24)), "has 2 panels"),
    "line": (np.ones(432), "is no image"),
    "NaN": (np.full((18, 24), np.nan), "no finite number"),
    "inf": (np.full((18, 24), np.inf), "no finite number"),
    "words": (np.full((18, 24), "x"), "is no image"),
    "objects": (np.full((18, 24), None), "cannot be read"),
}


@pytest.mark.parametrize("array, words", ARRAYS.values(), ids=ARRAYS)
def test_arrays_that_are_none(array: np.ndarray, words: str) -> None:
    np.save("image.npy", array, allow_pickle=True)
    said = sim.refused("one.expt", *sim.QUICK, IMAGE)
    assert "background.image_file=image.npy" in said and words in said


@pytest.mark.parametrize("name", ("image.npy", "image.cbf", "image.nxs"))
@pytest.mark.parametrize("content", (b"", b"\x93NUMPY\x01\x00v\x00{", b"###CBF: VERSION 1.5\n"))
def test_files_that_are_no_image(name: str, content: bytes) -> None:
    Path(name).write_bytes(content)
    said = sim.refused("one.expt", *sim.QUICK, f"background.image_file={name}")
    assert f"background.image_file={name}" in said and "give an image that dxtbx reads" in said


@pytest.mark.parametrize("name", ("profile", "image"))
def test_what_does_nothing_or_is_not_there(name: str) -> None:
    said = sim.refused("one.expt", *sim.QUICK, f"background.{name}_scale=2")
    assert f"does nothing without background.{name}_file" in said
    missing = f"background.{name}_file=nowhere"
    assert "there is no such file" in sim.refused("one.expt", *sim.QUICK, missing)


def test_too_bright() -> None:
    np.save("image.npy", np.full((18, 24), 1e300))
    assert "photons in a pixel" in sim.refused("one.expt", *sim.QUICK, IMAGE)
