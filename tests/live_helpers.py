"""Live files beside the files that nanobragg.simulate writes, and DIALS' commands on them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import image_file_helpers as ifh
import numpy as np
import simulate_helpers as sim
from dxtbx.model import Experiment
from dxtbx.model.experiment_list import ExperimentList, ExperimentListFactory

from nanobragg_plugin.format.FormatNanoBraggLive import FormatNanoBraggLive

FIRST = "# nanobragg live 1\n"
TESTS = Path(__file__).parent


def write(*lines: str, path: str = "live.nbexpt") -> str:
    """A live file of these lines."""
    Path(path).write_text(FIRST + "".join(f"{line}\n" for line in lines))
    return path


def both(*lines: str, experiments: list[Experiment] | None = None) -> FormatNanoBraggLive:
    """The live file of these parameters, opened; the same are simulated to simulated.nxs."""
    expt = []
    if experiments is not None:
        expt = [sim.write_expt("models.expt", *experiments)]
        lines = ("input.experiments=models.expt", *lines)
    with_sweep = [line for line in lines if not line.startswith("input.")]
    sim.simulate(*expt, *with_sweep)
    return FormatNanoBraggLive(write(*lines))


def arrays(raw: Any) -> list[np.ndarray]:
    return [panel.as_numpy_array() for panel in raw]


def imported(path: str) -> ExperimentList:
    """As dxtbx imports a file, where this package is installed."""
    with ifh.registry(True):
        return ExperimentListFactory.from_filenames([path])


def assert_same_images(live: Any, written: Any, order: list[int]) -> None:
    """Every bit, and the type, of the panels of images, asked for in this order."""
    for index in order:
        ours, theirs = live.get_raw_data(index), written.get_raw_data(index)
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs):
            assert type(one) is type(other)
            np.testing.assert_array_equal(one.as_numpy_array(), other.as_numpy_array())


def dials(*commands: tuple[str, ...]) -> str:
    """DIALS commands, a name and arguments each, in a process where this package is installed; what
    they print."""
    code = (
        "import importlib, json, sys\n"
        "import image_file_helpers as ifh\n"
        "with ifh.registry(True):\n"
        "    for name, *arguments in json.loads(sys.argv[1]):\n"
        "        importlib.import_module(f'dials.command_line.{name}').run(arguments)"
    )
    done = python(code, json.dumps(commands))
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def python(code: str, *args: str) -> subprocess.CompletedProcess:
    """Python code in a process of its own, which can import what tests can."""
    path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-c", code, *args],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "2"},
    )
