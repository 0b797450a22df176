"""Random experiments that files of one image hold, and dxtbx's registry with and without us."""

from __future__ import annotations

import configparser
import contextlib
import importlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from dxtbx.format import Registry
from dxtbx.model import Detector, Experiment, Goniometer, MultiAxisGoniometer
from nxmx_experiments import random_experiment
from scipy.spatial.transform import Rotation

#: How the files of the formats with one for each image end.
ENDINGS = {"cbf": "cbf", "smv": "img", "raw": "bin"}

SETUP = Path(__file__).resolve().parents[1] / "setup.cfg"


def experiment_of(seed: int, panels: int | None = None, size=(7, 15)) -> Experiment:
    """As `random_experiment`: tilted, off-axis, non-square pixels, several goniometers. The panels
    have one size; panels: the number of them, where it matters."""
    experiment = random_experiment(seed)
    if panels is not None:
        wanted = (panels - 1) % 4  # random_experiment(seed) has 1 + seed % 4
        experiment.detector = random_experiment(4 * (seed // 4) + wanted).detector
    for panel in experiment.detector:
        panel.set_image_size(size)
        panel.set_trusted_range((-1, 60000))
    return experiment


def ours() -> dict[str, tuple[str, list[str]]]:
    """Our format classes in setup.cfg: the module of each, and its parents."""
    config = configparser.ConfigParser()
    config.read(SETUP)
    found = {}
    for line in config["options.entry_points"]["dxtbx.format"].split("\n"):
        if line.strip():
            name, place = (part.strip() for part in line.split("="))
            own, parents = name.split(":")
            found[own] = place.split(":")[0], parents.split(",")
    return found


@contextlib.contextmanager
def registry(with_us: bool) -> Iterator[None]:
    """dxtbx's registry of format classes as it is where this package is, or is not, installed."""
    dag = {
        parent: [c for c in children if "NanoBragg" not in c]
        for parent, children in Registry.get_format_class_dag().items()
    }
    index = {
        name: value
        for name, value in Registry.get_format_class_index().items()
        if "NanoBragg" not in name
    }
    for name, (module, parents) in ours().items() if with_us else ():
        index[name] = (lambda m=module, n=name: getattr(importlib.import_module(m), n)), parents
        for parent in parents:
            assert parent in index or parent == "Format"  # the root is in no index
            dag[parent] = sorted([*dag.get(parent, []), name])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Registry, "_format_dag", dag)
        patch.setattr(Registry, "get_format_class_index", lambda: index)
        yield


def opened(path: Path, with_us: bool):
    """A file as dxtbx opens it."""
    with registry(with_us):
        return Registry.get_format_class_for_file(str(path))(str(path))


def pixels(image) -> list[np.ndarray]:
    """[slow, fast] of the panels of an opened file."""
    raw = image.get_raw_data()
    return [panel.as_numpy_array() for panel in (raw if isinstance(raw, tuple) else (raw,))]


def worst_corner(detector: Detector, other: Detector) -> float:
    """The largest distance, mm, between corners of pixels, by dxtbx's d matrices."""
    assert len(detector) == len(other)
    worst = 0.0
    for panel, theirs in zip(detector, other):
        assert panel.get_image_size() == theirs.get_image_size()
        fast, slow = panel.get_image_size()
        for corner in ((0, 0), (fast, 0), (0, slow), (fast, slow)):
            places = []
            for one in (panel, theirs):
                mm = [n * size for n, size in zip(corner, one.get_pixel_size())]
                places.append(np.array(one.get_d_matrix()).reshape(3, 3) @ (*mm, 1.0))
            worst = max(worst, float(np.linalg.norm(places[0] - places[1])))
    return worst


def rotation(goniometer: Goniometer | MultiAxisGoniometer, degrees: float) -> np.ndarray:
    """S Rot(e, phi) F as dxtbx has it."""
    setting, fixed = (
        np.array(matrix).reshape(3, 3)
        for matrix in (goniometer.get_setting_rotation(), goniometer.get_fixed_rotation())
    )
    axis = np.array(goniometer.get_rotation_axis_datum())
    return setting @ Rotation.from_rotvec(np.radians(degrees) * axis).as_matrix() @ fixed


def names(form: str, numbers, prefix: str = "simulated") -> set[str]:
    """The files of the images of these numbers."""
    made = {f"{prefix}_{number:05d}.{ENDINGS[form]}" for number in numbers}
    return made | ({f"{prefix}_raw.json"} if form == "raw" else set())
