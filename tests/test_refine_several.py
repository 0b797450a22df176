"""nanobragg.refine of several experiments: stills of a crystal each, one detector."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nanobragg_plugin  # noqa: F401  isort: skip  before dxtbx

import numpy as np
import pytest

pytest.importorskip("dials")

from dials.array_family import flex  # noqa: E402
from dxtbx.model import ExperimentList  # noqa: E402
from libtbx.utils import Sorry  # noqa: E402
from scipy.spatial.transform import Rotation  # noqa: E402
from simulate_helpers import load, simulate  # noqa: E402
from test_refine_command import DATA, START, refine  # noqa: E402

from nanobragg_plugin.compare.truth import compare_crystals  # noqa: E402

STILLS = 3
TRUE = (
    *("structure_factors.default_F=100", "crystal.Ncells_abc=9,9,9", "sampling.oversample=2"),
    *("crystal.mosaic.spread_deg=0.3", "crystal.mosaic.domains=150", "crystal.mosaic.seed=5"),
    "output.pictures=False",
)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """data.*: three stills of different fluence; start.*: each crystal turned by another 0.1 to
    0.2 degrees, the detector 0.1 and 0.05 mm off."""
    folder, here = tmp_path_factory.mktemp("stills"), Path.cwd()
    os.chdir(folder)
    try:
        more = f"stills.count={STILLS}", "stills.fluence_sigma_percent=30", "stills.seed=3"
        simulate(*DATA, *more, "beam.fluence=6e27")
        experiments = load("data.expt")
        panel = experiments[0].detector[0]
        panel.set_frame((1, 0, 0), (0, -1, 0), (-18.9, 16.95, -80))
        for number, experiment in enumerate(experiments):
            vector = np.roll([0.1, -0.12, 0.03], number)
            turn = Rotation.from_rotvec(vector, degrees=True).as_matrix()
            matrix = np.array(experiment.crystal.get_A()).reshape(3, 3)
            experiment.crystal.set_A(tuple((turn @ matrix).flatten()))
        ExperimentList(experiments).as_file("start.expt")
        table = flex.reflection_table.from_file("data.truth.refl")
        table.select(table["intensity.sum.value"] > 150).as_file("start.refl")
    finally:
        os.chdir(here)
    return folder


@pytest.fixture
def stills(made, tmp_cwd) -> Path:
    shutil.copytree(made, tmp_cwd, dirs_exist_ok=True)
    return tmp_cwd


def rows_of(name: str = "refined.json") -> dict[str, dict]:
    return {row["name"]: row for row in json.loads(Path(name).read_text())["parameters"]}


def test_a_terminal_sees_images_pass(stills: Path) -> None:
    """Steps of much data take minutes: images are counted below the lines of the log."""
    args = "start.expt", "start.refl", *TRUE, "refine.parameters=orientation+scale"
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "nanobragg_plugin.command_line.refine", *args]
    with subprocess.Popen(command, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        said = b""
        with contextlib.suppress(OSError):  # its end has been closed
            while part := os.read(ours, 1 << 16):
                said += part
    os.close(ours)
    assert process.returncode == 0, said
    lines = re.split(r"[\r\n]+", said.decode())
    counts = [int(found[1]) for line in lines if (found := re.match(r"(\d+)image ", line))]
    # the images read, then those simulated, each step of all
    assert STILLS in counts and counts[-1] > STILLS and counts[-1] % STILLS == 0
    steps = [line for line in lines if "chi^2 a pixel" in line]
    assert steps and all(re.match(r" +\d+   loss \d", line) for line in steps)


def test_stills_share_a_detector(stills: Path) -> None:
    """Every crystal is back, and the one detector; scales are as the fluences, which the file
    of images has for each still."""
    given = load("data.expt")
    assert len(given) == STILLS and len(given.detectors()) == 1
    refine("start.expt", "start.refl", *START)
    content, rows = json.loads(Path("refined.json").read_text()), rows_of()
    found = load("refined.expt")
    assert len(found) == STILLS
    assert len(found.detectors()) == 1 and len(found.crystals()) == STILLS
    errors = [compare_crystals(a.crystal, b.crystal) for a, b in zip(given, found)]
    assert max(one.misorientation_deg for one in errors) < 0.06
    assert max(one.cell_error_percent for one in errors) < 0.25
    assert "detector_fast" in rows and "rotation_x.2" in rows and "rotation_x" not in rows
    origin = np.array(found[0].detector[0].get_origin())
    assert np.abs(origin - [-19, 17, -80]).max() < 0.02
    assert content["images"] == STILLS
    assert content["chi_sqr_per_degree_of_freedom"] == pytest.approx(1.0, abs=0.08)
    table = flex.reflection_table.from_file("refined.refl")
    assert sorted(set(table["id"])) == list(range(STILLS))
    for number in range(STILLS):
        assert Path(f"refined_{number}.phil").exists()


def test_shared_is_better_known(stills: Path) -> None:
    """Of the detector, by the photons of all: sigmas as 1/sqrt of the sum of 1/sigma^2 of each
    alone, where nothing else is refined."""
    chosen = "refine.parameters=detector_shift+scale", "refine.positions=False", *TRUE
    sigmas = []
    for number in range(STILLS):
        only = f"experiment={number}", f"output.prefix=alone{number}"
        refine("data.expt", "start.refl", *chosen, *only)
        sigmas.append(rows_of(f"alone{number}.json")["detector_fast"]["sigma"])
    refine("data.expt", "start.refl", *chosen)
    together = rows_of()["detector_fast"]["sigma"]
    assert together == pytest.approx(sum(s**-2 for s in sigmas) ** -0.5, rel=0.02)


def test_some_of_a_list(stills: Path) -> None:
    """ids and names are of what is written; a restraint without a number is of each."""
    chosen = "experiment=0,2", "refine.parameters=orientation+scale", "output.pictures=False"
    refine("start.expt", "start.refl", *START, *chosen, "refine.restraint=rotation_x,1e-6")
    assert len(load("refined.expt")) == 2
    assert set(flex.reflection_table.from_file("refined.refl")["id"]) == {0, 1}
    rows = rows_of()
    for name in ("rotation_x.0", "rotation_x.2"):
        assert rows[name]["sigma"] == pytest.approx(1e-6, rel=0.01)
    assert rows["rotation_y.2"]["sigma"] > 1e-5


def test_refused(stills: Path) -> None:
    for args, words in {
        "experiment=3": "the list holds 3",
        "experiment=1,1": "names one twice",
        "refine.restraint=rotation_x.1,0": "must be above 0",
        "refine.restraint=rotation_x.7,1": "the parameters are",
    }.items():
        with pytest.raises(Sorry, match=words):
            refine("start.expt", "start.refl", *START, args)
    table = flex.reflection_table.from_file("start.refl")
    table.select(table["id"] != 1).as_file("two.refl")
    with pytest.raises(Sorry, match="experiment 1: no shoebox is left"):
        refine("start.expt", "two.refl", *START)
