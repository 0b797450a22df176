"""Which amplitudes are refined, by cctbx's symmetry, and the MTZ file of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from cctbx import crystal, miller
from cctbx.array_family import flex
from libtbx.utils import Sorry
from torch import Tensor

from nanobragg_plugin.structure_factors import StructureFactors, nearest


@dataclass(frozen=True)
class Chosen:
    """symmetry: cctbx's; hkl [n, 3]: unique indices in its asymmetric unit; factors: the table that
    holds all their equivalents; which: of each element of it which of hkl it is equivalent to, or
    -1; start [n], electrons."""

    symmetry: crystal.symmetry
    anomalous: bool
    hkl: Tensor
    factors: StructureFactors
    which: Tensor
    start: Tensor

    def of(self, indices: np.ndarray) -> np.ndarray:
        """[m]: which of hkl indices [m, 3] are equivalent to, -1: none."""
        unique = miller_set(self.symmetry, self.anomalous, indices).map_to_asu().indices()
        number = {tuple(one): n for n, one in enumerate(self.hkl.tolist())}
        return np.array([number.get(tuple(one), -1) for one in unique], dtype=int)


def miller_set(symmetry: Any, anomalous: bool, indices: np.ndarray) -> miller.set:
    """Of indices [n, 3]."""
    made = flex.miller_index([tuple(map(int, one)) for one in indices])
    return miller.set(symmetry, made, anomalous_flag=anomalous)


def choose(
    model: Any, indices: np.ndarray, factors: StructureFactors, anomalous: bool, d_min: float | None
) -> Chosen:
    """Those of reflections [n, 3] of a dxtbx crystal, by its space group; anomalous: mates of
    Friedel are two; d_min: Angstrom, those beyond stay as they are. factors: all amplitudes at the
    start."""
    symmetry = crystal.symmetry(model.get_unit_cell(), space_group=model.get_space_group())
    unique = miller_set(symmetry, anomalous, indices).map_to_asu().unique_under_symmetry()
    unique = unique.remove_systematic_absences().resolution_filter(d_min=d_min or 0)
    if unique.size() == 0:
        raise Sorry("refine.parameters amplitudes: no reflection is left to refine")
    groups = [
        [tuple(one.h()) for one in miller.sym_equiv_indices(symmetry.space_group(), h).indices()]
        for h in unique.indices()
    ]
    if not anomalous:
        groups = [[*some, *(tuple(-i for i in h) for h in some)] for some in groups]
    every = np.array([h for some in groups for h in some])
    of = np.repeat(np.arange(len(groups)), [len(some) for some in groups])
    factors = _holding(factors, every)
    which = torch.full(factors.Fhkl.shape, -1, dtype=torch.int64)
    i, j, k = torch.from_numpy(every - np.array(factors.hkl_min) + 1).T
    which[i, j, k] = torch.from_numpy(of)
    hkl = torch.tensor(list(unique.indices()), dtype=torch.int64)
    start = nearest(factors, *hkl.T).double()
    return Chosen(symmetry, anomalous, hkl, factors, which, start)


def _holding(factors: StructureFactors, indices: np.ndarray) -> StructureFactors:
    """The same amplitudes in a box that holds indices [n, 3]."""
    low = np.minimum(indices.min(0), factors.hkl_min)
    shape = np.array(factors.Fhkl.shape)
    last = np.maximum(indices.max(0), np.array(factors.hkl_min) + shape - 3)
    box = factors.Fhkl.new_full(tuple((last - low + 3).tolist()), factors.default_F)
    first = np.array(factors.hkl_min) - low + 1
    inner = tuple(slice(int(a), int(a) + int(n) - 2) for a, n in zip(first, shape))
    box[inner] = factors.Fhkl[1:-1, 1:-1, 1:-1]
    return StructureFactors(box, tuple(low.tolist()), factors.default_F)


def write_mtz(path: str, chosen: Chosen, values: np.ndarray, sigmas: np.ndarray) -> int:
    """F [n] and SIGF [n], electrons, of those whose sigma is finite; how many."""
    known = np.isfinite(sigmas) & (sigmas > 0)
    array = miller_set(chosen.symmetry, chosen.anomalous, chosen.hkl.numpy()[known]).array(
        data=flex.double(np.abs(values[known])), sigmas=flex.double(sigmas[known])
    )
    dataset = array.set_observation_type_xray_amplitude().as_mtz_dataset(column_root_label="F")
    try:
        dataset.mtz_object().write(path)
    except RuntimeError as error:  # which does not say why
        raise Sorry(f"{path} cannot be written ({error}): is the disk full?") from error
    return int(known.sum())
