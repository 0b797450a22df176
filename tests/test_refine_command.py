"""nanobragg.refine: images of a small crystal, simulated with other domains than the model's."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import nanobragg_plugin  # noqa: F401  isort: skip  before dxtbx

import numpy as np
import pytest

pytest.importorskip("dials")

from dials.array_family import flex  # noqa: E402
from dxtbx.model import Crystal, ExperimentList  # noqa: E402
from dxtbx.model.experiment_list import ExperimentListFactory  # noqa: E402
from libtbx.utils import Sorry  # noqa: E402
from scipy.spatial.transform import Rotation  # noqa: E402
from simulate_helpers import load, run_command, simulate  # noqa: E402

from nanobragg_plugin.adapters import refined  # noqa: E402
from nanobragg_plugin.command_line import refine as command  # noqa: E402
from nanobragg_plugin.compare.truth import compare_crystals  # noqa: E402

DATA = (
    "geometry.detector.panel.image_size=125,112",
    "geometry.detector.panel.pixel_size=0.3,0.3",
    "geometry.detector.panel.trusted_range=-1,1000000",
    "geometry.detector.panel.origin=-19,17,-80",
    "geometry.detector.panel.slow_axis=0,-1,0",
    "geometry.beam.wavelength=1",
    "geometry.beam.direction=0,0,1",
    "geometry.crystal.unit_cell=47,47,61,90,90,90",
    "geometry.crystal.space_group=P4",
    "geometry.crystal.misset_deg=10,20,30",
    "structure_factors.default_F=100",
    "crystal.Ncells_abc=9,9,9",
    "crystal.mosaic.spread_deg=0.3",
    "crystal.mosaic.domains=150",
    "crystal.mosaic.seed=5",
    "sampling.oversample=2",
    "background.level=2",
    "output.truth=True",
    "output.prefix=data",
)
STILL = (*DATA, "beam.fluence=6e27")
SWEEP = (
    *DATA,
    "beam.fluence=6e27",
    "geometry.goniometer.axis=1,0,0",
    "geometry.scan.image_range=4,6",
    "geometry.scan.oscillation=7,0.7",
    "sampling.phisteps=6",
)
#: What a user says of the start: domains 1.5 times, spread 2 times too large.
START = (
    "structure_factors.default_F=100",
    "crystal.Ncells_abc=13.5,13.5,13.5",
    "crystal.mosaic.spread_deg=0.6",
    "crystal.mosaic.domains=60",
    "sampling.oversample=2",
)


def refine(*args: object) -> None:
    """The command, in this process."""
    run_command(command.run, *args)


def _made(folder: Path, args: tuple[str, ...]) -> Path:
    """data.*, and start.expt (0.15 degrees, 0.1 % and 0.1 mm off) with start.refl."""
    here = Path.cwd()
    os.chdir(folder)
    try:
        simulate(*args)
        (experiment,) = load("data.expt")
        matrix = np.array(experiment.crystal.get_A()).reshape(3, 3)
        turn = Rotation.from_rotvec([0.1, -0.08, 0.08], degrees=True).as_matrix()
        stretch = np.diag([1.001, 1.001, 0.999])
        b = np.array(experiment.crystal.get_B()).reshape(3, 3)
        u = np.array(experiment.crystal.get_U()).reshape(3, 3)
        assert np.allclose(u @ b, matrix)
        experiment.crystal.set_A(tuple((turn @ u @ stretch @ b).flatten()))
        panel = experiment.detector[0]
        panel.set_frame((1, 0, 0), (0, -1, 0), (-18.9, 16.95, -80))
        ExperimentList([experiment]).as_file("start.expt")
        table = flex.reflection_table.from_file("data.truth.refl")
        table.select(table["intensity.sum.value"] > 150).as_file("start.refl")
    finally:
        os.chdir(here)
    return folder


@pytest.fixture(scope="module")
def still_data(tmp_path_factory) -> Path:
    return _made(tmp_path_factory.mktemp("still"), STILL)


@pytest.fixture(scope="module")
def sweep_data(tmp_path_factory) -> Path:
    return _made(tmp_path_factory.mktemp("sweep"), SWEEP)


@pytest.fixture
def still(still_data, tmp_cwd) -> Path:
    shutil.copytree(still_data, tmp_cwd, dirs_exist_ok=True)
    return tmp_cwd


@pytest.fixture
def sweep(sweep_data, tmp_cwd) -> Path:
    shutil.copytree(sweep_data, tmp_cwd, dirs_exist_ok=True)
    return tmp_cwd


def errors(content: dict, truth: dict[str, float]) -> dict[str, float]:
    """Of refined parameters, in sigma."""
    rows = {row["name"]: row for row in content["parameters"]}
    return {name: (rows[name]["value"] - v) / rows[name]["sigma"] for name, v in truth.items()}


def check(limit_deg: float, percent: float) -> dict:
    """The crystal of refined.expt against the true one; the figures of refined.json."""
    (true,), (found,) = load("data.expt"), load("refined.expt")
    compared = compare_crystals(true.crystal, found.crystal)
    assert compared.misorientation_deg < limit_deg
    assert compared.cell_error_percent < percent
    content = json.loads(Path("refined.json").read_text())
    assert content["converged"] and not content["undetermined"]
    assert content["chi_sqr_per_degree_of_freedom"] == pytest.approx(1.0, abs=0.06)
    values = {row["name"]: row["value"] for row in content["parameters"]}
    assert values["Ncells_a"] == pytest.approx(9.0, rel=0.03)
    assert values["mosaic_spread"] == pytest.approx(0.3, rel=0.04)
    # the start's origin was 0.1 and 0.05 mm off
    origin = np.array(found.detector[0].get_origin())
    assert np.abs(origin - [-19, 17, -80]).max() < 0.02
    return content


def test_still(still: Path) -> None:
    """Back to the truth, and what is written: models that nanobragg.simulate takes on, with the
    photons of the data; a table; pictures."""
    refine("start.expt", "start.refl", *START)
    content = check(0.06, 0.2)
    assert content["pixels"] > 2000
    table = flex.reflection_table.from_file("refined.refl")
    assert len(table) == len(flex.reflection_table.from_file("start.refl"))
    assert table.get_flags(table.flags.used_in_refinement).count(True) > 0.9 * len(table)
    for name in ("refined_convergence.png", "refined_shoeboxes.png"):
        assert Path(name).read_bytes().startswith(b"\x89PNG")
    counted, expected = (
        table["photons.counted"],
        (table["photons.model"] + table["photons.background"]),
    )
    assert flex.sum(counted) == pytest.approx(flex.sum(expected), rel=0.01)
    # of boxes without a neighbour's photons: the true photons and centroids; measured 0.12 pixels
    true = table["xyzobs.px.value"].as_numpy_array()[:, :2]
    found = table["photons.centroid"].as_numpy_array()[:, :2]
    photons, model = (table[n].as_numpy_array() for n in ("intensity.sum.value", "photons.model"))
    alone = (photons > 500) & (np.abs(model / photons - 1) < 0.03)
    assert alone.sum() >= 3
    assert np.abs(found - true)[alone].max() < 0.3
    simulate(
        *("refined.expt", "refined.phil", "structure_factors.default_F=100", "noise.poisson=False"),
        *("sampling.oversample=2", "background.level=2", "output.prefix=again"),
    )
    images = [
        load(f"{name}.expt", True)[0].imageset.get_raw_data(0)[0] for name in ("data", "again")
    ]
    data, again = (one.as_double().as_numpy_array() for one in images)
    chi_sqr = ((data - again) ** 2 / np.maximum(again, 1)).mean()
    assert chi_sqr == pytest.approx(1.0, abs=0.1)


def test_sweep(sweep: Path) -> None:
    more = "crystal.mosaic.domains=150", "output.pictures=False"
    refine("start.expt", "start.refl", *START, *more)
    content = check(0.02, 0.1)
    assert content["images"] == 3
    assert not Path("refined_convergence.png").exists()


def test_image_scales(sweep: Path) -> None:
    """Each image its own, all alike here."""
    chosen = "refine.parameters=orientation+scale+image_scales"
    truth = ("crystal.Ncells_abc=9,9,9", "crystal.mosaic.spread_deg=0.3")
    (data,) = load("data.expt", True)
    ExperimentList([data]).as_file("true.expt")
    more = "structure_factors.default_F=100", "crystal.mosaic.domains=60", "sampling.oversample=2"
    refine("true.expt", "start.refl", chosen, *truth, *more, "output.pictures=False")
    rows = json.loads(Path("refined.json").read_text())["parameters"]
    scales = [row for row in rows if row["name"].startswith("scale_")]
    assert len(scales) == 3
    values = np.array([row["value"] for row in scales])
    sigmas = np.array([row["sigma"] for row in scales])
    assert np.abs(values / values.mean() - 1).max() < 5 * (sigmas / values).max() + 0.01
    assert {row["name"]: row["refined"] for row in rows}["scale"] is False


def test_coarse_or_not(still: Path) -> None:
    """First coarsely and then as it is to be, or at once: the same, within a tenth of a sigma."""
    found = {}
    for name, stages in (("True", 2), ("False", 1)):
        prefix = f"output.prefix={name}", "output.pictures=False"
        refine("start.expt", "start.refl", *START, f"refine.coarse={name}", *prefix)
        content = json.loads(Path(f"{name}.json").read_text())
        assert len(content["stages"]) == stages
        assert ["(coarse)" in one["stage"] for one in content["stages"]] == [True, False][-stages:]
        found[name] = content["parameters"]
    for one, other in zip(*found.values()):
        if one["refined"]:
            assert abs(one["value"] - other["value"]) < 0.1 * one["sigma"], one["name"]


def test_undetermined(still: Path) -> None:
    """What is not determined is named; what was found is written all the same."""
    chosen = "refine.parameters=orientation+cell+scale+wavelength+distance"
    with pytest.raises(Sorry, match="do not determine .*wavelength"):
        refine("start.expt", "start.refl", *START, chosen)
    rows = json.loads(Path("refined.json").read_text())["parameters"]
    found = {row["name"]: row["sigma"] for row in rows}
    assert found["wavelength"] is None and found["rotation_x"] is not None
    restrained = ("refine.restraint=wavelength,1e-5",)
    refine("start.expt", "start.refl", *START, chosen, *restrained, "output.prefix=held")
    rows = json.loads(Path("held.json").read_text())["parameters"]
    found = {row["name"]: row for row in rows}
    assert found["wavelength"]["sigma"] == pytest.approx(1e-5, rel=0.05)
    assert found["wavelength"]["value"] == pytest.approx(1, abs=3e-5)


def test_limits_hold(still: Path) -> None:
    limits = ("refine.limits=Ncells_a,12,20",)
    refine("start.expt", "start.refl", *START, *limits, "output.pictures=False")
    rows = json.loads(Path("refined.json").read_text())["parameters"]
    assert {row["name"]: row["value"] for row in rows}["Ncells_a"] == pytest.approx(12)


def test_not_converged(still: Path) -> None:
    """The best so far is written."""
    with pytest.raises(Sorry, match="did not converge: 2 iterations.*is written"):
        refine("start.expt", "start.refl", *START, "refine.iterations=2")
    assert not json.loads(Path("refined.json").read_text())["converged"]
    assert len(load("refined.expt")) == 1


CELLS = {
    "P1": ((31, 37, 43, 84, 97, 102), "a b c alpha beta gamma"),
    "P2": ((31, 37, 43, 90, 97, 90), "a b c beta"),
    "P222": ((31, 37, 43, 90, 90, 90), "a b c"),
    "P4": ((31, 31, 43, 90, 90, 90), "a c"),
    "P3": ((31, 31, 43, 90, 90, 120), "a c"),
    "R3:R": ((31, 31, 31, 75, 75, 75), "a alpha"),
    "P23": ((31, 31, 31, 90, 90, 90), "a"),
}


@pytest.mark.parametrize("group", CELLS)
def test_free_cells(group: str) -> None:
    """The free numbers of each crystal system (International Tables A, 2.1)."""
    from cctbx import crystal, uctbx

    cell, names = CELLS[group]
    crystal.symmetry(unit_cell=cell, space_group_symbol=group)
    o = np.array(uctbx.unit_cell(cell).orthogonalization_matrix()).reshape(3, 3)
    model = Crystal(*(tuple(o[:, i]) for i in range(3)), space_group_symbol=group)
    found = refined.free_cell(model)
    assert found.names == tuple(names.split())
    np.testing.assert_allclose(found.values, [cell[refined.NAMES.index(n)] for n in found.names])
    moved = np.array(cell) + found.matrix.numpy() @ np.linspace(0.1, 0.2, len(found.names))
    group_of = crystal.symmetry(unit_cell=cell, space_group_symbol=group).space_group()
    kept = group_of.average_unit_cell(uctbx.unit_cell(tuple(moved))).parameters()
    np.testing.assert_allclose(kept, moved, atol=1e-9)


def test_written_models_are_read_back(still: Path) -> None:
    """A detector of a hierarchy, moved panel by panel, is where it was put, in the file too."""
    (experiment,) = ExperimentListFactory.from_json_file("data.expt", check_format=False)
    from nanobragg_plugin.adapters import models
    from nanobragg_plugin.models import Experiment

    panels = models.panels(experiment.detector)
    beam = models.beam(experiment.beam, 1.0)
    crystal = models.crystal(experiment.crystal, models.CrystalOptions([9, 9, 9]))
    core = Experiment(panels, beam, models.goniometer(None), crystal)
    again = refined.written(experiment, core, None)
    ExperimentList([again]).as_file("again.expt")
    (read,) = ExperimentListFactory.from_json_file("again.expt", check_format=False)
    assert read.crystal.get_A() == pytest.approx(experiment.crystal.get_A(), rel=1e-12)
    assert read.beam.get_s0() == pytest.approx(experiment.beam.get_s0(), abs=1e-14)
    for a, b in zip(read.detector, experiment.detector):
        assert a.get_d_matrix() == pytest.approx(b.get_d_matrix(), abs=1e-12)
