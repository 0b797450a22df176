# ruff: noqa: E402
"""DIALS indexes simulated stills, each by itself, and finds the crystals that were simulated."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("dials")

from cctbx import sgtbx, uctbx
from dials.array_family import flex
from dxtbx.model.experiment_list import ExperimentListFactory

from nanobragg_plugin.adapters.miller import made_up_structure_factors
from nanobragg_plugin.compare import truth

STILL = Path(__file__).parents[1] / "examples" / "still.phil"
CELL, SPACE_GROUP, COUNT = (79.1, 79.1, 38.4, 90, 90, 90), "P 43 21 2", 20
GIVEN = (
    f"stills.count={COUNT}",
    "stills.cell_sigma_percent=0.1",
    "stills.fluence_sigma_percent=30",
    "stills.direction_sigma_mrad=0.05",
    "crystal.Ncells_abc=25,25,50",
    "crystal.mosaic.spread_deg=0.03",
    "crystal.spot_scale=1e7",
    "geometry.detector.distance=300",
    "sampling.oversample=2",
)


def dials(command: str, *arguments: str, folder: Path) -> str:
    """A DIALS command by this Python. Debian's cctbx lacks xfel_mono_sim_ext, which DIALS' indexer
    of stills has imported but does not use: an empty module stands in for it."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    if importlib.util.find_spec("xfel_mono_sim_ext") is None:
        stand_in = folder / "stand_in"
        stand_in.mkdir(exist_ok=True)
        (stand_in / "xfel_mono_sim_ext.py").touch()
        env["PYTHONPATH"] = os.pathsep.join([str(stand_in), env.get("PYTHONPATH", "")])
    code = f"import sys; from dials.command_line.{command} import run; run(sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        env=env,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with simulated stills, and what dials.ssx_index made of them."""
    folder = tmp_path_factory.mktemp("stills")
    amplitudes = made_up_structure_factors(
        sgtbx.space_group_info(SPACE_GROUP), uctbx.unit_cell(CELL), 2.0, seed=1
    )
    amplitudes.as_mtz_dataset(column_root_label="F").mtz_object().write(str(folder / "F.mtz"))
    simulate = [shutil.which("nanobragg.simulate", path=str(Path(sys.executable).parent))]
    if simulate == [None]:
        simulate = [sys.executable, "-m", "nanobragg_plugin.command_line.simulate"]
    subprocess.run([*simulate, STILL, "F.mtz", *GIVEN], cwd=folder, check=True, capture_output=True)
    dials("dials_import", "still.nxs", folder=folder)
    dials("find_spots", "imported.expt", "nproc=1", folder=folder)
    known = f"unit_cell={','.join(map(str, CELL))}", "space_group=P4"
    dials("ssx_index", "imported.expt", "strong.refl", *known, "nproc=1", folder=folder)
    return folder


def test_at_least_95_percent_are_indexed(indexed: Path) -> None:
    """20 of 20 when this was written, 70 to 94 % of the spots of each."""
    found = ExperimentListFactory.from_json_file(str(indexed / "indexed.expt"), check_format=False)
    assert len(found) >= 0.95 * COUNT
    table = flex.reflection_table.from_file(str(indexed / "indexed.refl"))
    counts = np.bincount(table["id"].as_numpy_array()[table["id"].as_numpy_array() >= 0])
    assert counts.min() > 50


def test_the_crystals_are_those_simulated(indexed: Path) -> None:
    """Image by image. Measured: misorientations up to 0.07 degrees, cell lengths up to 0.055 %."""
    true = ExperimentListFactory.from_json_file(str(indexed / "still.expt"), check_format=False)
    found = ExperimentListFactory.from_json_file(str(indexed / "indexed.expt"), check_format=False)
    assert len(true) == COUNT
    angles, lengths = [], []
    for experiment in found:
        (index,) = experiment.imageset.indices()
        result = truth.compare_crystals(true[index].crystal, experiment.crystal)
        angles.append(result.misorientation_deg)
        lengths.append(result.cell_error_percent)
    assert max(angles) < 0.1 and max(lengths) < 0.1
