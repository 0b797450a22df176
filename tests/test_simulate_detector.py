"""The detector's response through the command: what the files say of it, and what DIALS makes of
them."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("dials")

import simulate_helpers as sim  # noqa: E402
from dials.array_family import flex  # noqa: E402, F401  the image set's arrays

#: A sweep with spots far brighter than its background.
BRIGHT = (*sim.QUICK, "crystal.spot_scale=1e6")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    sim.write_expt("sweep.expt", sim.sweep(detector=sim.detector(2)))
    sim.write_expt("timed.expt", sim.sweep(scan=sim.scan(exposure=0.1)))
    return tmp_path


def read(number: int = 0) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Values and mask of an image as dxtbx reads the experiment list that was written."""
    imageset = sim.load(check_format=True)[0].imageset
    data, mask = imageset.get_raw_data(number), imageset.get_mask(number)
    return [one.as_numpy_array() for one in data], [one.as_numpy_array() for one in mask]


def test_gain_and_offset(here: Path) -> None:
    """Of all panels; DIALS finds them in the models, and the photons as they are without."""
    sim.simulate("sweep.expt", *BRIGHT)
    photons, _ = read()
    given = "detector.quantum_gain=1.8", "detector.adc_offset_adu=40"
    sim.simulate("sweep.expt", *BRIGHT, *given, "output.overwrite=True")
    values, _ = read()
    for one, other in zip(values, photons):
        assert np.array_equal(one, np.rint(1.8 * other + 40))
    for panel in sim.load()[0].detector:
        assert (panel.get_gain(), panel.get_pedestal()) == (1.8, 40.0)


def gain_map(path: str = "gain.pickle", shape: tuple = (18, 24), value: float = 0.0) -> np.ndarray:
    """Written as dials.estimate_gain does, of two panels as DIALS's masks are; [panel, slow, fast]
    of values from 0.5 to 2, or all the same."""
    values = np.random.default_rng(2).uniform(0.5, 2, (2, *shape))
    values = np.full_like(values, value) if value else values
    tiles = tuple(flex.double(np.ascontiguousarray(one)) for one in values)
    Path(path).write_bytes(pickle.dumps(tiles))
    return values


def test_a_gain_of_each_pixel(here: Path) -> None:
    """DIALS finds the map in the experiment list, and the photons as they are without."""
    exact = (*BRIGHT, "noise.poisson=False", "output.overwrite=True")
    sim.simulate("sweep.expt", *exact)
    photons, _ = read()
    gain = gain_map()
    sim.simulate("sweep.expt", *exact, "detector.gain_file=gain.pickle")
    values, _ = read()
    imageset = sim.load(check_format=True)[0].imageset
    corrected = [one.as_numpy_array() for one in imageset.get_corrected_data(0)]
    for panel in range(2):
        assert np.allclose(values[panel], photons[panel] * gain[panel], rtol=1e-6)
        assert np.allclose(corrected[panel], photons[panel], rtol=1e-6)
    assert '"gain.pickle"' in Path("simulated.provenance.json").read_text()
    # and again, from the list that was written, which names it
    sim.simulate("simulated.expt", *exact, "output.prefix=again")
    assert np.array_equal(sim.pixels("again.nxs"), sim.pixels())


def test_gains_that_are_none(here: Path) -> None:
    gain_map()
    gain_map("small.pickle", (9, 9))
    gain_map("below.pickle", value=-1.0)
    gain_map("nan.pickle", value=np.nan)
    Path("junk.pickle").write_bytes(b"not a pickle")
    given = "detector.gain_file="
    for args, words in (
        ((f"{given}nowhere.pickle",), "No such file"),
        ((f"{given}.",), "cannot be read"),
        ((f"{given}junk.pickle",), "is not a gain as DIALS writes it"),
        ((f"{given}small.pickle",), "give detector.gain_file a gain made for this detector"),
        ((f"{given}below.pickle",), "holds values that are no gain"),
        ((f"{given}nan.pickle",), "holds values that are no gain"),
        ((f"{given}gain.pickle", "detector.quantum_gain=2"), "does nothing beside the gain"),
    ):
        assert words in sim.refused("sweep.expt", *sim.QUICK, *args)
    sim.simulate("sweep.expt", *sim.QUICK, f"{given}gain.pickle")
    said = sim.refused("simulated.expt", *sim.QUICK, "output.prefix=b", f"{given}gain.pickle")
    assert "names a gain for its images already" in said


def test_overloads(here: Path) -> None:
    """Saturated pixels, and no others, lie outside the trusted range."""
    sim.simulate("sweep.expt", *BRIGHT)
    free, _ = read()
    limit = int(np.percentile(np.concatenate([one.ravel() for one in free]), 99))
    sim.simulate("sweep.expt", *BRIGHT, f"detector.saturation_adu={limit}", "output.overwrite=True")
    values, mask = read()
    for one, other, good in zip(values, free, mask):
        assert np.array_equal(one, np.minimum(other, limit))
        assert np.array_equal(good, one < limit)
    assert sum(int((~good).sum()) for good in mask) > 3


@pytest.mark.parametrize("masked", (True, False))
def test_bad_pixels(here: Path, masked: bool) -> None:
    """The file's mask names them all, or none; their values are the same in all images."""
    bad = "detector.bad_pixels."
    given = f"{bad}dead=0.05", f"{bad}hot=0.02", f"{bad}hot_adu=7777", f"{bad}masked={masked}"
    sim.simulate("sweep.expt", *BRIGHT, "background.level=900", *given)
    images = [read(number) for number in range(3)]
    for panel in range(2):
        odd = [(values[panel] == 0) | (values[panel] == 7777) for values, _ in images]
        assert 20 < odd[0].sum() < 60 and all(np.array_equal(one, odd[0]) for one in odd)
        for _, mask in images:
            assert np.array_equal(mask[panel], ~odd[0] if masked else np.ones_like(odd[0]))


def test_gaps(here: Path) -> None:
    """Pixels between modules, by hand, read 0, are in the file's mask and in the models; the
    others are as without."""
    sim.simulate("sweep.expt", *BRIGHT)
    whole, _ = read()
    given = "detector.gaps.module_size=4,7", "detector.gaps.width=6,4"
    sim.simulate("sweep.expt", *BRIGHT, *given, "output.overwrite=True")
    expected = np.ones((18, 24), bool)
    expected[:, 4:10] = expected[:, 14:20] = expected[7:11] = False
    values, mask = read()
    for panel, (one, good, before) in enumerate(zip(values, mask, whole)):
        assert np.array_equal(good, expected)
        assert (one[~expected] == 0).all() and (before[~expected] > 0).any()
        model = sim.load()[0].detector[panel]
        assert np.array_equal(model.get_untrusted_rectangle_mask().as_numpy_array(), expected)
    same = "noise.poisson=False", "output.overwrite=True"
    sim.simulate("sweep.expt", *BRIGHT, *same)
    whole, _ = read()
    sim.simulate("sweep.expt", *BRIGHT, *same, *given)
    for one, before in zip(read()[0], whole):
        assert np.array_equal(one, before * expected)


def test_modules_without_gaps(here: Path) -> None:
    """Are the whole panel: nothing is masked."""
    given = "detector.gaps.module_size=12,9", "detector.gaps.width=0,0"
    sim.simulate("sweep.expt", *BRIGHT, *given)
    assert all(good.all() for good in read()[1])


@pytest.mark.parametrize(
    "given, words",
    (
        ("module_size=4,7", "detector.gaps needs detector.gaps.width"),
        ("width=4,7", "detector.gaps needs detector.gaps.module_size"),
        ("module_size=4,7 width=5,4", "makes the 24 pixels of panel 0 along fast"),
        ("module_size=4,7 width=6,3", "makes the 18 pixels of panel 0 along slow"),
        ("module_size=30,18 width=0,0", "makes the 24 pixels of panel 0 along fast"),
        ("module_size=0,18 width=0,0", "detector.gaps.module_size"),
        ("module_size=4 width=6,4", "detector.gaps.module_size"),
        ("module_size=4,7 width=-1,4", "detector.gaps.width"),
    ),
)
def test_gaps_that_do_not_fit(here: Path, given: str, words: str) -> None:
    given = [f"detector.gaps.{one}" for one in given.split()]
    assert words in sim.refused("sweep.expt", *sim.QUICK, *given)


def test_a_point_spread_keeps_the_photons(here: Path) -> None:
    """But those near edges; spots are lower and wider."""
    exact = (*BRIGHT, "noise.poisson=False", "background.level=0")
    sim.simulate("sweep.expt", *exact)
    sharp = sim.pixels()
    spread = "detector.point_spread.shape=gauss", "detector.point_spread.fwhm_mm=0.8"
    sim.simulate("sweep.expt", *exact, *spread, "output.overwrite=True")
    wide = sim.pixels()
    assert wide.dtype == np.float32 and wide.max() < 0.8 * sharp.max()
    assert 0.8 * sharp.sum() < wide.sum() <= sharp.sum() * (1 + 1e-6)


def test_dead_time(here: Path) -> None:
    """Of the scan's exposure time, or the one given."""
    exact = "noise.poisson=False", "background.level=1000", "crystal.spot_scale=1e-9"
    for more, exposure in (((), 0.1), (("beam.exposure_s=0.01",), 0.01)):
        given = (*sim.QUICK, *exact, "detector.dead_time_ns=1000", *more)
        sim.simulate("timed.expt", *given, "output.overwrite=True")
        assert np.allclose(sim.pixels(), 1000 / (1 + 1000 * 1e-6 / exposure), rtol=1e-6)


def test_noise_without_counting_is_no_expectation(here: Path) -> None:
    """Whole numbers in a file of counts."""
    sim.simulate("sweep.expt", *BRIGHT, "noise.poisson=False", "noise.readout_noise_adu=2")
    assert sim.pixels().dtype == np.int32


@pytest.mark.parametrize(
    "given, words",
    (
        ("detector.point_spread.shape=gauss", "needs a width: give detector.point_spread.fwhm_mm"),
        ("detector.point_spread.fwhm_mm=1", "does nothing without a shape"),
        ("detector.quantum_gain=0", "detector.quantum_gain=0: it must be positive"),
        ("detector.quantum_gain=nan", "detector.quantum_gain=nan"),
        ("detector.adc_offset_adu=inf", "detector.adc_offset_adu=inf"),
        ("detector.saturation_adu=1", "is not a photon above the offset of panel 0"),
        ("detector.dead_time_ns=5", "needs to know how long an image takes: give beam.exposure_s"),
        ("noise.flicker=-1", "noise.flicker"),
        ("noise.readout_noise_adu=nan", "noise.readout_noise_adu=nan"),
        ("detector.bad_pixels.dead=2", "detector.bad_pixels.dead"),
    ),
)
def test_bad_values(here: Path, given: str, words: str) -> None:
    said = sim.refused("sweep.expt", *sim.QUICK, given)
    assert words in said


def test_a_point_spread_without_width(here: Path) -> None:
    spread = "detector.point_spread.shape=fiber", "detector.point_spread.fwhm_mm=0"
    assert "must be positive" in sim.refused("sweep.expt", *sim.QUICK, *spread)


def test_more_bad_pixels_than_there_are(here: Path) -> None:
    bad = "detector.bad_pixels.dead=0.7", "detector.bad_pixels.hot=0.7"
    assert "more pixels than there are" in sim.refused("sweep.expt", *sim.QUICK, *bad)


# ---- what lies in the beam

#: Photons enough that a pixel sees some of water.
BEAM = (
    "beam.fluence=1e20",
    "beam.beamsize_mm=0.1",
    "crystal.spot_scale=1e-9",
    "noise.poisson=False",
)


def in_beam(*given: str) -> np.ndarray:
    """Expected photons of what lies in the beam alone."""
    usual = [a for a in sim.QUICK if not a.startswith(("beam.fluence", "crystal.spot_scale"))]
    more = "background.level=0", "output.overwrite=True"
    sim.simulate("sweep.expt", *usual, *BEAM, *more, *given)
    return sim.pixels().astype(float)


def test_water_in_the_beam(here: Path) -> None:
    """In every image alike, proportional to thickness and beam area, added to air's."""
    water = in_beam("background.water.thickness_mm=0.1")
    assert (water > 0).all() and np.array_equal(water[0], water[2])
    twice = in_beam("background.water.thickness_mm=0.2")
    assert np.allclose(twice, 2 * water, rtol=1e-5)
    larger = in_beam("background.water.thickness_mm=0.1", "beam.beamsize_mm=0.1,0.3")
    assert np.allclose(larger, 3 * water, rtol=1e-5)
    air = in_beam("background.air.thickness_mm=20")
    both = in_beam("background.water.thickness_mm=0.1", "background.air.thickness_mm=20")
    assert np.allclose(both, air + water, rtol=1e-5)


def test_another_material(here: Path) -> None:
    """As water, if it has the table of water."""
    from nanobragg_plugin.adapters.background_phil import TABLES

    lines = [f"{stol} {f}" for stol, f in zip(*TABLES["water"])]
    Path("water.stol").write_text("\n".join(["# water", *lines]))
    other = "background.other."
    found = in_beam(
        f"{other}stol_file=water.stol",
        f"{other}thickness_mm=0.1",
        f"{other}density_g_cm3=1",
        f"{other}molecular_weight=18",
    )
    assert np.array_equal(found, in_beam("background.water.thickness_mm=0.1"))


TABLE_TEXTS = {
    "empty": "",
    "one line": "0 1\n",
    "words": "what is this\n",
    "three columns": "0 1 2\n1 2 3\n",
    "falling": "0.3 1\n0.1 2\n",
    "negative": "0 1\n0.1 -2\n",
    "not finite": "0 1\n0.1 nan\n",
    "binary": "\x00\x01\x7f\n",
}


@pytest.mark.filterwarnings("ignore:loadtxt")
@pytest.mark.parametrize("text", TABLE_TEXTS.values(), ids=TABLE_TEXTS)
def test_tables_that_are_none(here: Path, text: str) -> None:
    Path("f.stol").write_text(text)
    other = "background.other."
    given = (f"{other}stol_file=f.stol", f"{other}density_g_cm3=1", f"{other}molecular_weight=9")
    said = sim.refused("sweep.expt", *sim.QUICK, *given, f"{other}thickness_mm=1", *BEAM[:2])
    assert "background.other.stol_file=f.stol" in said and "two columns" in said


@pytest.mark.parametrize(
    "given, words",
    (
        (("background.water.thickness_mm=1",), "give beam.beamsize_mm"),
        (("background.other.stol_file=x",), "give background.other.thickness_mm"),
        (("background.other.thickness_mm=1",), "background.other.stol_file is missing"),
        (
            ("background.other.thickness_mm=1", "background.other.stol_file=x"),
            "there is no such file",
        ),
        (("background.air.thickness_mm=0",), "background.air.thickness_mm=0: it must be positive"),
        (("background.air.thickness_mm=inf",), "background.air.thickness_mm=inf"),
        (
            ("background.water.thickness_mm=1", "background.water.density_g_cm3=0"),
            "background.water.density_g_cm3=0: it must be positive",
        ),
    ),
)
def test_bad_materials(here: Path, given: tuple[str, ...], words: str) -> None:
    assert words in sim.refused("sweep.expt", *sim.QUICK, *given)


def test_a_beam_stop(here: Path) -> None:
    """By the angle that dxtbx sees a pixel's middle at; what is beyond it stays as it was."""
    exact = (*BRIGHT, "noise.poisson=False", "background.water.thickness_mm=0.1", BEAM[1])
    sim.simulate("sweep.expt", *exact)
    free, _ = read()
    stop = "background.beam_stop.radius_mm=2.1", "background.beam_stop.distance_mm=22"
    sim.simulate("sweep.expt", *exact, *stop, "output.overwrite=True")
    values, mask = read()
    experiment = sim.load()[0]
    s0 = np.array(experiment.beam.get_unit_s0())
    hidden = 0
    for panel, one, other, good in zip(experiment.detector, values, free, mask):
        for slow in range(one.shape[0]):
            for fast in range(one.shape[1]):
                s1 = np.array(panel.get_pixel_lab_coord((fast + 0.5, slow + 0.5)))
                angle = np.arccos(s1 @ s0 / np.linalg.norm(s1))
                inside = angle < np.arctan(2.1 / 22)
                hidden += inside
                assert one[slow, fast] == (0 if inside else other[slow, fast])
                assert good[slow, fast] or not inside  # in no mask
    assert 20 < hidden < 200


@pytest.mark.parametrize(
    "name, other", (("radius_mm", "distance_mm"), ("distance_mm", "radius_mm"))
)
def test_half_a_beam_stop(here: Path, name: str, other: str) -> None:
    said = sim.refused("sweep.expt", *sim.QUICK, f"background.beam_stop.{name}=1")
    assert f"needs background.beam_stop.{other}" in said
    both = f"background.beam_stop.{name}=1", f"background.beam_stop.{other}=0"
    assert "must be positive" in sim.refused("sweep.expt", *sim.QUICK, *both)
