# ruff: noqa: E402
"""What nanobragg.simulate makes of what it is given."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("dials")

import simulate_helpers as sim
from dxtbx.model import Scan
from dxtbx.model.experiment_list import ExperimentListFactory
from random_models import Choice, random_experiment
from scitbx.array_family import flex

from nanobragg_plugin import __version__
from nanobragg_plugin.format.nxmx_models import read_models, read_provenance

LOG = Path("nanobragg.simulate.log")
EXPECTED = "noise.poisson=False"


@pytest.fixture
def expt(tmp_cwd: Path) -> str:
    """An experiment list of one sweep, in an otherwise empty working directory."""
    return sim.write_expt("models.expt", sim.sweep(), images=True)


def corrected(experiment: object, image: int) -> list[np.ndarray]:
    """(raw - pedestal)/gain of the panels, by dxtbx."""
    data = experiment.imageset.get_corrected_data(image)
    return [panel.as_numpy_array() for panel in data]


# ---- models in, models and images out


def test_what_a_sweep_becomes(expt: str) -> None:
    sim.simulate(expt, *sim.QUICK)
    made = {"models.expt", LOG.name, "simulated.nxs", "simulated.expt", "simulated.provenance.json"}
    assert set(os.listdir()) == made
    before, after = sim.load(expt)[0], sim.load(check_format=True)[0]
    for name in ("beam", "detector", "goniometer", "scan", "crystal", "identifier"):
        assert getattr(after, name) == getattr(before, name)
    assert set(after.imageset.paths()) == {str(Path("simulated.nxs").resolve())}
    assert after.imageset.get_raw_data(2)[0].as_numpy_array().tolist() == sim.pixels()[2].tolist()
    (imported,) = ExperimentListFactory.from_filenames(["simulated.nxs"])
    assert imported.scan == before.scan and imported.detector == before.detector


def test_several_sweeps_and_stills(tmp_cwd: Path) -> None:
    """Each goes to a file of its own; a detector and crystal that they share they share after."""
    one = sim.sweep(identifier="one", scan=sim.scan(11, 3))
    two = sim.sweep(identifier="two", scan=sim.scan(1, 2), detector=one.detector)
    two.crystal = one.crystal
    path = sim.write_expt("models.expt", one, two, sim.still(identifier="three"))
    usual = [argument for argument in sim.QUICK if "phisteps" not in argument]
    sim.simulate(path, *usual, EXPECTED)
    result = sim.load(check_format=True)
    assert list(result.identifiers()) == ["one", "two", "three"]
    ranges = [None if e.scan is None else e.scan.get_image_range() for e in result]
    assert ranges == [(11, 13), (1, 2), None]
    paths = [Path(e.imageset.paths()[0]).name for e in result]
    assert paths == [f"simulated_{n}.nxs" for n in (1, 2, 3)]
    assert result[0].detector is result[1].detector and result[0].crystal is result[1].crystal
    assert result[0].beam is not result[1].beam and result[2].detector is not result[0].detector
    whole = [sim.pixels(path) for path in paths]
    assert [len(pixels) for pixels in whole] == [3, 2, 1]
    # both rotations begin at 5 degrees
    np.testing.assert_array_equal(whole[0][:2], whole[1])


def test_overrides_of_shared_models_are_made_once(tmp_cwd: Path) -> None:
    one = sim.sweep(identifier="one")
    two = sim.sweep(identifier="two", goniometer=one.goniometer)
    path = sim.write_expt("models.expt", one, two)
    sim.simulate(path, *sim.QUICK, "geometry.goniometer.invert_rotation_axis=True")
    for experiment in sim.load():
        assert experiment.goniometer.get_rotation_axis() == (-1, 0, 0)


def test_overrides_touch_nothing_else(tmp_cwd: Path) -> None:
    """dxtbx makes the parallax correction of panel 0 anew whenever it is asked for anything."""
    experiment = sim.sweep(detector=random_experiment(3, Choice(thickness=0.3, mu=2)).detector)
    path = sim.write_expt("models.expt", experiment)
    arguments = [*sim.QUICK, "sampling.roi=0,3,0,3"]
    sim.simulate(path, *arguments, "geometry.beam.transmission=0.5")
    assert sim.load()[0].detector == sim.load(path)[0].detector


def test_batch_offset_gain_pedestal_and_mask_carry_over(tmp_cwd: Path) -> None:
    experiment = sim.sweep(detector=sim.detector(2))
    for panel, gain, pedestal in zip(experiment.detector, (1.5, 2.0), (7.0, 40.0)):
        panel.set_gain(gain)
        panel.set_pedestal(pedestal)
    path = sim.write_expt("models.expt", experiment, images=True)
    sim.edit_expt(path, "scan", 0, "batch_offset", 100)  # dxtbx's image sequence sets another
    mask = np.ones((2, 18, 24), dtype=bool)
    mask[0, 3:5, 7:20], mask[1, :, 0] = False, False
    tiles = tuple(flex.bool(np.ascontiguousarray(tile)) for tile in mask)
    Path("mask.pickle").write_bytes(pickle.dumps(tiles))
    sim.edit_expt(path, "imageset", 0, "mask", str(Path("mask.pickle").resolve()))
    sim.simulate(path, *sim.QUICK)
    plain = [*sim.QUICK, "output.prefix=plain"]
    for panel in (0, 1):
        text = f"geometry.detector.panel {{ id={panel}; gain=1; pedestal=0 }}"
        Path(f"plain{panel}.phil").write_text(text)
        plain.append(f"plain{panel}.phil")
    sim.simulate(path, *plain)
    (imported,) = ExperimentListFactory.from_filenames(["simulated.nxs"])
    written, counts = sim.load(check_format=True)[0], sim.load("plain.expt", check_format=True)[0]
    assert written.scan.get_batch_offset() == 100
    assert read_models("simulated.nxs").scan.get_batch_offset() == 100
    for experiment in (written, imported):
        assert [p.get_gain() for p in experiment.detector] == [1.5, 2.0]
        assert [p.get_pedestal() for p in experiment.detector] == [7.0, 40.0]
        found = [tile.as_numpy_array() for tile in experiment.imageset.get_mask(1)]
        np.testing.assert_array_equal(found, mask)
    assert Path(written.imageset.external_lookup.mask.filename).name == "mask.pickle"
    for panel, (gain, pedestal) in enumerate(((1.5, 7.0), (2.0, 40.0))):
        raw = written.imageset.get_raw_data(1)[panel].as_numpy_array()
        photons = counts.imageset.get_raw_data(1)[panel].as_numpy_array()
        np.testing.assert_array_equal(raw, np.rint(photons * gain + pedestal))
        assert photons.max() > 10 and (photons[~mask[panel]] == 0).all()
        # dxtbx takes them off again, but for the rounding to integers
        difference = corrected(written, 1)[panel] - photons
        assert np.abs(difference).max() <= 0.5 / gain + 1e-9


def test_gain_and_pedestal_of_the_image_set(expt: str) -> None:
    """Files of a value for each pixel, which DIALS takes in place of the panel's."""
    rng = np.random.default_rng(1)
    maps = {"gain": rng.integers(1, 5, (18, 24)) / 2, "pedestal": rng.integers(-9, 90, (18, 24))}
    sim.simulate(expt, *sim.QUICK, EXPECTED, "output.prefix=plain")
    for name, values in maps.items():
        tile = flex.double(np.ascontiguousarray(values.astype(float)))
        Path(f"{name}.pickle").write_bytes(pickle.dumps((tile,)))
        sim.edit_expt(expt, "imageset", 0, name, str(Path(f"{name}.pickle").resolve()))
    sim.simulate(expt, *sim.QUICK, EXPECTED)
    raw, photons = sim.pixels()[0], sim.pixels("plain.nxs")[0]
    # float32: measured worst case 6.1e-5 of pixels of up to 4000
    np.testing.assert_allclose(raw, photons * maps["gain"] + maps["pedestal"], atol=5e-4)
    (found,) = corrected(sim.load(check_format=True)[0], 0)
    np.testing.assert_allclose(found, photons, atol=5e-4)
    for given in ("detector.quantum_gain=2", "detector.adc_offset_adu=7"):
        said = sim.refused(expt, *sim.QUICK, EXPECTED, "output.prefix=other", given)
        assert f"{given} does nothing beside" in said


def test_images_that_do_not_turn(tmp_cwd: Path) -> None:
    """A scan of no width: dxtbx knows its images as stills, each an experiment of its own."""
    path = sim.write_expt("models.expt", sim.sweep(scan=Scan((4, 6), (30.0, 0.0))), images=True)
    sim.simulate(path, *sim.STILL, EXPECTED)
    result = sim.load(check_format=True)
    assert list(result.identifiers()) == [f"the-sweep_{n}" for n in (4, 5, 6)]
    assert [e.scan.get_image_range() for e in result] == [(4, 4), (5, 5), (6, 6)]
    for experiment in result:
        assert experiment.scan.get_oscillation() == pytest.approx((30.0, 0.0))
    raw = [e.imageset.get_raw_data(0)[0].as_numpy_array() for e in result]
    np.testing.assert_array_equal(raw, sim.pixels())
    sim.simulate("simulated.expt", *sim.STILL, EXPECTED, "output.prefix=again")
    np.testing.assert_array_equal(sim.pixels("again_2.nxs")[0], sim.pixels()[1])


def test_the_result_can_be_simulated_again(expt: str) -> None:
    sim.simulate(expt, *sim.QUICK)
    sim.simulate("simulated.expt", *sim.QUICK, "output.prefix=again")
    np.testing.assert_array_equal(sim.pixels("again.nxs"), sim.pixels())
    first, second = sim.load()[0], sim.load("again.expt")[0]
    assert (first.scan, first.detector) == (second.scan, second.detector)


# ---- without an experiment list


def test_geometry_by_parameters(tmp_cwd: Path) -> None:
    """The same as an .expt with those models; image numbers begin where the scan says."""
    sim.simulate(*sim.GEOMETRY, *sim.QUICK)
    assert sim.load()[0].scan.get_image_range() == (11, 13)
    models = read_models("simulated.nxs")
    # silicon of 2.33 g/cm^3: NIST has 33.89 cm^2/g at 10 keV and 10.34 at 15 keV, which is 18.1 at
    # 1 Angstrom if logarithms are interpolated
    assert models.detector[0].get_mu() == pytest.approx(18.1 * 2.33 / 10, rel=0.01)
    models.imageset = None
    path = sim.write_expt("models.expt", models)
    sim.simulate(path, *sim.QUICK, "output.prefix=again")
    np.testing.assert_array_equal(sim.pixels(), sim.pixels("again.nxs"))


def test_panels_by_parameters(tmp_cwd: Path) -> None:
    one = [argument for argument in sim.GEOMETRY if "panel" not in argument]
    panel = """geometry.detector.panel {{ id={n}; image_size=24,18; pixel_size=0.5,0.6
      trusted_range=-1,1000000; slow_axis=0,-1,0; origin={x},6,-40 }}\n"""
    Path("panels.phil").write_text(panel.format(n=0, x=-5) + panel.format(n=1, x=9))
    sim.simulate("panels.phil", *one, *sim.QUICK[:-1], "sampling.thicksteps=0", EXPECTED)
    result = sim.load(check_format=True)[0]
    assert [p.get_origin() for p in result.detector] == [(-5, 6, -40), (9, 6, -40)]
    assert len(result.imageset.get_raw_data(0)) == 2


SMALL = ("geometry.scan.image_range=1,1", "sampling.roi=500,509,500,507", "sampling.oversample=1")


def test_preset(tmp_cwd: Path) -> None:
    """Under everything else that is given: the command line, and an experiment list."""
    usual = ("structure_factors.default_F=100", *SMALL, "geometry.detector.panel.gain=2")
    sim.simulate("preset=eiger_1m", *usual)
    panel = sim.load()[0].detector[0]
    assert panel.get_image_size() == (1030, 1065) and panel.get_gain() == 2
    Path("preset.phil").write_text("preset = eiger_1m\n")
    sim.simulate("preset.phil", *usual, "output.prefix=again")
    np.testing.assert_array_equal(sim.pixels(), sim.pixels("again.nxs"))


def test_preset_beside_an_experiment_list(expt: str) -> None:
    sim.simulate(expt, *sim.QUICK, "preset=pilatus_6m")
    assert sim.load()[0].detector == sim.load(expt)[0].detector
    record = json.loads(Path("simulated.provenance.json").read_text())
    assert "domain_size_ang = 1000" in record["phil"]


# ---- images of a part of a scan


@pytest.mark.parametrize("varying", [False, True])
def test_images_alone_are_as_within_the_sweep(varying: bool, tmp_cwd: Path) -> None:
    """Noise included, whatever else is simulated; models at scan points are those of the image."""
    choice = Choice(images=5, width_deg=1.0, varying=varying, pixels=(24, 18), pixel_size=(1, 1.2))
    experiment = random_experiment(5, choice)
    first, last = experiment.scan.get_image_range()
    experiment.scan.set_batch_offset(first + 7)
    path = sim.write_expt("models.expt", experiment)
    sim.simulate(path, *sim.QUICK)
    for part in ((first, first + 1), (first + 2, last), (first + 3, first + 3)):
        chosen = f"sampling.image_range={part[0]},{part[1]}"
        sim.simulate(path, *sim.QUICK, chosen, "output.prefix=part", "output.overwrite=True")
        here = slice(part[0] - first, part[1] - first + 1)
        np.testing.assert_array_equal(sim.pixels("part.nxs"), sim.pixels()[here])
        whole, sliced = sim.load()[0], sim.load("part.expt", check_format=True)[0]
        assert sliced.scan.get_image_range() == part
        assert sliced.scan.get_batch_offset() == first + 7
        for image in range(part[0] - 1, part[1]):
            angles = [e.scan.get_angle_from_array_index(image) for e in (whole, sliced)]
            assert angles[0] == pytest.approx(angles[1], abs=1e-9)
        if not varying:
            continue
        points = slice(here.start, here.stop + 1)
        for model, name in (
            ("crystal", "get_A_at_scan_point"),
            ("beam", "get_s0_at_scan_point"),
            ("goniometer", "get_setting_rotation_at_scan_point"),
        ):
            values = []
            for theirs in (getattr(whole, model), getattr(sliced, model)):
                get, number = getattr(theirs, name), theirs.num_scan_points
                values.append(np.array([get(i) for i in range(number)]))
            np.testing.assert_allclose(values[0][points], values[1], atol=1e-12)


# ---- noise


def test_noise(tmp_cwd: Path) -> None:
    """Counts about the expected photons; of the seed, the image's number and the sweep."""
    one, two = sim.sweep(identifier="one"), sim.sweep(identifier="two")
    path = sim.write_expt("models.expt", one, two)
    sim.simulate(path, *sim.QUICK, EXPECTED, "output.prefix=expected")
    sim.simulate(path, *sim.QUICK, "output.prefix=counts")
    sim.simulate(path, *sim.QUICK, "noise.seed=1", "output.prefix=other")
    expected = sim.pixels("expected_1.nxs")
    assert expected.dtype == np.float32 and expected.min() >= 3 and (expected % 1 > 0).any()
    first, second, other = (sim.pixels(f"{n}.nxs") for n in ("counts_1", "counts_2", "other_1"))
    assert first.dtype == np.int32
    np.testing.assert_array_equal(expected, sim.pixels("expected_2.nxs"))
    for counts in (first, second, other):
        # of 1296 pixels, whose chi^2 is 1 within 4 %; measured 0.97 to 1.03
        assert ((counts - expected) ** 2 / expected).mean() == pytest.approx(1, abs=0.15)
    noise = [((c - expected) / np.sqrt(expected)).ravel() for c in (first, second, other)]
    noise += [np.roll(noise[0].reshape(3, -1), 1, axis=0).ravel()]  # of other image numbers
    assert np.abs(np.corrcoef(noise) - np.eye(4)).max() < 0.12  # 4 sigma of 1296 pixels


# ---- arguments, log, provenance


def test_arguments_in_any_order(expt: str) -> None:
    Path("some.phil").write_text("beam { fluence = 1e23 }\nbackground.level = 1\n")
    Path("F.hkl").write_text(
        "\n".join(f"{h} {k} 1 {h + k + 9}" for h in range(9) for k in range(9))
    )
    usual = [a for a in sim.QUICK if "fluence" not in a and "background" not in a]
    sim.simulate(expt, "F.hkl", "some.phil", *usual)
    sim.simulate(*usual, "-v", "some.phil", "output.prefix=b", "F.hkl", expt)
    sim.simulate(*usual, "output.prefix=c", "--phil", "some.phil", expt, "file=F.hkl")
    for prefix in ("b", "c"):
        np.testing.assert_array_equal(sim.pixels(f"{prefix}.nxs"), sim.pixels())
    sim.simulate("some.phil", "fluence=1e24", expt, "F.hkl", *usual, "output.prefix=d")
    assert sim.pixels("d.nxs").sum() > sim.pixels().sum()  # the later one counts


@pytest.mark.parametrize(
    "arguments, shown",
    [
        (["-h"], "Simulate the diffraction images of an experiment list"),
        (["-c"], "fluence = None"),
        (["-c", "-e", "2", "-a", "2"], ".help"),
        (["-ce2"], "fudge = 1"),
        (["-c", "preset=pilatus_6m"], "domain_size_ang = 1000"),
        (["--show-config", "--expert-level=1", "--attributes-level=1"], "oversample_omega"),
    ],
)
def test_help_and_configuration(arguments, shown, tmp_cwd: Path, capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        sim.simulate(*arguments)
    assert stopped.value.code in (0, None) and shown in capsys.readouterr().out
    assert os.listdir() == []


def test_presets_are_listed(tmp_cwd: Path, capsys) -> None:
    sim.simulate("preset=help")
    assert "\n  pilatus_6m     A PILATUS3" in capsys.readouterr().out and os.listdir() == []


def test_log(expt: str, capsys) -> None:
    usual = [a for a in sim.QUICK if "fluence" not in a and "background" not in a]
    flux = ("beam.flux=2e12", "beam.exposure_s=0.1", "beam.beamsize_mm=0.05,0.02")
    sim.simulate(expt, *usual, *flux, "output.preview=image.png")
    text = LOG.read_text()
    assert "spot_scale = 10000" in text and "flux = 2e+12" in text and "models.expt" in text
    assert (
        "Fluence: 2e+20 photons/m^2 an image = 2e+12 photons/s (beam.flux) x 0.1 s "
        "(beam.exposure_s) / (0.05 x 0.02 mm^2)" in text
    )
    assert "Crystal: gauss domains of 6 x 5 x 4 cells, 1e+04 in the beam (as given)" in text
    assert "default_F = 100 for every reflection" in text
    assert (
        "1 x 1 sub-pixels, 2 sensor layers, 1 sources, 2 phi steps, 1 mosaic domains: 4 samples"
        in text
    )
    for made in ("3 images to simulated.nxs", "image.png", "simulated.expt"):
        assert made in text
    sim.simulate(expt, *usual, *flux, EXPECTED, "output.prefix=expected", "output.log=None")
    brightest = sim.pixels("expected.nxs")[0].max()
    assert f"Brightest pixel of the first image: {brightest:.4g} photons expected" in text
    assert "Fluence" in capsys.readouterr().out and LOG.read_text() == text


def test_where_the_fluence_comes_from(tmp_cwd: Path) -> None:
    """flux x exposure/beamsize^2, of the models unless given (DESIGN section 4)."""
    experiment = sim.sweep(scan=sim.scan(exposure=0.25))
    experiment.beam.set_flux(4e11)
    path = sim.write_expt("models.expt", experiment)
    usual = [*(a for a in sim.QUICK if "fluence" not in a), EXPECTED]
    sim.simulate(path, *usual, "beam.beamsize_mm=0.1")
    assert "= 4e+11 photons/s (the beam model) x 0.25 s (the scan)" in LOG.read_text()
    sim.simulate(path, *usual, "beam.fluence=1e19", "output.prefix=given")
    np.testing.assert_allclose(sim.pixels(), sim.pixels("given.nxs"), rtol=1e-6)


def test_size_of_the_crystal(expt: str) -> None:
    """spot_scale: illuminated volume over a domain's; the beam cuts the two sizes across it."""
    usual = [a for a in sim.QUICK if "spot_scale" not in a] + ["crystal.size_mm=0.3,0.1,0.2"]
    sim.simulate(expt, *usual, "beam.beamsize_mm=0.2,0.15")
    volume = 0.2 * 0.1 * 0.2 * 1e21 / (6 * 5 * 4 * sim.crystal().get_unit_cell().volume())
    assert f"{volume:.4g} in the beam (0.2 x 0.1 x 0.2 mm^3 illuminated)" in LOG.read_text()


def test_provenance(expt: str) -> None:
    Path("F.hkl").write_text("1 2 3 4\n2 2 2 5\n")
    Path("mask.pickle").write_bytes(pickle.dumps((flex.bool(flex.grid(18, 24), True),)))
    sim.edit_expt(expt, "imageset", 0, "mask", str(Path("mask.pickle").resolve()))
    sim.simulate(expt, "F.hkl", *sim.QUICK, "noise.seed=7", "crystal.mosaic.seed=9")
    record = json.loads(Path("simulated.provenance.json").read_text())
    assert record == read_provenance("simulated.nxs")
    assert record["program"] == "nanobragg.simulate" and record["torch"] == torch.__version__
    assert record["nanobragg_plugin"] == __version__
    assert record["seeds"] == {"noise": 7, "mosaic": 9}
    assert record["inputs"] == [
        {"name": name, "sha256": hashlib.sha256(Path(name).read_bytes()).hexdigest()}
        for name in (expt, "F.hkl", "mask.pickle")
    ]
    # the parameters are all there, and make the same images
    Path("record.phil").write_text(record["phil"])
    sim.simulate(expt, "record.phil", "output.prefix=again")
    np.testing.assert_array_equal(sim.pixels("again.nxs"), sim.pixels())


# ---- computing


def test_results_do_not_depend_on_batches_and_threads(tmp_cwd: Path) -> None:
    """Bit for bit, with one number of samples a batch and any number of threads; and within
    rounding for any batches (measured worst case: none at all)."""
    experiment = sim.sweep(detector=sim.detector(2), scan=sim.scan(images=1))
    path = sim.write_expt("models.expt", experiment)
    arguments = [path, *sim.QUICK, EXPECTED, "crystal.mosaic.spread_deg=0.3"]
    threads = torch.get_num_threads()
    images = []
    try:
        for batch, number in ((131072, 1), (131072, 2), (1000, 1), (1000, 2), (37, 2), (1, 1)):
            computing = [f"compute.batch_steps={batch}", f"compute.nthreads={number}"]
            sim.simulate(*arguments, *computing, "output.overwrite=True")
            images.append(sim.pixels())
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_array_equal(images[0], images[1])
    np.testing.assert_array_equal(images[2], images[3])
    for image in images[1:]:
        np.testing.assert_allclose(image, images[0], rtol=1e-6)


def test_regions_of_interest(tmp_cwd: Path) -> None:
    path = sim.write_expt("models.expt", sim.sweep(detector=sim.detector(2)))
    sim.simulate(path, *sim.QUICK, EXPECTED)
    regions = ["sampling.roi=2,9,3,11", "sampling.roi=20,23,0,17", "sampling.roi=0,4,0,4,1"]
    sim.simulate(path, *sim.QUICK, EXPECTED, *regions, "output.prefix=part")
    whole, part = (sim.load(f"{n}.expt", check_format=True)[0] for n in ("simulated", "part"))
    inside = np.zeros((2, 18, 24), dtype=bool)
    inside[0, 3:12, 2:10] = inside[0, :, 20:] = inside[1, :5, :5] = True
    for panel in (0, 1):
        values = [e.imageset.get_raw_data(1)[panel].as_numpy_array() for e in (whole, part)]
        np.testing.assert_array_equal(values[1], np.where(inside[panel], values[0], 0))
        found = part.imageset.get_mask(1)[panel].as_numpy_array()
        np.testing.assert_array_equal(found, inside[panel])


# ---- the real command


def test_the_real_command(expt: str) -> None:
    """From another process, with a path in another folder; SIGTERM's handler is put back."""
    before = signal.getsignal(signal.SIGTERM)
    Path("out").mkdir()
    command = str(Path(sys.executable).with_name("nanobragg.simulate"))
    done = subprocess.run(
        [command, expt, *sim.QUICK, "output.prefix=out/data", "output.log=out/log.txt"],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout == Path("out/log.txt").read_text()
    assert sorted(os.listdir("out")) == ["data.expt", "data.nxs", "data.provenance.json", "log.txt"]
    sim.simulate(expt, *sim.QUICK)
    assert signal.getsignal(signal.SIGTERM) is before
    np.testing.assert_array_equal(sim.pixels("out/data.nxs"), sim.pixels())
