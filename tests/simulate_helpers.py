"""Tiny experiments for nanobragg.simulate, and the command called within the test's process."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from dxtbx.imageset import ImageSequence, ImageSetFactory
from dxtbx.model import Beam, Crystal, Detector, Experiment, ExperimentList, Goniometer, Scan
from dxtbx.model.experiment_list import ExperimentListFactory
from libtbx.utils import Sorry
from scitbx.array_family import flex

from nanobragg_plugin.command_line import simulate as command

#: As little work as possible, of a still too.
STILL = (
    "structure_factors.default_F=100",
    "beam.fluence=1e24",
    "crystal.Ncells_abc=6,5,4",
    "crystal.spot_scale=1e4",
    "sampling.oversample=1",
    "sampling.thicksteps=2",
    "background.level=3",
)
QUICK = (*STILL, "sampling.phisteps=2")

MODELS = "beam", "detector", "goniometer", "scan"
#: The experiment of `sweep` without an .expt, by dxtbx's own parameters.
GEOMETRY = (
    "geometry.detector.panel.image_size=24,18",
    "geometry.detector.panel.pixel_size=0.5,0.6",
    "geometry.detector.panel.trusted_range=-1,1000000",
    "geometry.detector.panel.origin=-5,6,-40",
    "geometry.detector.panel.slow_axis=0,-1,0",
    "geometry.detector.panel.material=Si",
    "geometry.detector.panel.thickness=0.45",
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
    return sweep(**{"goniometer": None, "scan": None, **models})


def lattices(number: int = 2, **models: Any) -> list[Experiment]:
    """Crystals of the same images, each turned by another 20 degrees about y."""
    result = [sweep(**models)]
    for i in range(1, number):
        other = crystal()
        other.rotate_around_origin((0, 1, 0), 20 * i)
        shared = {name: getattr(result[0], name) for name in MODELS}
        result.append(sweep(**{**shared, "crystal": other, "identifier": f"lattice-{i}"}))
    return result


def image_sequence(experiment: Experiment, template: str = "image_####.cbf") -> ImageSequence:
    """An image sequence of the experiment's models; its files need not exist."""
    first, last = experiment.scan.get_image_range()
    return ImageSetFactory.make_sequence(
        template,
        list(range(first, last + 1)),
        beam=experiment.beam,
        detector=experiment.detector,
        goniometer=experiment.goniometer,
        scan=experiment.scan,
        check_format=False,
    )


def write_expt(path: str | Path, *experiments: Experiment, images: bool = False) -> str:
    """Write an experiment list; `images`: with image sets of files that need not exist."""
    for number, experiment in enumerate(experiments if images else ()):
        if experiment.imageset is None:
            experiment.imageset = image_sequence(experiment, f"{number}_####.cbf")
    ExperimentList(list(experiments)).as_file(str(path))
    return str(path)


def edit_expt(path: str | Path, *steps: Any) -> str:
    """Put the last of `steps` where the others lead to in the JSON of an experiment list."""
    *way, last, value = steps
    content = json.loads(Path(path).read_text())
    place = content
    for step in way:
        place = place[step]
    place[last] = value
    Path(path).write_text(json.dumps(content))
    return str(path)


def run_command(run: Callable[[list[str]], None], *args: object) -> None:
    """A command, in this process and the working directory; its log handlers are removed."""
    loggers = [logging.getLogger(name) for name in ("dials", "dxtbx", "py.warnings")]
    before = {logger: list(logger.handlers) for logger in loggers}
    try:
        run([str(arg) for arg in args])
    finally:
        for logger, handlers in before.items():
            for handler in set(logger.handlers) - set(handlers):
                logger.removeHandler(handler)
                handler.close()
        logging.captureWarnings(False)


def simulate(*args: object) -> None:
    """nanobragg.simulate, as `run_command`."""
    run_command(command.run, *args)


def refused(*args: object) -> str:
    """What the command says when it refuses: one sentence, no other error before it, no file
    made and none changed but the log."""
    before = contents(Path.cwd())
    with pytest.raises(Sorry) as caught:
        simulate(*args)
    after = contents(Path.cwd())
    for files in (before, after):
        files.pop("nanobragg.simulate.log", None)
    assert after == before
    error = caught.value
    assert error.__cause__ is None and (error.__suppress_context__ or error.__context__ is None)
    message = str(error)
    assert message and "\n" not in message and "Traceback" not in message
    return message


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every file below a folder, hidden ones too, with what is in it (None: a folder)."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in Path(folder).rglob("*")
    }


def pixels(path: str | Path = "simulated.nxs") -> np.ndarray:
    """[image, slow, fast] as they lie in the file."""
    with h5py.File(path, "r") as handle:
        return handle["/entry/data/data"][()]


def load(path: str | Path = "simulated.expt", check_format: bool = False) -> ExperimentList:
    return ExperimentListFactory.from_json_file(str(path), check_format=check_format)
