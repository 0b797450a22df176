"""A crystal that turns and grows along a sweep, by DIALS and by nanobragg.refine.

python examples/refine_scan.py [FOLDER] [nanobragg.refine's parameters]

24 images of half a degree with Poisson noise. Both refinements start from what dials.index found,
with the detector and the beam known, and let orientation and cell vary; the model of the pixels
has the data's domains and samples. Errors are root mean squares over the scan.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from demo import command

import nanobragg_plugin  # noqa: F401  isort: skip  before dxtbx: torch keeps its threads

import numpy as np
from dxtbx.model import (
    BeamFactory,
    Crystal,
    Detector,
    Experiment,
    ExperimentList,
    GoniometerFactory,
    ScanFactory,
)
from dxtbx.model.experiment_list import ExperimentListFactory
from scipy.spatial.transform import Rotation

IMAGES = 24
#: The model of data and refinement.
MODEL = (
    *("structure_factors.default_F=100", "crystal.Ncells_abc=15,15,12", "sampling.phisteps=4"),
    *("crystal.mosaic.spread_deg=0.12", "crystal.mosaic.domains=30", "crystal.mosaic.seed=5"),
    *("sampling.oversample=2", "sampling.subpixels=moments"),
)
DATA = "beam.fluence=2e27", "background.level=2", "noise.seed=11", "output.prefix=data"
KNOWN = "unit_cell=47,47,61,90,90,90", "space_group=P4", "detector.fix=all", "beam.fix=all"
REFINED = "refine.parameters=orientation+cell+domains+mosaic+scale"
VARYING = "refine.scan_varying=orientation+cell"


def main(folder: str = "refine_scan", *extra: str) -> dict[str, tuple[float, float, float]]:
    """Errors of turns, degrees, a and c, %, of dials.refine, with intervals of 36 and 3 degrees,
    and of nanobragg.refine; extra: parameters of the latter."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    ExperimentList([sweep()]).as_file("true.expt")
    command("nanobragg.simulate", "true.expt", *MODEL, *DATA, "output.overwrite=True")
    command("dials.import", "data.nxs", "output.experiments=imported.expt")
    command("dials.find_spots", "imported.expt", "nproc=1")
    command("dials.index", "imported.expt", "strong.refl", *KNOWN)
    indexed = "indexed.expt", "indexed.refl"
    for degrees in (36, 3):
        intervals = [
            f"crystal.{what}.smoother.interval_width_degrees={degrees}"
            for what in ("orientation", "unit_cell")
        ]
        files = f"output.experiments=dials_{degrees}.expt", "output.reflections=dials.refl"
        command("dials.refine", *indexed, *KNOWN[2:], "scan_varying=True", *intervals, *files)
    output = "output.prefix=pixels", "output.overwrite=True"
    command("nanobragg.refine", *indexed, *MODEL, REFINED, VARYING, *output, *extra)
    return {name: errors(f"{name}.expt") for name in ("dials_36", "dials_3", "pixels")}


def sweep() -> Experiment:
    """A tetragonal crystal that turns by 0.25 degrees, mostly about the spindle, while a grows by
    0.26 % and c shrinks by 0.25 %."""
    detector = Detector()
    panel = detector.add_panel()
    panel.set_local_frame((1, 0, 0), (0, -1, 0), (-23, 21, -80))
    panel.set_image_size((230, 210))
    panel.set_pixel_size((0.2, 0.2))
    panel.set_trusted_range((-1, 1e6))
    matrices = []
    for t in np.linspace(0, 1, IMAGES + 1):
        turn = [0.25 * t, 0.1 * np.sin(2.5 * t), 0.15 * t**2 - 0.05]
        a, c = 47 + 0.12 * t**2, 61 - 0.15 * t
        matrices.append(crystal(turn, a, c).get_A())
    varying = crystal([0, 0, 0], 47, 61)
    varying.set_A_at_scan_points(matrices)
    epochs = dict.fromkeys(range(1, IMAGES + 1), 0.0)
    return Experiment(
        beam=BeamFactory.make_beam(unit_s0=(0, 0, -1), wavelength=1.0),
        detector=detector,
        goniometer=GoniometerFactory.known_axis((1, 0, 0)),
        scan=ScanFactory.make_scan((1, IMAGES), 0.1, (7.0, 0.5), epochs),
        crystal=varying,
    )


def crystal(turn_deg: list[float], a: float, c: float) -> Crystal:
    made = Crystal((a, 0, 0), (0, a, 0), (0, 0, c), "P4")
    start = Rotation.from_euler("xyz", [10, 20, 30], degrees=True)
    turn = Rotation.from_rotvec(turn_deg, degrees=True) * start
    made.set_U(tuple(turn.as_matrix().flatten()))
    return made


def errors(name: str) -> tuple[float, float, float]:
    """Of a file's crystal along the scan."""
    true, found = (_matrices(file) for file in ("true.expt", name))
    found = found @ np.rint(np.linalg.inv(found[0]) @ true[0])  # in the true setting
    u, _, v = np.linalg.svd(found @ np.linalg.inv(true))
    turns = Rotation.from_matrix(u @ v).magnitude()
    edges = [np.linalg.norm(np.linalg.inv(one), axis=2) for one in (found, true)]
    ratio = 100 * (edges[0] / edges[1] - 1)
    a, c = (float(np.sqrt(np.mean(ratio[:, axis] ** 2))) for axis in (0, 2))
    return float(np.degrees(np.sqrt(np.mean(turns**2)))), a, c


def _matrices(name: str) -> np.ndarray:
    """A at scan points [points, 3, 3]."""
    one = ExperimentListFactory.from_json_file(name, check_format=False)[0].crystal
    points = range(one.num_scan_points)
    return np.array([one.get_A_at_scan_point(i) for i in points]).reshape(-1, 3, 3)


if __name__ == "__main__":
    names = {"dials_36": "dials.refine, 36°", "dials_3": "dials.refine, 3°"}
    print(f"\n  {'':20}{'turn, degrees':>15}{'a, %':>10}{'c, %':>10}")
    for key, (turn, a, c) in main(*sys.argv[1:]).items():
        print(f"  {names.get(key, 'nanobragg.refine'):20}{turn:15.4f}{a:10.4f}{c:10.4f}")
