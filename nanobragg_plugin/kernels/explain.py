"""Each step of `lattice_sum`, one by one, for a trace."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from torch import Tensor

from nanobragg_plugin import lattice, structure_factors
from nanobragg_plugin.kernels.lattice_sum import Scatterer, indices
from nanobragg_plugin.structure_factors import StructureFactors


def explain(
    show: Callable[..., None],
    s1_unit: Tensor,
    maps: Tensor,
    scatterer: Scatterer,
    amplitudes: StructureFactors,
    interpolate: bool,
) -> None:
    """Show hkl, nearest, F_cell, F_latt, its factors (parts) and the intensity of points [3, n] and
    maps [terms, 3, 4]: tensors [n, terms]."""
    dtype = amplitudes.Fhkl.dtype
    hkl, nearest = indices(s1_unit, maps)
    delta = tuple(x - x0 for x, x0 in zip(hkl, nearest))
    shape = (scatterer.ncells, scatterer.xtal_shape, scatterer.fudge, scatterer.metric, dtype)
    parts = lattice.factors(delta, *shape)
    f_cell = (
        structure_factors.interpolated(amplitudes, *hkl)
        if interpolate
        else structure_factors.nearest(amplitudes, *nearest)
    )
    show(
        "amplitudes",
        hkl=[axis.T for axis in hkl],
        nearest=[axis.T for axis in nearest],
        F_cell=f_cell.T,
        F_latt=prod(parts[1:], start=parts[0]).T,
        parts=[part.T for part in parts],
        intensity=(lattice.squared(delta, *shape) * f_cell.square()).T,
    )
