"""nanobragg.refine of a crystal that turns and grows along the scan: true models and counts are
nanobragg.simulate's, from dxtbx's A at scan points."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import nanobragg_plugin  # noqa: F401  isort: skip  before dxtbx

import h5py
import numpy as np
import pytest
import torch

pytest.importorskip("dials")

from dials.array_family import flex  # noqa: E402
from dxtbx.model import ExperimentList  # noqa: E402
from libtbx.phil import parse  # noqa: E402
from libtbx.utils import Sorry  # noqa: E402
from scan_models import KNOWN, drifting, experiment, simulated  # noqa: E402
from scipy.spatial.transform import Rotation  # noqa: E402
from simulate_helpers import load, simulate  # noqa: E402
from test_refine_command import refine  # noqa: E402

from nanobragg_plugin.adapters import load as load_images  # noqa: E402
from nanobragg_plugin.adapters import models, refined, shoeboxes  # noqa: E402
from nanobragg_plugin.command_line import refine as command  # noqa: E402
from nanobragg_plugin.models import Experiment  # noqa: E402
from nanobragg_plugin.refine import schedule  # noqa: E402

IMAGES = 10
#: Of the images of 0.7 degrees, 2.5: a cubic spline through four.
CHOSEN = (
    *(one for one in KNOWN if not one.startswith("beam.")),
    *("refine.parameters=orientation+cell+scale", "refine.interval_deg=1.75"),
    *("refine.coarse=False", "refine.shoeboxes.most=150", "output.overwrite=True"),
)
BOTH = "refine.scan_varying=orientation+cell"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """data.*, start.* of ten images."""
    folder, here = tmp_path_factory.mktemp("drift"), Path.cwd()
    os.chdir(folder)
    try:
        simulated(drifting(IMAGES), least=400.0)
    finally:
        os.chdir(here)
    return folder


@pytest.fixture
def data(made, tmp_cwd) -> Path:
    shutil.copytree(made, tmp_cwd, dirs_exist_ok=True)
    return tmp_cwd


def matrices(name: str) -> np.ndarray:
    """A at scan points [points, 3, 3] of a file's crystal."""
    (one,) = load(name)
    return _a_matrices(one.crystal)


def turns(found: np.ndarray, true: np.ndarray) -> np.ndarray:
    """[n, 3] degrees, by which found is turned: from the rotation nearest to the matrix."""
    u, _, v = np.linalg.svd(found @ np.linalg.inv(true))
    return Rotation.from_matrix(u @ v).as_rotvec(degrees=True)


def lengths(a_matrices: np.ndarray) -> np.ndarray:
    """[n, 3] a, b, c."""
    return np.linalg.norm(np.linalg.inv(a_matrices), axis=2)


def test_drift_is_found(data: Path) -> None:
    """Turns and cells within 4 sigma (measured: 1.5 and 1.3) at all scan points, which is 0.03
    degrees (0.013) and 0.1 % (0.07 %); chi^2 is 1, of a crystal that stays 1.3; what is written is
    simulated to the photons that the refinement says."""
    refine("start.expt", "start.refl", *CHOSEN, BOTH)
    content = json.loads(Path("refined.json").read_text())
    assert content["chi_sqr_per_degree_of_freedom"] == pytest.approx(1.0, abs=0.03)
    static, last = (stage["losses"][-1] for stage in content["stages"])
    assert static > 1.2 * last
    found, true = matrices("refined.expt"), matrices("data.expt")
    assert found.shape == true.shape == (IMAGES + 1, 3, 3)
    (along,) = content["along_scan"]
    curves = along["curves"]
    assert set(curves) == {"rotation_x", "rotation_y", "rotation_z", "a", "c"}
    assert curves["a"]["image"] == [3.5 + i for i in range(IMAGES + 1)]
    sigma = np.array([curves[f"rotation_{axis}"]["sigma"] for axis in "xyz"]).T
    errors = turns(found, true)
    assert np.abs(errors).max() < 0.03 and np.abs(errors / sigma).max() < 4
    for column, name in ((0, "a"), (2, "c")):
        errors = lengths(found)[:, column] - lengths(true)[:, column]
        assert np.abs(errors / np.array(curves[name]["sigma"])).max() < 4
        assert np.abs(errors / lengths(true)[:, column]).max() < 1e-3
        np.testing.assert_allclose(curves[name]["value"], lengths(found)[:, column], rtol=1e-9)
    names = [row["name"] for row in content["parameters"]]
    assert "rotation_x[6]" in names and "rotation_x" not in names
    log = Path("nanobragg.refine.log").read_text()
    assert "rotation_x[*]" in log and "rotation_x[3]" not in log
    assert Path("refined_scan_varying.png").stat().st_size > 5000
    assert "Along the scan" in Path("refined.html").read_text()
    _simulated_again()


def _simulated_again() -> None:
    """refined.expt and refined.phil: sums over shoeboxes are those of refined.refl (measured:
    3e-8)."""
    same = (one for one in KNOWN if one.split("=")[0] not in _given())
    more = "noise.poisson=False", "output.prefix=again", "mp.nproc=1"
    simulate("refined.expt", "refined.phil", *same, *more)
    table = flex.reflection_table.from_file("refined.refl")
    with h5py.File("again.nxs") as file:
        pixels = file["entry/data/data"][()].reshape(-1, 112, 125).astype(float)
    (one,) = load("refined.expt")
    boxes = shoeboxes.boxes_of(shoebox_params(), table, 0, one)
    assert len(boxes.rows) == len(table) > 100
    for (x0, x1, y0, y1, z0, z1), photons in zip(boxes.limits, table["photons.model"]):
        assert pixels[z0:z1, y0:y1, x0:x1].sum() == pytest.approx(photons, rel=1e-6)


def shoebox_params() -> object:
    """The scope refine.shoeboxes, as it stands."""
    return command.phil_scope.extract().refine.shoeboxes


def _given() -> set[str]:
    return {line.split("=")[0] for line in Path("refined.phil").read_text().splitlines()}


def test_part_of_a_scan(data: Path) -> None:
    """Of images 6 to 11 of 4 to 13: points of the others keep the turn of the nearest; DIALS, which
    wants one point more than images, predicts with it."""
    chosen = "sampling.image_range=6,11", "refine.interval_deg=2.1", "output.pictures=False"
    refine("start.expt", "start.refl", *CHOSEN, BOTH, *chosen)
    found, true = matrices("refined.expt"), matrices("data.expt")
    assert len(found) == IMAGES + 1
    assert np.abs(turns(found, true)[2:9]).max() < 0.02
    np.testing.assert_allclose(found[:2], found[[2, 2]], rtol=1e-12)
    np.testing.assert_allclose(found[9:], found[[8, 8]], rtol=1e-12)
    predicted = flex.reflection_table.from_predictions(load("refined.expt")[0])
    assert len(predicted) > 300


def test_written_points() -> None:
    """Of images 6 to 9 of 4 to 13, as they were: all points of crystal, goniometer and beam are
    those of before; with A of the last one turned: that turn and no other in those after it."""
    one = drifting(IMAGES)
    turn = [Rotation.from_rotvec([0, 0.1 * i, 0.02], degrees=True) for i in range(IMAGES + 1)]
    settings = [tuple(r.as_matrix().flatten()) for r in turn]
    one.goniometer.set_setting_rotation_at_scan_points(settings)
    vectors = [tuple(r.apply([0, 0.002 * i, -1])) for i, r in enumerate(turn)]
    one.beam.set_s0_at_scan_points(vectors)
    some = load_images.select_images(one, (6, 9))
    goniometer, beam = models.goniometer(some.goniometer), models.beam(some.beam, 1.0)
    matrix = models.crystal_orientation(some.crystal)
    options = models.CrystalOptions(Ncells_abc=(9.0, 9.0, 9.0))
    crystal = models.crystal(some.crystal, options)
    refined_models = Experiment(models.panels(some.detector), beam, goniometer, crystal)
    found = refined.written(one, refined_models, None, 2)
    a_before, a_after = (_a_matrices(e.crystal) for e in (one, found))
    np.testing.assert_allclose(a_after, a_before, rtol=0, atol=1e-12)
    after = found.goniometer.get_setting_rotation_at_scan_points()
    np.testing.assert_allclose(list(after), settings, rtol=0, atol=1e-12)
    np.testing.assert_allclose(list(found.beam.get_s0_at_scan_points()), vectors, atol=1e-12)
    more = torch.from_numpy(Rotation.from_rotvec([0.3, 0, 0], degrees=True).as_matrix())
    turned = replace(crystal, A=torch.cat([matrix[:-1], more @ matrix[-1:]]))
    found = refined.written(one, replace(refined_models, crystal=turned), None, 2)
    away = turns(_a_matrices(found.crystal), a_before)
    np.testing.assert_allclose(away[:6], 0.0, atol=1e-5)
    np.testing.assert_allclose(away[6:], [[0.3, 0, 0]] * 5, atol=1e-5)


def _a_matrices(crystal: object) -> np.ndarray:
    points = range(crystal.num_scan_points)
    return np.array([crystal.get_A_at_scan_point(i) for i in points]).reshape(-1, 3, 3)


def test_from_a_crystal_that_varies(data: Path) -> None:
    """As dials.refine writes it (here the true one, turned by 0.05 degrees): the curves are what
    is left; a static refinement keeps it too, of a part of the scan likewise."""
    start = load("start.expt")
    turn = Rotation.from_rotvec([0.05, -0.02, 0.03], degrees=True).as_matrix()
    true = matrices("data.expt")
    start[0].crystal.set_A_at_scan_points([tuple(one.flatten()) for one in turn @ true])
    ExperimentList(start).as_file("varies.expt")
    chosen = "output.pictures=False", "sampling.image_range=5,10"
    for more in (
        (BOTH, "refine.interval_deg=5"),
        ("refine.scan_varying=None", "refine.interval_deg=Auto"),
    ):
        refine("varies.expt", "start.refl", *CHOSEN, *chosen, *more)
        found = matrices("refined.expt")
        assert len(found) == IMAGES + 1
        assert np.abs(turns(found, true)).max() < 0.02
        assert np.abs(lengths(found) / lengths(true) - 1).max() < 1e-3


def test_stages(data: Path) -> None:
    """refine.stage names what varies; the others are held where they were; a restraint of [*] is
    of all numbers of a curve; L-BFGS finds them too."""
    stages = "refine.stage.parameters=scan_orientation scale", "output.pictures=False"
    more = "refine.interval_deg=100", "refine.restraint=rotation_y[*],1e-5", "refine.method=lbfgs"
    refine("start.expt", "start.refl", *CHOSEN, *stages, *more)
    content = json.loads(Path("refined.json").read_text())
    assert [one["stage"] for one in content["stages"]] == ["scan_orientation, scale"]
    refined = {row["name"] for row in content["parameters"] if row["refined"]}
    assert refined == {"scale", *(f"rotation_{axis}[{i}]" for axis in "xyz" for i in (0, 1))}
    np.testing.assert_allclose(lengths(matrices("refined.expt"))[:, 0], 47.0, rtol=1e-9)
    rows = {row["name"]: row for row in content["parameters"]}
    for number in range(2):
        assert rows[f"rotation_y[{number}]"]["sigma"] == pytest.approx(1e-5, rel=0.01)
        assert rows[f"rotation_x[{number}]"]["sigma"] > 1e-4
    assert rows["rotation_x[1]"]["value"] - rows["rotation_x[0]"]["value"] > 0.15  # 0.25


def test_scans_of_one_crystal(data: Path) -> None:
    """Two scans that share a crystal: each has curves of its own, and a crystal is written for
    each."""
    (one,), (two,) = load("start.expt"), load("start.expt")
    table = flex.reflection_table.from_file("start.refl")
    two.crystal, two.detector, two.beam = one.crystal, one.detector, one.beam
    two.identifier = one.identifier + "b"
    ExperimentList([one, two]).as_file("two.expt")
    again = flex.reflection_table.from_file("start.refl")
    again["id"] = flex.int(len(again), 1)
    for key in list(again.experiment_identifiers().keys()):
        del again.experiment_identifiers()[key]
    again.experiment_identifiers()[1] = two.identifier
    table.extend(again)
    table.as_file("two.refl")
    chosen = BOTH, "refine.interval_deg=100", "refine.shoeboxes.most=60", "output.pictures=False"
    refine("two.expt", "two.refl", *CHOSEN, *chosen)
    found = load("refined.expt")
    assert len(found.crystals()) == 2 and len(found.detectors()) == 1
    assert [e.crystal.num_scan_points for e in found] == [IMAGES + 1] * 2
    content = json.loads(Path("refined.json").read_text())
    names = [row["name"] for row in content["parameters"]]
    assert {"rotation_x[0].0", "rotation_x[1].1", "a[0].1"} <= set(names)
    assert [one["experiment"] for one in content["along_scan"]] == [0, 1]


def test_damage_is_b_of_images(data: Path) -> None:
    """Of images of a crystal whose B grows by 1.5 square Angstrom an image and that loses 3 % an
    image (crystal.damage): each image's B and scale, at its middle, within 4 sigma."""
    damage = "crystal.damage.b_per_image=1.5", "crystal.damage.loss_per_image=0.03"
    simulated(experiment(5), *damage, "output.overwrite=True", least=400.0)
    parameters = "refine.parameters=scale+image_scales+b_factor+image_b"
    auto = "refine.interval_deg=Auto"
    refine("start.expt", "start.refl", *CHOSEN, parameters, auto, "output.prefix=b")
    content = json.loads(Path("b.json").read_text())
    assert content["chi_sqr_per_degree_of_freedom"] == pytest.approx(1.0, abs=0.03)
    rows = {row["name"]: row for row in content["parameters"]}
    assert "B" not in rows and not rows["scale"]["refined"]
    images = content["along_scan"][0]["images"]
    assert images["B"]["image"] == [4, 5, 6, 7, 8]
    log = Path("nanobragg.refine.log").read_text()
    assert "scale_*" in log and "B_*" in log and "B_2" not in log
    middle = np.arange(5) + 0.5
    b, sigma = (np.array(images["B"][name]) for name in ("value", "sigma"))
    assert np.abs((b - 1.5 * middle) / sigma).max() < 4 and sigma.max() < 0.5
    scale, sigma = (np.array(images["scale"][name]) for name in ("value", "sigma"))
    total = scale * rows["scale"]["value"] / 2e4
    sigma *= rows["scale"]["value"] / 2e4
    assert np.abs((total - np.exp(-0.03 * middle)) / sigma).max() < 4
    assert Path("b_scan_varying.png").exists()


def test_refused(data: Path) -> None:
    for args, words in {
        "refine.interval_deg=0.3": "asks for 26 numbers of each curve, of a scan of 10 images",
        "refine.interval_deg=nan": "interval_deg",
        "sampling.image_range=5,5": "a scan of 1 image",
    }.items():
        with pytest.raises(Sorry, match=words):
            refine("start.expt", "start.refl", *CHOSEN, BOTH, args)
    still = load("start.expt")
    still[0].scan = still[0].goniometer = still[0].imageset = None
    ExperimentList(still).as_file("still.expt")
    given = [one for one in CHOSEN if "phisteps" not in one]
    with pytest.raises(Sorry, match="of 1 image, or of stills"):
        refine("still.expt", "start.refl", *given, BOTH)


def test_a_gap(data: Path) -> None:
    """Of a scan whose last images have no reflection: what is written is finite, the numbers there
    are named, and have no sigma."""
    table = flex.reflection_table.from_file("start.refl")
    place = np.array(table["xyzcal.px"])[:, 2]
    table.select(flex.bool(place < 7.0)).as_file("gap.refl")
    chosen = "refine.scan_varying=orientation", "refine.shoeboxes.border_images=0"
    with pytest.raises(Sorry, match=r"do not determine.*rotation_x\[6\]"):
        refine("start.expt", "gap.refl", *CHOSEN, *chosen)
    assert np.isfinite(matrices("refined.expt")).all()
    curve = json.loads(Path("refined.json").read_text())["along_scan"][0]["curves"]["rotation_x"]
    assert curve["sigma"][0] is not None and curve["sigma"][-1] is None
    assert Path("refined_scan_varying.png").exists()


def test_two_images(data: Path) -> None:
    """A line, of an interval longer than the scan, whatever is asked for."""
    chosen = "sampling.image_range=7,8", "refine.interval_deg=1000", "output.pictures=False"
    refine("start.expt", "start.refl", *CHOSEN, "refine.scan_varying=orientation", *chosen)
    content = json.loads(Path("refined.json").read_text())
    names = [row["name"] for row in content["parameters"] if "[" in row["name"]]
    assert names == [f"rotation_{axis}[{i}]" for axis in "xyz" for i in (0, 1)]
    errors = turns(matrices("refined.expt"), matrices("data.expt"))[3:6]
    assert np.abs(errors).max() < 0.05


@pytest.mark.parametrize(
    "args, stages",
    [
        (
            ("parameters=orientation+cell+scale", "scan_varying=cell"),
            ["orientation, cell, scale", "orientation, scale, scan_cell"],
        ),
        (
            ("parameters=orientation+scale+amplitudes", "scan_varying=orientation"),
            [
                "orientation, scale",
                "scale, scan_orientation",
                "scale, amplitudes, scan_orientation",
            ],
        ),
        (
            ("parameters=b_factor+scale+image_scales+image_b", "scan_varying=None"),
            ["image_scales, image_b"],
        ),
        (
            ("parameters=orientation+scale", "stage.blur=2", "scan_varying=orientation"),
            ["orientation, scale (blurred 2 times)", "scale, scan_orientation"],
        ),
        (
            ("stage.parameters=scan_cell cell scale", "scan_varying=orientation"),
            ["scan_cell, scale"],
        ),
    ],
)
def test_what_stages_refine(args: tuple[str, ...], stages: list[str]) -> None:
    """What varies last, from what does not; what takes the place of something else is free
    alone."""
    given = parse("\n".join(f"refine.{arg}" for arg in (*args, "coarse=False")))
    params = command.phil_scope.fetch(given).extract()
    assert [str(one) for one in schedule.stages_of(params.refine)] == stages
