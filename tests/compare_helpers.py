"""Experiments, truth tables and images for the tests of nanobragg.compare, and the command."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import nanobragg_plugin  # noqa: F401  isort: skip  before dxtbx

import numpy as np
from dials.algorithms.spot_prediction import ScanStaticReflectionPredictor
from dials.array_family import flex
from dxtbx.model import Beam, Crystal, Detector, Experiment, ExperimentList, Goniometer, Scan
from scipy.spatial.transform import Rotation
from simulate_helpers import run_command

from nanobragg_plugin.command_line import compare as command
from nanobragg_plugin.format.nxmx_writer import NXmxWriter

CELL = (41.0, 53.0, 67.0, 81.0, 95.0, 103.0)  # triclinic
FIRST, IMAGES, WIDTH = 11, 30, 0.5


def turn(axis: Any, degrees: float) -> np.ndarray:
    """A rotation matrix, by scipy."""
    axis = np.array(axis, float)
    return Rotation.from_rotvec(np.radians(degrees) * axis / np.linalg.norm(axis)).as_matrix()


def detector(panels: int = 2, gain: float = 1.0) -> Detector:
    """Panels of 150 x 190 pixels of 0.3 x 0.25 mm, 90 mm away, side by side."""
    result = Detector()
    for number in range(panels):
        panel = result.add_panel()
        panel.set_name(f"panel{number}")
        panel.set_local_frame((1, 0, 0), (0, -1, 0), (-46.0 + 46 * number, 24, -90))
        panel.set_image_size((150, 190))
        panel.set_pixel_size((0.3, 0.25))
        panel.set_trusted_range((-1, 1e6))
        panel.set_gain(gain)
    return result


def crystal(rotation: np.ndarray | None = None, symbol: str = "P1") -> Crystal:
    """A crystal of CELL in a general orientation, turned further by `rotation`."""
    cell = CELL if symbol == "P1" else (45.0, 45.0, 70.0, 90.0, 90.0, 90.0)
    a, b, c = cell[:3]
    al, be, ga = np.radians(cell[3:])
    x = (np.cos(al) - np.cos(be) * np.cos(ga)) / np.sin(ga)
    vectors = np.array(
        [
            [a, 0, 0],
            [b * np.cos(ga), b * np.sin(ga), 0],
            [c * np.cos(be), c * x, c * np.sqrt(1 - np.cos(be) ** 2 - x**2)],
        ]
    )
    matrix = turn((1, 2, 3), 40)
    matrix = matrix if rotation is None else rotation @ matrix
    vectors = vectors @ matrix.T
    return Crystal(*(tuple(map(float, v)) for v in vectors), space_group_symbol=symbol)


def sweep(**models: Any) -> Experiment:
    """A rotation of IMAGES images of WIDTH degrees; any model may be given, or be None."""
    scan = Scan((FIRST, FIRST + IMAGES - 1), (3.0, WIDTH))
    scan.set_exposure_times(flex.double(IMAGES, 0.1))
    scan.set_epochs(flex.double(range(IMAGES)))
    given = {
        "beam": Beam((0.01, -0.02, 1), 1.1),
        "detector": detector(),
        "goniometer": Goniometer((1, 0.01, 0)),
        "scan": scan,
        "crystal": crystal(),
        **models,
    }
    return Experiment(**{name: model for name, model in given.items() if model is not None})


def write(path: str, *experiments: Experiment) -> str:
    ExperimentList(list(experiments)).as_file(path)
    return path


def truth_table(experiment: Experiment, seed: int = 1, number: int = 0) -> flex.reflection_table:
    """What output.truth writes of an experiment: dials' predictions, made-up F^2 and photons."""
    rng = np.random.default_rng(seed)
    predictor = ScanStaticReflectionPredictor(experiment, dmin=2.4)
    table = predictor.for_ub(experiment.crystal.get_A())
    n = len(table)
    table["id"] = flex.int(n, number)
    d = np.array([experiment.crystal.get_unit_cell().d(h) for h in table["miller_index"]])
    f_squared = rng.exponential(1000.0, n) * np.exp(-10 / d**2)
    photons = f_squared * rng.uniform(0.5, 1.5, n)
    table["f_squared"], table["d"] = flex.double(f_squared), flex.double(d)
    table["intensity.sum.value"] = flex.double(photons)
    table["intensity.sum.variance"] = flex.double(photons)
    table["lorentz"], table["polarization"] = flex.double(n, 1.0), flex.double(n, 1.0)
    table["partiality"] = flex.double(n, 1.0)
    table["xyzobs.px.value"] = table["xyzcal.px"]
    table["xyzobs.px.variance"] = flex.vec3_double(n, (0.1, 0.1, 0.1))
    table.set_flags(flex.bool(n, True), table.flags.predicted)
    return table


def shifted(places: Any, shift: np.ndarray) -> flex.vec3_double:
    """A column of positions, moved."""
    moved = np.array(places).reshape(-1, 3) + shift
    return flex.vec3_double(np.ascontiguousarray(moved))


def strong_of(table: flex.reflection_table, shift: Any = (0, 0, 0)) -> flex.reflection_table:
    """What find_spots would write of true reflections: places and sums without indices."""
    found = flex.reflection_table()
    for name in ("panel", "intensity.sum.value", "intensity.sum.variance"):
        found[name] = copy.deepcopy(table[name])
    found["id"] = flex.int(len(table), 0)
    found["flags"] = flex.size_t(len(table), 0)
    found["xyzobs.px.value"] = shifted(table["xyzobs.px.value"], np.array(shift, float))
    found.set_flags(flex.bool(len(table), True), found.flags.strong)
    return found


def integrated_of(table: flex.reflection_table, values: Any, sigma: Any) -> flex.reflection_table:
    """What dials.integrate would write: places, indices and profile-fitted intensities."""
    found = table.copy()
    for name in ("f_squared", "lorentz", "polarization"):
        del found[name]
    for kind in ("sum", "prf"):
        found[f"intensity.{kind}.value"] = flex.double(np.array(values, float))
        found[f"intensity.{kind}.variance"] = flex.double(np.array(sigma, float) ** 2)
    flags = found.flags
    found.set_flags(flex.bool(len(found), True), flags.integrated_sum | flags.integrated_prf)
    return found


def scaled_of(table: flex.reflection_table, values: Any, sigma: Any) -> flex.reflection_table:
    """What dials.scale would write, the true scale factor 2 for half of it."""
    found = integrated_of(table, values, sigma)
    factor = np.where(np.arange(len(table)) % 2, 1.0, 2.0)
    found["inverse_scale_factor"] = flex.double(factor)
    found["intensity.scale.value"] = flex.double(np.array(values, float) * factor)
    found["intensity.scale.variance"] = flex.double((np.array(sigma, float) * factor) ** 2)
    found.set_flags(flex.bool(len(found), True), found.flags.scaled)
    return found


def write_images(path: str, experiment: Experiment, images: list, dtype: str = "int32") -> str:
    """An NXmx file of arrays [slow, fast] a panel of each image."""
    with NXmxWriter(path, experiment, provenance={}, dtype=dtype) as writer:
        for index, image in enumerate(images):
            writer.write(index, image)
    return path


def compare(*args: object, json_name: str = "out.json") -> dict:
    """The command, in this process and the working directory; what its JSON says."""
    run_command(command.run, *args, "--json", json_name)
    return json.loads(Path(json_name).read_text(), parse_constant=_refuse)


def _refuse(word: str) -> None:
    raise AssertionError(f"{word} is no JSON")
