# ruff: noqa: E402
"""output.format: what nanobragg.simulate writes of each, and what DIALS reads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("dials")

import image_file_helpers as ifh
import simulate_helpers as sim
from dials.array_family import flex
from dxtbx.model import Scan
from dxtbx.model.experiment_list import ExperimentListFactory
from image_file_helpers import ENDINGS, names

LOG = "nanobragg.simulate.log"
FORMATS = list(ENDINGS)
IMAGES = ["cbf", "smv"]
TESTS = Path(__file__).parent


@pytest.fixture
def expt(tmp_cwd: Path) -> str:
    """An experiment list of one sweep, images 11 to 13, in an otherwise empty working directory."""
    return sim.write_expt("models.expt", sim.sweep(), images=True)


def raw_pixels(prefix: str = "simulated") -> np.ndarray:
    """[image, slow, fast] of one panel, as the JSON says."""
    said = json.loads(Path(f"{prefix}_raw.json").read_text())
    (panel,) = said["panels"]
    files = [np.fromfile(file["name"], "<f4") for file in said["files"]]
    return np.reshape(files, (-1, *panel["shape_slow_fast"]))


# ---- what is made


@pytest.mark.parametrize("with_us", [False, True])
@pytest.mark.parametrize("form", IMAGES)
def test_a_sweep(form: str, with_us: bool, expt: str) -> None:
    """The pixels of the NXmx file of the same run, the models that were put in."""
    with ifh.registry(with_us):
        sim.simulate(expt, *sim.QUICK, f"output.format={form}")
        made = {"models.expt", LOG, "simulated.expt", "simulated.provenance.json"}
        assert set(os.listdir()) == made | names(form, (11, 12, 13))
        (after,) = sim.load(check_format=True)
        raw = [after.imageset.get_raw_data(i)[0].as_numpy_array() for i in range(3)]
        kind = after.imageset.get_format_class().__name__
        assert kind.endswith("NanoBragg") == with_us
        (imported,) = ExperimentListFactory.from_filenames(
            sorted(str(path) for path in Path().glob(f"simulated_*.{ENDINGS[form]}"))
        )
    (before,) = sim.load(expt)
    for name in ("beam", "goniometer", "scan", "crystal", "identifier"):
        assert getattr(after, name) == getattr(before, name)
    assert Path(after.imageset.get_template()).name == f"simulated_#####.{ENDINGS[form]}"
    assert after.imageset.get_array_range() == (10, 13)
    assert imported.scan.get_image_range() == (11, 13)
    assert imported.scan.get_oscillation() == pytest.approx((5, 1))
    assert ifh.worst_corner(imported.detector, before.detector) < 1e-11
    if form == "cbf":
        assert after.detector == before.detector
    else:
        before.detector[0].set_trusted_range((-1, 65535))
        assert after.detector == before.detector
    if with_us:
        assert imported.detector == after.detector
    sim.simulate(expt, *sim.QUICK, "output.prefix=nxmx")
    np.testing.assert_array_equal(raw, sim.pixels("nxmx.nxs"))


def test_raw(expt: str) -> None:
    """Expected photons as in NXmx; the experiment list has no images, and can be simulated."""
    sim.simulate(expt, *sim.QUICK, "output.format=raw", "noise.poisson=False")
    made = {"models.expt", LOG, "simulated.expt", "simulated.provenance.json"}
    assert set(os.listdir()) == made | names("raw", (11, 12, 13))
    assert "models only: raw files are no images to DIALS" in Path(LOG).read_text()
    (after,), (before,) = sim.load(check_format=True), sim.load(expt)
    assert after.imageset is None and after.identifier == before.identifier
    for name in ("beam", "detector", "goniometer", "scan", "crystal"):
        assert getattr(after, name) == getattr(before, name)
    sim.simulate("simulated.expt", *sim.QUICK, "noise.poisson=False", "output.prefix=nxmx")
    np.testing.assert_array_equal(raw_pixels(), sim.pixels("nxmx.nxs"))
    assert (raw_pixels() % 1 > 0).any()
    sim.simulate(expt, *sim.QUICK, "output.format=raw", "output.prefix=counts")
    sim.simulate(expt, *sim.QUICK, "output.prefix=noisy")
    np.testing.assert_array_equal(raw_pixels("counts"), sim.pixels("noisy.nxs"))


@pytest.mark.parametrize("form", FORMATS)
def test_several_sweeps_and_stills(form: str, tmp_cwd: Path) -> None:
    one = sim.sweep(identifier="one", scan=sim.scan(11, 2))
    two = sim.sweep(identifier="two", scan=sim.scan(1, 2), detector=one.detector)
    path = sim.write_expt("models.expt", one, two, sim.still(identifier="three"))
    usual = [argument for argument in sim.QUICK if "phisteps" not in argument]
    sim.simulate(path, *usual, f"output.format={form}")
    wanted = [names(form, (11, 12), "simulated_1"), names(form, (1, 2), "simulated_2")]
    wanted = set().union(*wanted, names(form, (1,), "simulated_3"))
    assert {name for name in os.listdir() if name.startswith("simulated_")} == wanted
    result = sim.load(check_format=True)
    assert list(result.identifiers()) == ["one", "two", "three"]
    ranges = [None if e.scan is None else e.scan.get_image_range() for e in result]
    assert ranges == [(11, 12), (1, 2), None]
    assert result[0].detector is result[1].detector and result[2].goniometer is None
    if form == "raw":
        return
    sim.simulate(path, *usual, "output.prefix=nxmx")
    for number, experiment in enumerate(result):
        images = range(len(experiment.imageset))
        raw = [experiment.imageset.get_raw_data(i)[0].as_numpy_array() for i in images]
        np.testing.assert_array_equal(raw, sim.pixels(f"nxmx_{number + 1}.nxs"))


@pytest.mark.parametrize("with_us", [False, True])
@pytest.mark.parametrize("form", FORMATS)
def test_images_that_do_not_turn(form: str, with_us: bool, tmp_cwd: Path) -> None:
    """A scan of no width: dxtbx knows its images as stills, each an experiment of its own."""
    path = sim.write_expt("models.expt", sim.sweep(scan=Scan((4, 6), (30.0, 0.0))), images=True)
    with ifh.registry(with_us):
        sim.simulate(path, *sim.STILL, f"output.format={form}")
        assert names(form, (4, 5, 6)) <= set(os.listdir())
        result = sim.load(check_format=True)
        assert list(result.identifiers()) == [f"the-sweep_{n}" for n in (4, 5, 6)]
        assert [e.scan.get_image_range() for e in result] == [(4, 4), (5, 5), (6, 6)]
        if form == "raw":
            return
        raw = [e.imageset.get_raw_data(0)[0].as_numpy_array() for e in result]
    sim.simulate(path, *sim.STILL, "output.prefix=nxmx")
    np.testing.assert_array_equal(raw, sim.pixels("nxmx.nxs"))


@pytest.mark.parametrize("form", IMAGES)
def test_pixels_that_were_not_simulated_are_masked(form: str, expt: str) -> None:
    region = "sampling.roi=2,9,3,11"
    bad = ("detector.bad_pixels.dead=0.1", "detector.bad_pixels.seed=3")
    sim.simulate(expt, *sim.QUICK, region, *bad, f"output.format={form}")
    sim.simulate(expt, *sim.QUICK, region, *bad, "output.prefix=nxmx")
    masks = []
    for name in ("simulated", "nxmx"):
        (experiment,) = sim.load(f"{name}.expt", check_format=True)
        masks.append(experiment.imageset.get_mask(1)[0].as_numpy_array())
    np.testing.assert_array_equal(*masks)
    assert not masks[0][0].any() and 50 < masks[0].sum() < 72
    value = {"cbf": -1, "smv": 65535}[form]
    raw = sim.load(check_format=True)[0].imageset.get_raw_data(1)[0].as_numpy_array()
    assert (raw[~masks[0]] == value).all()


def test_overloads_of_smv(expt: str) -> None:
    """What is beyond 16 bits is 65535, and untrusted; the panel said a million."""
    bright = "crystal.spot_scale=1e7"
    sim.simulate(expt, *sim.QUICK, bright, "output.format=smv")
    sim.simulate(expt, *sim.QUICK, bright, "output.prefix=nxmx")
    (experiment,) = sim.load(check_format=True)
    assert experiment.detector[0].get_trusted_range() == (-1, 65535)
    over = sim.pixels("nxmx.nxs")[0] >= 65535
    assert 0 < over.sum() < 100
    raw = experiment.imageset.get_raw_data(0)[0].as_numpy_array()
    np.testing.assert_array_equal(raw, np.minimum(sim.pixels("nxmx.nxs")[0], 65535))
    np.testing.assert_array_equal(experiment.imageset.get_mask(0)[0].as_numpy_array(), ~over)


def test_a_narrower_trusted_range_stays(expt: str) -> None:
    sim.simulate(
        expt, *sim.QUICK, "output.format=smv", "geometry.detector.panel.trusted_range=3,400"
    )
    assert sim.load()[0].detector[0].get_trusted_range() == (3, 400)


# ---- DIALS


def dials(commands: list[tuple[str, ...]], with_us: bool) -> None:
    """DIALS commands, each with its arguments, in another process, where this package is, or is
    not, registered."""
    code = (
        "import importlib, json, sys; import torch; import image_file_helpers as ifh\n"
        f"with ifh.registry({with_us}):\n"
        "    for name, *arguments in json.loads(sys.argv[1]):\n"
        "        importlib.import_module(f'dials.command_line.{name}').run(arguments)"
    )
    path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(commands)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr


def spots(images: dict[str, list[str]], with_us: bool) -> dict[str, np.ndarray]:
    """x, y, z (pixels, images from the first) of the strong spots of imported images, sorted, by
    format. (The stock class for NXmx numbers images from 1, whatever the scan has.)"""
    commands = []
    for form, paths in images.items():
        commands += [
            ("dials_import", *paths, f"output.experiments=in_{form}.expt"),
            ("find_spots", f"in_{form}.expt", f"output.reflections={form}.refl", "nproc=1",
             "d_max=None", "min_spot_size=3"),
        ]  # fmt: skip
    dials(commands, with_us)
    tables = {form: flex.reflection_table.from_file(f"{form}.refl") for form in images}
    first = {form: sim.load(f"in_{form}.expt")[0].scan.get_array_range()[0] for form in images}
    return {
        form: np.array(sorted(table["xyzobs.px.value"])) - (0, 0, first[form])
        for form, table in tables.items()
    }


@pytest.mark.parametrize("with_us", [False, True])
def test_dials_finds_the_same_spots(with_us: bool, tmp_cwd: Path) -> None:
    """In CBF and SMV as in NXmx; the background is high enough that no pixel is 0, which the
    stock class for SMV does not trust."""
    detector = sim.detector()
    detector[0].set_image_size((120, 100))
    detector[0].set_pixel_size((0.1, 0.12))
    path = sim.write_expt("models.expt", sim.sweep(detector=detector, scan=sim.scan(11, 5)))
    usual = [a for a in sim.QUICK if "Ncells" not in a and "background" not in a]
    usual += ["crystal.Ncells_abc=14,12,10", "background.level=30", "crystal.spot_scale=300"]
    for form in ("nxmx", *IMAGES):
        sim.simulate(path, *usual, f"output.format={form}", f"output.prefix={form}")
    assert sim.pixels("nxmx.nxs").min() > 0
    images = {"nxmx": ["nxmx.nxs"]}
    for form in IMAGES:
        images[form] = sorted(str(p) for p in Path().glob(f"{form}_0*.{ENDINGS[form]}"))
        assert len(images[form]) == 5
    found = spots(images, with_us)
    assert len(found["nxmx"]) > 10
    for form in IMAGES:
        np.testing.assert_allclose(found[form], found["nxmx"], rtol=0, atol=1e-9)
        (imported,) = sim.load(f"in_{form}.expt")
        assert ifh.worst_corner(imported.detector, detector) < 1e-11
        assert imported.scan.get_image_range() == (11, 15)
        assert imported.goniometer.get_rotation_axis() == pytest.approx((1, 0, 0))


def test_a_scan_from_image_0(tmp_cwd: Path) -> None:
    """dxtbx cannot load an experiment list of one file whose images begin at 0."""
    sim.write_expt("sweep.expt", sim.sweep(scan=sim.scan(first=0)))
    said = sim.refused("sweep.expt", *sim.QUICK)
    assert "begins at image 0" in said and "output.format=cbf" in said
    sim.simulate("sweep.expt", *sim.QUICK, "output.format=cbf")
    (found,) = sim.load(check_format=True)
    assert found.scan.get_image_range() == (0, 2) and len(found.imageset) == 3
