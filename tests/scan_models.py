"""A sweep whose crystal turns and grows along the scan, for the tests of what varies along it."""

from __future__ import annotations

import nanobragg_plugin  # noqa: F401  isort: skip  before dxtbx

import numpy as np
from dials.array_family import flex
from dxtbx.model import (
    BeamFactory,
    Crystal,
    Detector,
    Experiment,
    ExperimentList,
    GoniometerFactory,
    ScanFactory,
)
from scipy.spatial.transform import Rotation
from simulate_helpers import simulate

CELL = (47.0, 47.0, 61.0, 90.0, 90.0, 90.0)
#: Domains of data and model are the same: this is about the statistics and the search.
KNOWN = (
    *("structure_factors.default_F=100", "crystal.Ncells_abc=9,9,9", "sampling.oversample=2"),
    *("crystal.mosaic.spread_deg=0.3", "crystal.mosaic.domains=20", "crystal.mosaic.seed=5"),
    *("beam.fluence=2e28", "sampling.phisteps=3", "sampling.subpixels=moments"),
)


def crystal(cell: tuple[float, ...] = CELL, turn_deg: tuple[float, ...] = (0, 0, 0)) -> Crystal:
    """In an orientation of no symmetry, turned in the laboratory."""
    made = Crystal((cell[0], 0, 0), (0, cell[1], 0), (0, 0, cell[2]), "P4")
    start = Rotation.from_euler("xyz", [10, 20, 30], degrees=True).as_matrix()
    turn = Rotation.from_rotvec(turn_deg, degrees=True).as_matrix()
    made.set_U(tuple((turn @ start).flatten()))
    return made


def drift(points: int) -> tuple[np.ndarray, np.ndarray]:
    """Turns [points, 3] degrees and cells [points, 6]: smooth, and no spline of ours."""
    t = np.linspace(0, 1, points)
    turns = np.stack([0.25 * t, 0.1 * np.sin(2.5 * t), 0.15 * t**2 - 0.05], -1)
    cells = np.tile(CELL, (points, 1))
    cells[:, :2] += 0.12 * t[:, None] ** 2
    cells[:, 2] -= 0.15 * t
    return turns, cells


def experiment(images: int = 12, width_deg: float = 0.7, first: int = 4) -> Experiment:
    """Static, on a panel of 125 x 112 pixels that is not square."""
    detector = Detector()
    panel = detector.add_panel()
    panel.set_local_frame((1, 0, 0), (0, -1, 0), (-19, 17, -80))
    panel.set_image_size((125, 112))
    panel.set_pixel_size((0.3, 0.3))
    panel.set_trusted_range((-1, 1e6))
    last = first + images - 1
    scan = ScanFactory.make_scan(
        (first, last), 0.1, (7.0, width_deg), dict.fromkeys(range(first, last + 1), 0.0)
    )
    beam = BeamFactory.make_beam(unit_s0=(0, 0, -1), wavelength=1.0)
    return Experiment(
        beam=beam,
        detector=detector,
        goniometer=GoniometerFactory.known_axis((1, 0, 0)),
        scan=scan,
        crystal=crystal(),
    )


def drifting(images: int = 12, width_deg: float = 0.7) -> Experiment:
    """The same, whose crystal varies."""
    made = experiment(images, width_deg)
    pairs = zip(*drift(images + 1))
    matrices = [crystal(tuple(cell), tuple(turn)).get_A() for turn, cell in pairs]
    made.crystal.set_A_at_scan_points(matrices)
    return made


def simulated(one: Experiment, *args: str, least: float = 150.0) -> None:
    """data.*, and start.expt, whose crystal is that of the middle of the scan (static) or of no
    drift, with start.refl."""
    ExperimentList([one]).as_file("true.expt")
    more = "background.level=2", "output.truth=True", "output.prefix=data", "noise.seed=11"
    simulate("true.expt", *KNOWN, *more, "mp.nproc=1", *args)
    table = flex.reflection_table.from_file("data.truth.refl")
    table.select(table["intensity.sum.value"] > least).as_file("start.refl")
    start = ExperimentList.from_file("data.expt")
    start[0].crystal.reset_scan_points()
    start.as_file("start.expt")
