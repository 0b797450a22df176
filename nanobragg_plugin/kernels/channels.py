"""What the derivatives of the sum over terms are made of: of every term at every point its value
and its slopes, which products of matrices then sum up."""

from __future__ import annotations

import torch
from torch import Tensor

from nanobragg_plugin import lattice_slopes
from nanobragg_plugin.kernels.lattice_sum import Scatterer, flat_index, indices

#: Rows of `channels`: the value, and where the slopes begin with respect to h k l, to Na Nb Nc, and
#: to fudge.
VALUE, DELTA, NCELLS, FUDGE = 0, 1, 4, 7


def channels(
    s1_unit: Tensor, maps: Tensor, scatterer: Scatterer, everything: bool, placed: bool
) -> tuple[Tensor, ...]:
    """Of every term at every point [3, n] F_cell^2 F_latt^2 and its slopes: [rows, terms, n] (but
    see `whole`), those of N and, where the shape has one, of fudge only if `everything`.

    If `placed`, two more [terms, n]: where in `Scatterer.squares` its reflection stands, int32, and
    F_latt^2, the slope with respect to what stands there.
    """
    hkl, nearest = indices(s1_unit, maps)
    slopes = lattice_slopes.squared(
        tuple(x - x0 for x, x0 in zip(hkl, nearest)),
        scatterer.ncells,
        scatterer.xtal_shape,
        scatterer.fudge,
        scatterer.squares.dtype,
    )
    place = flat_index(nearest, scatterer.box)
    strength = scatterer.squares[place]
    rows = [slopes.value, *slopes.delta]
    if everything:
        rows += [*slopes.ncells, *([] if slopes.fudge is None else [slopes.fudge])]
    rows = [row * strength for row in rows]
    made = (torch.stack(rows),) if s1_unit.is_cpu else tuple(rows)
    return (*made, place, slopes.value) if placed else made


def whole(made: tuple[Tensor, ...], placed: bool) -> tuple[Tensor, ...]:
    """What `channels` made, with its rows in one array: elsewhere than on a CPU the compiler makes
    code of a `stack` that evaluates all rows for each of them."""
    end = len(made) - 2 * placed
    rows = made[0] if end == 1 else torch.stack(made[:end])
    return (rows, *made[end:])
