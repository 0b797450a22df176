"""The amplitudes of the reflections as a dense box, and F_cell of the nearest reflection.

nanoBragg.c keeps its amplitudes in a box that spans the indices of its file; an index that the
file lacks, inside the box or outside, has the amplitude default_F (nanoBragg.c, reading of
-hkl, and "just take nearest-neighbor" in the loop over samples).  Here the box carries one layer
of default_F all round, so that an index is looked up by clamping it: no branch, no mask.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Most elements a box may have: 2e9 doubles are 16 GB.
MAX_BOX_ELEMENTS = 2_000_000_000


@dataclass(frozen=True)
class StructureFactors:
    """P1 amplitudes on a dense box of Miller indices.

    Fhkl: ``[h, k, l]``, real, electrons, with one layer of default_F all round.
    hkl_min: the index of ``Fhkl[1, 1, 1]``, so that the padded box starts one below it.
    default_F: electrons, the amplitude of every reflection that was not given.
    """

    Fhkl: Tensor
    hkl_min: tuple[int, int, int]
    default_F: float

    def to(
        self, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> StructureFactors:
        """The same amplitudes in another dtype or on another device; gradients go through."""
        Fhkl = self.Fhkl.to(
            dtype=dtype if dtype is not None else self.Fhkl.dtype,
            device=device if device is not None else self.Fhkl.device,
        )
        return StructureFactors(Fhkl, self.hkl_min, self.default_F)


def constant(
    default_F: float, dtype: torch.dtype = torch.float64, device: torch.device | str | None = None
) -> StructureFactors:
    """default_F (electrons) at every index: a box of nothing but its outer layer."""
    Fhkl = torch.full((2, 2, 2), float(default_F), dtype=dtype, device=device)
    return StructureFactors(Fhkl, (0, 0, 0), float(default_F))


def table(indices: Tensor, amplitudes: Tensor, default_F: float = 0.0) -> StructureFactors:
    """The box that holds `amplitudes` at `indices` and default_F everywhere else.

    indices: ``[n, 3]``, integers h k l, P1: symmetry and Friedel mates are already written out.
    amplitudes: ``[n]``, electrons; the box takes their dtype and device, gradients reach them.
    default_F: electrons.

    Raises ValueError for shapes that do not fit, an index given twice, or a box of more than
    MAX_BOX_ELEMENTS.  (nanoBragg.c lets the last of several equal indices win.)
    """
    _check_shapes(indices, amplitudes)
    if len(indices) == 0:
        return constant(default_F, amplitudes.dtype, amplitudes.device)
    indices = indices.to(device=amplitudes.device, dtype=torch.int64)
    low, high = (tuple(bound.tolist()) for bound in (indices.amin(0), indices.amax(0)))
    shape = tuple(top - bottom + 3 for bottom, top in zip(low, high))
    elements = shape[0] * shape[1] * shape[2]
    if elements > MAX_BOX_ELEMENTS:
        raise ValueError(
            f"the Miller indices from {low} to {high} span a box of {elements} amplitudes, more "
            f"than the {MAX_BOX_ELEMENTS} that fit: is one of them wrong?"
        )
    padded = indices - indices.amin(0) + 1
    flat = (padded[:, 0] * shape[1] + padded[:, 1]) * shape[2] + padded[:, 2]
    _refuse_duplicates(flat, indices)
    Fhkl = torch.full(
        (elements,), float(default_F), dtype=amplitudes.dtype, device=amplitudes.device
    )
    # In place, so that a large box exists once; autograd still follows it to the amplitudes.
    Fhkl.index_put_((flat,), amplitudes)
    return StructureFactors(Fhkl.reshape(shape), low, float(default_F))


def nearest(sf: StructureFactors, h0: Tensor, k0: Tensor, l0: Tensor) -> Tensor:
    """F_cell, electrons, of the reflections h0 k0 l0.

    h0, k0, l0: integer-valued tensors of one shape (or shapes that broadcast), of any float or
    integer dtype.  Returns that shape in the dtype of ``sf.Fhkl``, to which gradients flow.
    Outside the box, and where an index is NaN or infinite, it is default_F.
    """
    exact = torch.float64 if sf.Fhkl.numel() > 1 << 23 else torch.float32
    sizes = sf.Fhkl.shape
    rows = [
        _padded_index(index, low, size).to(exact)
        for index, low, size in zip((h0, k0, l0), sf.hkl_min, sizes)
    ]
    # in floating point, which is exact below 2^24 or 2^53: half the passes over the data
    flat = (rows[0] * sizes[1] + rows[1]) * sizes[2] + rows[2]
    # a NaN stays NaN so far, and the box's first element is default_F
    flat = flat.nan_to_num(nan=0.0).to(torch.int64)
    return torch.take(sf.Fhkl, flat)  # 3 times as fast on a CPU as indexing


def interpolated(sf: StructureFactors, h: Tensor, k: Tensor, l: Tensor) -> Tensor:
    """F_cell, electrons, between the reflections: a cubic polynomial along each axis.

    h, k, l: fractional indices, float tensors of one shape.  The polynomials go through the
    amplitudes at floor - 1 ... floor + 2 (nanoBragg.c, `polin3`), wherever every index is two or
    more within the box that was given (its own condition); elsewhere, and where an index is
    NaN, the nearest reflection is taken.  (nanoBragg.c instead ceases to interpolate for the rest
    of the run.)  Returns that shape in the dtype of ``sf.Fhkl``; gradients flow to it and, where
    it is interpolated, to h, k and l.
    """
    rounded = nearest(sf, *(torch.ceil(index.detach() - 0.5) for index in (h, k, l)))
    sizes = sf.Fhkl.shape
    if min(sizes) < 7:  # fewer than five indices along an axis
        return rounded
    inside = torch.ones_like(h, dtype=torch.bool)
    for index, low, size in zip((h, k, l), sf.hkl_min, sizes):
        inside = inside & (index >= low + 2) & (index <= low + size - 5)
    weights, corner = [], torch.zeros_like(h, dtype=torch.int64)
    for index, low, size in zip((h, k, l), sf.hkl_min, sizes):
        index = torch.where(inside, index, torch.full_like(index, low))
        below = index.detach().floor()
        weights.append(_cubic_weights((index - below).to(sf.Fhkl.dtype)))
        # of floor - 1 in the padded box; an integer, as floats end at 2^24 or 2^53
        corner = corner * size + (below - low).to(torch.int64)
    total = torch.zeros_like(rounded)
    for i, of_h in enumerate(weights[0]):
        plane = torch.zeros_like(total)
        for j, of_k in enumerate(weights[1]):
            row = corner + (i * sizes[1] + j) * sizes[2]
            line = sum(torch.take(sf.Fhkl, row + m) * of_l for m, of_l in enumerate(weights[2]))
            plane = plane + line * of_k
        total = total + plane * of_h
    return torch.where(inside, total, rounded)


def _cubic_weights(t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of the values at -1, 0, 1 and 2 in the cubic polynomial through them, at t (Lagrange)."""
    before, after, last = t + 1, t - 1, t - 2
    outer, inner = t * after / 6, before * last / 2
    return -outer * last, inner * after, -inner * t, outer * before


def _padded_index(index: Tensor, low: int, size: int) -> Tensor:
    """Where along one axis of the padded box an index stands, the outer layer if outside it."""
    if not index.is_floating_point() or index.dtype in (torch.float16, torch.bfloat16):
        index = index.to(torch.float64)
    return index.clamp(low - 1, low + size - 2) - (low - 1)


def _check_shapes(indices: Tensor, amplitudes: Tensor) -> None:
    """ValueError unless indices is an integer ``[n, 3]`` and amplitudes a real ``[n]``."""
    if indices.ndim != 2 or indices.shape[1] != 3 or indices.dtype.is_floating_point:
        raise ValueError(
            f"Miller indices must be integers of shape [n, 3], not {indices.dtype} "
            f"{list(indices.shape)}"
        )
    if amplitudes.shape != indices.shape[:1] or not amplitudes.dtype.is_floating_point:
        raise ValueError(
            f"amplitudes must be real and of shape [{len(indices)}], one an index, not "
            f"{amplitudes.dtype} {list(amplitudes.shape)}"
        )


def _refuse_duplicates(flat: Tensor, indices: Tensor) -> None:
    """ValueError naming the first index that was given more than once."""
    ordered, order = flat.sort()
    twice = (ordered[1:] == ordered[:-1]).nonzero()
    if len(twice):
        h, k, l = indices[order[twice[0, 0]]].tolist()
        raise ValueError(f"the reflection ({h}, {k}, {l}) was given more than once")
