"""Tiny experiments for nanobragg.simulate, and the command called within the test's process."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from dxtbx.model import (
    Beam,
    Crystal,
    Detector,
    Experiment,
    ExperimentList,
    Goniometer,
    Scan,
)
from dxtbx.model.experiment_list import ExperimentListFactory
from random_models import image_sequence
from scitbx.array_family import flex

from nanobragg_plugin.command_line import simulate as command

#: As little work as possible: 24 x 18 pixels, one sub-pixel, two phi steps.
QUICK = (
    "structure_factors.default_F=100",
    "beam.fluence=1e24",
    "crystal.Ncells_abc=6,5,4",
    "crystal.spot_scale=1e4",
    "sampling.oversample=1",
    "sampling.phisteps=2",
    "sampling.thicksteps=2",
    "background.level=3",
)

#: An experiment of as many panels, without an .expt: dxtbx's own parameters.
GEOMETRY = (
    "geometry.detector.panel.image_size=24,18",
    "geometry.detector.panel.pixel_size=0.5,0.6",
    "geometry.detector.panel.trusted_range=-1,1000000",
    "geometry.detector.panel.origin=-5,6,-40",
    "geometry.detector.panel.slow_axis=0,-1,0",
    "geometry.beam.wavelength=1",
    "geometry.beam.direction=0,0,1",
    "geometry.goniometer.axis=1,0,0",
    "geometry.scan.image_range=11,13",
    "geometry.scan.oscillation=5,1",
    "geometry.crystal.unit_cell=30,40,50,80,95,100",
    "geometry.crystal.misset_deg=10,20,30",
)


def detector(panels: int = 1) -> Detector:
    """Panels of 24 x 18 pixels of 0.5 x 0.6 mm, 40 mm away, side by side, with a silicon sensor."""
    result = Detector()
    for number in range(panels):
        panel = result.add_panel()
        panel.set_name(f"panel{number}")
        panel.set_local_frame((1, 0, 0), (0, -1, 0), (-5.0 + 14 * number, 6, -40))
        panel.set_image_size((24, 18))
        panel.set_pixel_size((0.5, 0.6))
        panel.set_trusted_range((-1, 1e6))
        panel.set_material("Si")
        panel.set_thickness(0.45)
        panel.set_mu(3.6)
    return result


def crystal() -> Crystal:
    """Triclinic, in a general orientation."""
    turn = np.array([[0.36, 0.48, -0.8], [-0.8, 0.6, 0.0], [0.48, 0.64, 0.6]])
    vectors = np.array([[30.0, 0, 0], [-7, 39, 0], [-4, 8, 49]]) @ turn
    return Crystal(*(tuple(map(float, v)) for v in vectors), space_group_symbol="P1")


def scan(first: int = 11, images: int = 3, start: float = 5.0, exposure: float = 0.0) -> Scan:
    """Images of 1 degree."""
    result = Scan((first, first + images - 1), (start, 1.0))
    result.set_exposure_times(flex.double(images, exposure))
    result.set_epochs(flex.double(range(images)))
    return result


def sweep(**models: Any) -> Experiment:
    """A rotation with all its models, any of which may be given (or be None)."""
    given = {
        "beam": Beam((0, 0, 1), 1.0),
        "detector": detector(),
        "goniometer": Goniometer((1, 0, 0)),
        "scan": scan(),
        "crystal": crystal(),
        "identifier": "the-sweep",
        **models,
    }
    return Experiment(**{name: model for name, model in given.items() if model is not None})


def still(**models: Any) -> Experiment:
    """A still: neither goniometer nor scan."""
    return sweep(goniometer=None, scan=None, **models)


def write_expt(path: Path, *experiments: Experiment, images: bool = False) -> str:
    """Write an experiment list; `images`: with image sets of files that need not exist."""
    for experiment in experiments if images else ():
        if experiment.imageset is None:
            experiment.imageset = image_sequence(experiment)
    ExperimentList(list(experiments)).as_file(str(path))
    return str(path)


def edit_expt(path: Path, *steps: Any) -> str:
    """Put the last of `steps` where the others lead to in the JSON of an experiment list."""
    *way, last, value = steps
    content = json.loads(Path(path).read_text())
    place = content
    for step in way:
        place = place[step]
    place[last] = value
    Path(path).write_text(json.dumps(content))
    return str(path)


def simulate(*args: str) -> None:
    """The command, in this process and the working directory."""
    command.run([str(arg) for arg in args])


def pixels(path: str | Path = "simulated.nxs") -> np.ndarray:
    """[image, slow, fast] as they lie in the file."""
    with h5py.File(path, "r") as handle:
        return handle["/entry/data/data"][()]


def load(path: str | Path = "simulated.expt", check_format: bool = False) -> ExperimentList:
    return ExperimentListFactory.from_json_file(str(path), check_format=check_format)


def listing(folder: Path) -> set[str]:
    """Every file below a folder, hidden ones too."""
    return {str(path.relative_to(folder)) for path in Path(folder).rglob("*")}


def joined(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.asarray(array).ravel() for array in arrays])
