"""Models and intensities that processing found, against those that were simulated."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from libtbx.utils import Sorry

from nanobragg_plugin.adapters.merged import common_intensities

#: How far from whole numbers the matrix between two indexings of one lattice may be.
SAME_LATTICE = 0.05


@dataclass(frozen=True)
class CrystalComparison:
    """Found against true. reindex [3, 3]: h_found = reindex h_true; misorientation_deg; cell
    [6]: the found cell in the true setting, Angstrom and degrees; cell_error_percent: the largest
    relative error of a cell length; angle_error_deg: the largest error of a cell angle."""

    reindex: np.ndarray
    misorientation_deg: float
    cell: tuple[float, ...]
    cell_error_percent: float
    angle_error_deg: float


def compare_crystals(true: Any, found: Any) -> CrystalComparison:
    """Two dxtbx crystals of the same laboratory frame, over all indexings of the lattice.

    A_found M = A_true has a matrix M of whole numbers if the lattices are one, whatever the
    choice of axes, the lattice's symmetry or the hand; `Sorry` if not.
    """
    a_true = np.array(true.get_A()).reshape(3, 3)
    a_found = np.array(found.get_A()).reshape(3, 3)
    exact = np.linalg.inv(a_found) @ a_true
    reindex = np.rint(exact).astype(int)
    if np.abs(exact - reindex).max() > SAME_LATTICE or abs(round(np.linalg.det(reindex))) != 1:
        raise Sorry(
            f"the lattice found, {found.get_unit_cell()}, is not that of the crystal simulated, "
            f"{true.get_unit_cell()}, in this orientation"
        )
    a_found = a_found @ reindex
    u_left, _, u_right = np.linalg.svd(a_found @ np.linalg.inv(a_true))
    rotation = u_left @ u_right
    sine = np.linalg.norm(rotation - rotation.T) / math.sqrt(8)
    cell, true_cell = (_cell(a) for a in (a_found, a_true))
    return CrystalComparison(
        reindex,
        math.degrees(math.asin(min(1.0, sine))),
        tuple(cell),
        float(100 * np.abs(cell[:3] / true_cell[:3] - 1).max()),
        float(np.abs(cell[3:] - true_cell[3:]).max()),
    )


def _cell(a_matrix: np.ndarray) -> np.ndarray:
    """a, b, c, alpha, beta, gamma (Angstrom, degrees) of columns a*, b*, c*."""
    real = np.linalg.inv(a_matrix)
    lengths = np.linalg.norm(real, axis=1)
    cosines = (real @ real.T) / np.outer(lengths, lengths)
    angles = [math.degrees(math.acos(cosines[i, j])) for i, j in ((1, 2), (0, 2), (0, 1))]
    return np.array([*lengths, *angles])


def geometry_errors(true: Any, found: Any) -> tuple[float, float]:
    """Errors of the distance, mm, and of the beam centre, pixels, of two dxtbx experiments' first
    panels."""
    panels = [experiment.detector[0] for experiment in (true, found)]
    beams = [experiment.beam.get_s0() for experiment in (true, found)]
    distances = [panel.get_distance() for panel in panels]
    centres = np.array([panel.get_beam_centre_px(s0) for panel, s0 in zip(panels, beams)])
    return abs(distances[0] - distances[1]), float(np.linalg.norm(centres[0] - centres[1]))


def rmsds(reflections: Any) -> tuple[float, float, float]:
    """Root mean square of calculated minus observed centroids (fast and slow pixels, images) of
    the reflections that were used in refinement."""
    used = reflections.select(reflections.get_flags(reflections.flags.used_in_refinement))
    difference = (used["xyzcal.px"] - used["xyzobs.px.value"]).as_numpy_array()
    return tuple(np.sqrt((difference**2).mean(axis=0)))


def intensity_correlation(
    reflections: Any, reindex: np.ndarray, true_amplitudes: Any
) -> tuple[float, int]:
    """Correlation of merged, scaled intensities with the true F^2, and the number of unique
    reflections. true_amplitudes: a cctbx Miller array; reindex as `CrystalComparison` has it."""
    found, true = common_intensities(reflections, reindex, true_amplitudes)
    return float(np.corrcoef(found, true)[0, 1]), len(found)
