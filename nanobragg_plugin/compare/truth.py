"""The crystal that processing found, against the one that was simulated."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from libtbx.utils import Sorry

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


def rmsds(reflections: Any) -> tuple[float, float, float]:
    """Root mean square of calculated minus observed centroids (fast and slow pixels, images) of
    the reflections that were used in refinement."""
    used = reflections.select(reflections.get_flags(reflections.flags.used_in_refinement))
    difference = (used["xyzcal.px"] - used["xyzobs.px.value"]).as_numpy_array()
    return tuple(np.sqrt((difference**2).mean(axis=0)))
