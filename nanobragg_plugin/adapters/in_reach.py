"""Which reflections a cell has as far as the detector reaches, and what their d-spacings are."""

from __future__ import annotations

import math

import numpy as np
from cctbx import crystal, miller, sgtbx, uctbx

#: Reflections within reach up to which they are counted one by one for the log.
MOST_LISTED = 1_000_000


def possible(
    group: sgtbx.space_group_info, unit_cell: uctbx.unit_cell, d_min: float
) -> tuple[int, float]:
    """How many reflections, Friedel mates apart, have d >= d_min, and the least of their d; of
    very many the volume of their sphere over that of a reciprocal cell, not their list."""
    estimate = 4 / 3 * math.pi * unit_cell.volume() / d_min**3 / group.group().n_ltr()
    if estimate > MOST_LISTED:
        return int(estimate), d_min
    listed = p1_set(unit_cell, d_min)
    listed = listed.select(~group.group().is_sys_absent(listed.indices()))
    return listed.size(), listed.d_min() if listed.size() else d_min


def absent_indices(
    group: sgtbx.space_group_info, unit_cell: uctbx.unit_cell, d_min: float
) -> np.ndarray:
    """All indices ``[n, 3]`` with d >= d_min that the space group makes absent."""
    if group.group().order_z() == 1:
        return np.empty((0, 3), dtype=np.int64)  # P 1 has none
    everything = p1_set(unit_cell, d_min).indices()
    absent = everything.select(group.group().is_sys_absent(everything))
    return absent.as_vec3_double().as_numpy_array().reshape(-1, 3).astype(np.int64)


def p1_set(unit_cell: uctbx.unit_cell, d_min: float) -> miller.set:
    """Every reflection with d >= d_min Angstrom, Friedel mates apart."""
    symmetry = crystal.symmetry(unit_cell, space_group_symbol="P 1")
    return miller.build_set(symmetry, anomalous_flag=True, d_min=d_min)


def reach(unit_cell: uctbx.unit_cell, d_min: float) -> float:
    """The d-spacing, Angstrom, of the furthest reflection that can be nearest to a point at
    d_min: half a reciprocal cell further out."""
    return 1 / (1 / d_min + sum(unit_cell.reciprocal_parameters()[:3]) / 2)


def d_spacings(indices: np.ndarray, unit_cell: uctbx.unit_cell) -> np.ndarray:
    """d of each index ``[n, 3]``, Angstrom; infinite for (0, 0, 0)."""
    g = unit_cell.reciprocal_metrical_matrix()
    metric = np.array([[g[0], g[3], g[4]], [g[3], g[1], g[5]], [g[4], g[5], g[2]]])
    d_star_sq = np.einsum("ni,ij,nj->n", indices, metric, indices)
    with np.errstate(divide="ignore"):
        return 1 / np.sqrt(d_star_sq)
