"""`lattice_sum` of many points: compiled, or in pieces whose arrays are small."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nanobragg_plugin.kernels import compiled
from nanobragg_plugin.kernels.lattice_sum import Scatterer, Terms, is_dual, lattice_sum
from nanobragg_plugin.structure_factors import StructureFactors

#: torch adds up columns of an array in another order where they are not so many that they fill its
#: vector registers: with a multiple of these each is added up alike, whatever else is in the batch.
COLUMNS = 64


@dataclass(frozen=True)
class How:
    """compiled: whether compiled code may be used; interpolated: amplitudes to interpolate between
    instead of taking the nearest; batch_steps: steps in flight where it is not compiled."""

    compiled: bool
    interpolated: StructureFactors | None
    batch_steps: int


def summed(s1_unit: Tensor, terms: Terms, scatterer: Scatterer, how: How) -> Tensor:
    """The sum over terms [n] at points [3, n]."""
    run, n = None, s1_unit.shape[1]
    may = how.compiled and how.interpolated is None and n > 0 and not torch.is_grad_enabled()
    if may and not is_dual(s1_unit, terms.maps, terms.weight, *scatterer.tensors):
        dtypes = terms.maps.dtype, scatterer.squares.dtype
        run = compiled.lattice_sum_of(scatterer.xtal_shape, *dtypes).on(s1_unit.device)
    if run is None:
        fill = s1_unit[:, :1].expand(3, -n % COLUMNS)
        at_once = max(1, how.batch_steps // len(terms) // COLUMNS) * COLUMNS
        points = torch.cat([s1_unit, fill], 1).split(at_once, 1)
        parts = [lattice_sum(some, terms, scatterer, how.interpolated) for some in points]
        return torch.cat(parts)[:n]
    if len(terms) == 1:  # compiled code is for two and more
        again = torch.cat([terms.weight, torch.zeros_like(terms.weight)])
        terms = Terms(terms.maps.expand(2, 3, 4), again)
    points = s1_unit.expand(3, 2) if n == 1 else s1_unit
    # other strides, as of an expanded weight, would be compiled for again
    tensors = points, terms.maps, terms.weight
    return run(*(one.contiguous() for one in tensors), *scatterer.tensors)[:n]
