# ruff: noqa: E402
"""Images against images: numpy on known noise, written by the NXmx writer and read by dxtbx."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

pytest.importorskip("dials")

import compare_helpers as helpers
import h5py
import numpy as np
from dials.array_family import flex
from dxtbx.model import Experiment, Scan
from libtbx.utils import Sorry
from scipy.stats import norm

from nanobragg_plugin.compare.images import _reduced
from nanobragg_plugin.format.FormatNXmxNanoBragg import FormatNXmxNanoBragg

QUIET = ("output.html=None", "output.log=None")
SHAPE = (190, 150)


def short_sweep(images: int = 3, **models) -> Experiment:
    """A sweep of few images, numbered from 11."""
    scan = Scan((helpers.FIRST, helpers.FIRST + images - 1), (3.0, 0.5))
    scan.set_exposure_times([0.1] * images)
    scan.set_epochs([0.0] * images)
    return helpers.sweep(scan=scan, **models)


def expected(images: int = 3, seed: int = 1) -> list[list[np.ndarray]]:
    """Photons: background that falls, and spots; two panels."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(images):
        panels = []
        for _ in range(2):
            image = np.linspace(3, 40, SHAPE[0])[:, None] + np.zeros(SHAPE)
            for slow, fast in zip(rng.integers(0, 190, 30), rng.integers(0, 150, 30)):
                image[slow, fast] += rng.uniform(50, 5000)
            panels.append(image.astype(np.float32))
        found.append(panels)
    return found


@pytest.fixture
def pair(tmp_cwd: Path) -> tuple[list, list]:
    """true.nxs, photons expected, and noisy.nxs, Poisson of them; and the arrays."""
    mu = expected()
    rng = np.random.default_rng(2)
    noisy = [[rng.poisson(panel) for panel in image] for image in mu]
    helpers.write_images("true.nxs", short_sweep(), mu, "float32")
    helpers.write_images("noisy.nxs", short_sweep(), noisy)
    return mu, noisy


def flat(images: list) -> np.ndarray:
    return np.concatenate([np.asarray(p, float).ravel() for image in images for p in image])


def test_counting_noise(pair: tuple) -> None:
    """All figures against numpy on the arrays; Z of Poisson counts has mean 0 and width 1: with
    171 000 pixels within 0.0024 and 0.002 (one sigma)."""
    mu, counts = (flat(images) for images in pair)
    found = helpers.compare("true.nxs", "noisy.nxs", *QUIET)["images"]
    assert found["truth_is_expected"] is True
    assert found["pixels"] == len(mu) == 3 * 2 * 190 * 150
    assert found["mean_true"] == pytest.approx(mu.mean())
    assert found["mean"] == pytest.approx(counts.mean())
    assert found["cc"] == pytest.approx(np.corrcoef(mu, counts)[0, 1])
    assert found["rms"] == pytest.approx(np.sqrt(((mu - counts) ** 2).mean()))
    z = (counts - mu) / np.sqrt(mu)
    assert found["z_mean"] == pytest.approx(z.mean())
    assert found["z_width"] == pytest.approx(z.std())
    assert found["chi2"] == pytest.approx((z**2).mean())
    assert (found["z_mean"], found["chi2"]) == pytest.approx((0, 1), abs=0.015)
    histogram = found["z_histogram"]
    edges = histogram["edges"]
    assert histogram["counts"] == np.histogram(z, edges)[0].tolist()
    assert histogram["above"] == (z > edges[-1]).sum()
    bright = found["z_histogram_bright"]
    assert bright["counts"] == np.histogram(z[mu >= 25], edges)[0].tolist()
    many = np.array(bright["counts"])
    normal = many.sum() * np.diff(norm.cdf(edges))
    assert np.abs(many - normal).max() < 0.15 * normal.max()


def test_largest_difference_and_images(pair: tuple) -> None:
    """One pixel changed by 3000: where it is, in which image; that image's residuals are drawn."""
    mu, counts = pair
    counts[1][1][17, 123] += 100000
    helpers.write_images("changed.nxs", short_sweep(), counts)
    found = helpers.compare("true.nxs", "changed.nxs", *QUIET)["images"]
    assert found["largest_at"] == [1, 17, 123] and found["largest_in_image"] == helpers.FIRST + 1
    assert found["largest_difference"] == pytest.approx(counts[1][1][17, 123] - mu[1][1][17, 123])
    assert [row["image"] for row in found["images"]] == [11, 12, 13]
    for row, one, two in zip(found["images"], mu, counts):
        a, b = flat([one]), flat([two])
        assert row["cc"] == pytest.approx(np.corrcoef(a, b)[0, 1])
        assert row["rms"] == pytest.approx(np.sqrt(((a - b) ** 2).mean()))
        assert row["pixels"] == len(a)


def test_shells(pair: tuple) -> None:
    """The pixels of each shell, by dxtbx's resolution of each pixel's centre."""
    experiment = short_sweep()
    s0 = experiment.beam.get_s0()
    d = np.concatenate(
        [
            [
                panel.get_resolution_at_pixel(s0, (f + 0.5, s + 0.5))
                for s in range(190)
                for f in range(150)
            ]
            for panel in experiment.detector
        ]
    )
    found = helpers.compare("true.nxs", "noisy.nxs", "shells=4", *QUIET)["images"]
    mu, counts = (np.concatenate([flat(images)]).reshape(3, -1) for images in pair)
    assert len(found["shells"]) == 4
    for shell in found["shells"]:
        within = (d <= shell["d_max"]) & (d > shell["d_min"])
        assert shell["pixels"] == pytest.approx(3 * within.sum(), abs=6)  # on an edge
        a, b = mu[:, within].ravel(), counts[:, within].ravel()
        assert shell["cc"] == pytest.approx(np.corrcoef(a, b)[0, 1], abs=1e-3)
        assert shell["mean_true"] == pytest.approx(a.mean(), rel=1e-3)


def test_two_counts(pair: tuple) -> None:
    """Two noisy images of the same: sigma^2 is the sum of both; taken for expected photons the
    first makes Z too wide, by sqrt 2 and more."""
    mu, _ = pair
    rng = np.random.default_rng(9)
    again = [[rng.poisson(panel) for panel in image] for image in mu]
    helpers.write_images("again.nxs", short_sweep(), again)
    found = helpers.compare("noisy.nxs", "again.nxs", *QUIET)["images"]
    assert found["truth_is_expected"] is False
    assert found["chi2"] == pytest.approx(1, abs=0.02)
    wrong = helpers.compare("noisy.nxs", "again.nxs", "images.truth=expected", *QUIET)["images"]
    assert wrong["chi2"] > 1.9
    other = helpers.compare("true.nxs", "noisy.nxs", "images.truth=counts", *QUIET)["images"]
    assert other["chi2"] == pytest.approx(0.5, abs=0.02)


def test_gain_offset_and_readout_noise(pair: tuple) -> None:
    """ADU = 3 photons + 40 + noise of 6 ADU: in photons again, and chi^2 is 1 where it is told."""
    mu, counts = pair
    detector = helpers.detector(gain=3.0)
    for panel in detector:
        panel.set_pedestal(40)
    rng = np.random.default_rng(4)
    adu = [
        [np.rint(3 * panel + 40 + rng.normal(0, 6, SHAPE)).astype(int) for panel in image]
        for image in counts
    ]
    helpers.write_images("adu.nxs", short_sweep(detector=detector), adu)
    told = ("images.readout_noise_adu=6", *QUIET)
    found = helpers.compare("true.nxs", "adu.nxs", *told)["images"]
    assert found["mean"] == pytest.approx(found["mean_true"], rel=2e-3)
    assert found["chi2"] == pytest.approx(1, abs=0.02)
    assert helpers.compare("true.nxs", "adu.nxs", *QUIET)["images"]["chi2"] > 1.2


def test_masks_are_respected(pair: tuple) -> None:
    """A pixel beyond the trusted range and an untrusted rectangle in one of both count nowhere."""
    mu, counts = pair
    detector = helpers.detector()
    detector[0].add_mask(10, 20, 40, 60)  # fast 10 to 40, slow 20 to 60
    counts[0][1][5, 6] = 2_000_000
    counts[0][0][30, 15] = 77777
    helpers.write_images("masked.nxs", short_sweep(detector=detector), counts)
    found = helpers.compare("true.nxs", "masked.nxs", *QUIET)["images"]
    assert found["pixels"] == flat(mu).size - 3 * 30 * 40 - 1
    assert found["largest_difference"] < 1000


def test_dim_pixels(tmp_cwd: Path) -> None:
    """Pixels of 0.001 photons have no Z, but what is too much there is reported."""
    mu = [[np.full(SHAPE, 0.001, np.float32), np.full(SHAPE, 5, np.float32)]]
    rng = np.random.default_rng(6)
    counts = [[np.zeros(SHAPE, int), rng.poisson(mu[0][1])]]
    counts[0][0][3, 4] = 500
    helpers.write_images("true.nxs", short_sweep(1), mu, "float32")
    helpers.write_images("other.nxs", short_sweep(1), counts)
    found = helpers.compare("true.nxs", "other.nxs", *QUIET)["images"]
    assert found["z_pixels"] == 190 * 150
    assert found["dim_pixels_difference"] == pytest.approx(500 - 0.001 * 190 * 150, rel=1e-5)
    assert found["chi2"] == pytest.approx(1, abs=0.05)
    low = helpers.compare("true.nxs", "other.nxs", "images.minimum=0.0001", *QUIET)["images"]
    assert low["z_pixels"] == 2 * 190 * 150 and low["chi2"] > 1000


def test_which_images(pair: tuple) -> None:
    """image_range and map; sets of other lengths only with the former."""
    _, counts = pair
    one = helpers.compare("true.nxs", "noisy.nxs", "images.image_range=12,13", *QUIET)["images"]
    assert [row["image"] for row in one["images"]] == [12, 13]
    helpers.write_images("short.nxs", short_sweep(2), counts[:2])
    with pytest.raises(Sorry, match="images 11 to 13 and 11 to 12: choose"):
        helpers.compare("true.nxs", "short.nxs", *QUIET)
    two = helpers.compare("true.nxs", "short.nxs", "images.image_range=11,12", *QUIET)["images"]
    assert two["images"][0]["chi2"] == pytest.approx(1, abs=0.02)
    for given in ("images.image_range=10,12", "images.image_range=13,12"):
        with pytest.raises(Sorry, match="the images of true.nxs are 11 to 13"):
            helpers.compare("true.nxs", "noisy.nxs", given, *QUIET)
    with pytest.raises(Sorry, match="images.map=14: the images compared are 11 to 13"):
        helpers.compare("true.nxs", "noisy.nxs", "images.map=14", *QUIET)


def test_residual_map(pair: tuple) -> None:
    """The report draws the worst image, or that which is asked for."""
    mu, counts = pair
    counts[2][0] = counts[2][0] + 9
    helpers.write_images("off.nxs", short_sweep(), counts)
    for given, image in (("images.map=None", 13), ("images.map=11", 11)):
        helpers.compare("true.nxs", "off.nxs", given, "output.log=None", "output.html=a.html")
        page = Path("a.html").read_text(encoding="utf-8")
        assert f"Residuals of image {image}," in page


def test_photons_expected_in_the_file(pair: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    """One file alone is compared with what its format class says was expected, as
    output.expected=True has it written; without that a sentence says what to do."""
    mu, _ = pair

    def get_expected(self, index: int) -> tuple:
        return tuple(flex.float(panel) for panel in mu[index])

    two = helpers.compare("true.nxs", "noisy.nxs", *QUIET)["images"]
    with monkeypatch.context() as patch:
        patch.setattr(FormatNXmxNanoBragg, "get_expected", get_expected, raising=False)
        assert helpers.compare("noisy.nxs", *QUIET)["images"] == two
        few = helpers.compare("noisy.nxs", "images.image_range=13,13", *QUIET)["images"]
        assert few["images"] == two["images"][2:]
        patch.setattr(FormatNXmxNanoBragg, "get_expected", lambda *_: None, raising=False)
        with pytest.raises(Sorry, match="noisy.nxs holds no photons expected"):
            helpers.compare("noisy.nxs", *QUIET)


def test_different_detectors(pair: tuple) -> None:
    _, counts = pair
    helpers.write_images(
        "one.nxs", short_sweep(detector=helpers.detector(1)), [image[:1] for image in counts]
    )
    with pytest.raises(Sorry, match="different detectors.* 2 of 190x150 and 1 of 190x150"):
        helpers.compare("true.nxs", "one.nxs", *QUIET)


def test_truncated_images(pair: tuple) -> None:
    """A file cut off, and one whose third image is damaged: the sentence names file and image."""
    whole = Path("noisy.nxs").read_bytes()
    Path("cut.nxs").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(Sorry, match="cut.nxs is not an image that dxtbx can read"):
        helpers.compare("true.nxs", "cut.nxs", *QUIET)
    Path("text.nxs").write_text("not an image\n" * 50)
    with pytest.raises(Sorry, match="text.nxs is not an image that dxtbx can read"):
        helpers.compare("true.nxs", "text.nxs", *QUIET)
    with h5py.File("noisy.nxs") as handle:
        chunk = handle["/entry/data/data"].id.get_chunk_info(2)
    damaged = bytearray(whole)
    damaged[chunk.byte_offset : chunk.byte_offset + chunk.size] = b"\0" * chunk.size
    Path("damaged.nxs").write_bytes(damaged)
    with pytest.raises(Sorry, match="image 1[123] of damaged.nxs cannot be read"):
        helpers.compare("true.nxs", "damaged.nxs", *QUIET)


def test_nothing_good_in_both(pair: tuple) -> None:
    detector = helpers.detector()
    for panel in detector:
        panel.add_mask(0, 0, 150, 190)
    helpers.write_images("black.nxs", short_sweep(detector=detector), pair[1])
    with pytest.raises(Sorry, match="have no pixel that is good in both"):
        helpers.compare("true.nxs", "black.nxs", *QUIET)


def test_images_of_experiments(pair: tuple) -> None:
    """Those that experiment lists point at, when asked for; stills one after the other."""
    from dxtbx.model.experiment_list import ExperimentListFactory

    for name in ("a", "b"):
        helpers.truth_table(helpers.sweep()).as_file(f"{name}.refl")
    for name in ("true", "noisy"):
        ExperimentListFactory.from_filenames([f"{name}.nxs"]).as_file(f"{name}.expt")
    asked = "images.of_experiments=True"
    files = helpers.compare("true.nxs", "noisy.nxs", *QUIET)["images"]
    assert helpers.compare("true.expt", "noisy.expt", asked, *QUIET)["images"] == files
    assert helpers.compare("true.expt", "noisy.nxs", asked, *QUIET)["images"] == files
    assert "images" not in helpers.compare("true.expt", "noisy.expt", *QUIET)
    with pytest.raises(Sorry, match="there is no experiment list"):
        helpers.compare("a.refl", "b.refl", asked, *QUIET)
    Path("noisy.nxs").unlink()
    with pytest.raises(Sorry, match="noisy.expt"):
        helpers.compare("true.expt", "noisy.expt", asked, *QUIET)


def test_templates(tmp_cwd: Path) -> None:
    """Single images (SMV of nanobragg.classic), one by one and by template. The direct beam goes
    exactly through a pixel's centre, where there is no resolution."""
    from nanobragg_plugin.command_line import classic

    flags = "-default_F 50 -cell 30 40 50 90 90 90 -misset 10 20 30 -lambda 1 -distance 50 -N 5"
    flags += " -detpixels_x 65 -detpixels_y 49 -pixel 0.5 -osc 1 -phisteps 2 -fluence 1e21 -nopgm"
    flags += " -floatfile f.bin -mosflm -Xbeam 12.25 -Ybeam 16.25"
    for number in (1, 2):
        names = f"-intfile i_00{number}.img -noisefile n_00{number}.img -phi {number}"
        classic.run(f"{flags} {names}".split())
    all_of_them = helpers.compare("i_###.img", "n_###.img", *QUIET)["images"]
    assert [row["image"] for row in all_of_them["images"]] == [1, 2]
    assert all_of_them["pixels"] == 2 * 65 * 49
    one = helpers.compare("i_002.img", "n_002.img", *QUIET)["images"]
    assert one["rms"] == pytest.approx(all_of_them["images"][1]["rms"])
    # the farthest corner of the detector, by hand
    far = np.hypot(0.5 * 65 - 12, 0.5 * 49 - 12) / 50
    d_min = 1 / (2 * np.sin(np.arctan(far) / 2))
    assert one["shells"][-1]["d_min"] == pytest.approx(d_min, rel=0.1)
    assert sum(shell["pixels"] for shell in one["shells"]) == 65 * 49
    assert all(shell["pixels"] > 50 for shell in one["shells"][:5])
    with pytest.raises(Sorry, match="x_###.img is not an image that dxtbx can read"):
        helpers.compare("x_###.img", "n_###.img", *QUIET)


def test_stills(tmp_cwd: Path) -> None:
    """Two stills, a file each, in one list: numbered from 1."""
    from dxtbx.model.experiment_list import ExperimentList, ExperimentListFactory

    mu = expected(2)
    for side, images in (("true", mu), ("other", copy.deepcopy(mu))):
        listed = ExperimentList()
        for number, image in enumerate(images):
            still = helpers.sweep(scan=None, goniometer=None)
            name = f"{side}_{number}.nxs"
            helpers.write_images(name, still, [image], "float32")
            listed.extend(ExperimentListFactory.from_filenames([name]))
        listed.as_file(f"{side}.expt")
    asked = "images.of_experiments=True"
    found = helpers.compare("true.expt", "other.expt", asked, *QUIET)["images"]
    assert [row["image"] for row in found["images"]] == [1, 2]
    assert found["rms"] == 0 and found["cc"] == pytest.approx(1)


def test_reduced_keeps_the_largest() -> None:
    """Blocks of 3 x 3 pixels, the last ones cut: the value of the largest size, with its sign."""
    image = np.zeros((1000, 1100))
    image[500, 700], image[999, 1099], image[0, 0] = -7, 5, np.nan
    small = _reduced(image)
    assert small.shape == (334, 367)
    assert small[166, 233] == -7 and small[333, 366] == 5
    assert small[0, 0] == 0 and (small != 0).sum() == 2
