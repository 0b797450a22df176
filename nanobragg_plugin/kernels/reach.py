"""Which nodes of terms can matter at which points: the bound of the sparse kernel.

A term whose F_cell^2 F_latt^2 weight is at most `limit` may be left out. Of all terms of a node
(`tree`), at all points within `extent` of one, hkl lie in a box. F_latt^2 is bounded there by
what it has at the box's least distance from a lattice point:

* square: the product of 1/max(sin^2(pi d), 1/N^2) over the axes, the grating's envelope;
* round: (ROUND_SCALE N^3)^2 min(1, 9 (1 + x^2)/x^6), x = pi sqrt(fudge sum (N d)^2), the envelope
  of its sphere;
* gauss, tophat: themselves, which fall with the distance; of the `_star` shapes the least stretch
  of reciprocal space is taken, as a factor of fudge.

F_cell^2 is that of the box's reflection, of it and its neighbours where the box reaches out of
its cell, or of the strongest of all where it reaches farther.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nanobragg_plugin.constants import GAUSS_WIDTH_SQR, ROUND_SCALE, TOPHAT_RADIUS_SQR
from nanobragg_plugin.kernels.lattice_sum import flat_index, indices

#: Rounding in float32 of hkl, in units of |w| = a/lambda: three products and three sums of terms
#: that are at most this large, half an ulp each.
ROUNDING = 8 * 2.0**-24


def exceeds(
    points: tuple[Tensor, Tensor, Tensor],
    node: tuple[Tensor, Tensor, Tensor],
    scatterer: tuple[Tensor, ...],
    s0_unit: Tensor,
    xtal_shape: str,
) -> Tensor:
    """Whether the bound exceeds the limit, [nodes, n], 1 or 0 as uint8, which compiled code writes
    faster than bool: if not, a node may be left out. What is not a number may not.

    In float32 all of it, s1_unit too. points: s1_unit [3, n]; extent [n]; limit [n]. node: maps
    [nodes, 3, 4], spread [nodes, 3, 3], weight [nodes] (`tree.Level`). scatterer: F_cell^2 and its
    bound one after the other [2 m], m [] int32, the strongest [] (`Prepared.bounds`), box, ncells
    [3] (of square 1/N^2 for N) and fudge []. s0_unit [3]. Of gauss strengths and limit are
    logarithms, weight is that of N^6 weight.
    """
    s1_unit, extent, limit = points
    maps, spread, weight = node
    strengths, half, strongest, box, ncells, fudge = scatterer
    hkl, nearest = indices(s1_unit, maps)
    x, y, z = (s1_unit[axis] - s0_unit[axis] for axis in range(3))
    from_s0 = (x * x + y * y + z * z).sqrt() + extent
    # floats rather than masks, and relu rather than max: what compilers of vectors are good at
    away, beyond, wide = [], torch.zeros_like(limit), torch.zeros_like(limit)
    for axis in range(3):
        delta = (hkl[axis] - nearest[axis]).abs()
        turned, shifted, slope = spread[:, axis, :, None].unbind(1)
        box_half = (turned * from_s0 + shifted + slope * extent) * 1.001 + slope * ROUNDING + 1e-6
        away.append(torch.relu(delta - box_half))
        beyond = beyond + torch.relu(delta + box_half - 0.5)
        wide = wide + torch.relu(box_half - 0.5)
    place = flat_index(nearest, box) + torch.where(beyond > 0, half, torch.zeros_like(half))
    strength = torch.where(wide > 0, strongest, strengths[place])
    if xtal_shape == "square":
        # NaN, which maximum would look after at some cost, comes through the other factors
        bottom = [torch.relu(_sine_sqr(d) - floor) + floor for d, floor in zip(away, ncells)]
        excess = strength * weight[:, None] - limit * bottom[0] * bottom[1] * bottom[2]
        return _above_0(excess)
    radius_sqr = sum((d * n) * (d * n) for d, n in zip(away, ncells)) * fudge
    n3 = ncells[0] * ncells[1] * ncells[2]
    if xtal_shape.startswith("gauss"):
        return _above_0(strength + weight[:, None] - limit - radius_sqr * (2 / GAUSS_WIDTH_SQR))
    if xtal_shape.startswith("tophat"):
        f_latt = torch.where(radius_sqr >= TOPHAT_RADIUS_SQR, torch.zeros_like(n3), n3)
    else:
        x_sqr = torch.maximum(math.pi**2 * radius_sqr, torch.ones_like(radius_sqr))
        envelope = (9 * (1 + x_sqr) / (x_sqr * x_sqr * x_sqr)).sqrt()
        f_latt = ROUND_SCALE * n3 * torch.minimum(envelope, torch.ones_like(envelope))
    return _above_0(strength * weight[:, None] * (f_latt * f_latt) - limit)


def _above_0(excess: Tensor) -> Tensor:
    no, yes = torch.zeros_like(excess), torch.ones_like(excess)
    return torch.where(excess <= 0, no, yes).to(torch.uint8)


def _sine_sqr(d: Tensor) -> Tensor:
    """At most sin^2(pi d) of d from 0 to 1/2: its series, cut after a negative term."""
    y = d * d
    series = math.pi**2 / 6 - y * (math.pi**4 / 120 - y * (math.pi**6 / 5040))
    sine = (math.pi * d) * (1 - y * series)
    return sine * sine
