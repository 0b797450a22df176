"""The innermost sum: F_cell^2 F_latt^2 of points on the Ewald sphere over terms.

A term is a phi step, a mosaic domain and a source together: an affine map from the unit vector
s1 to hkl. Plain torch, run as it is or compiled (`compiled`). Tensors are [terms, points], so
that compiled code goes through the points with its vector registers and adds up terms.

hkl are computed and reduced to the distance from the nearest index in the type of the maps
(float64); what follows may be float32. The sum is kept in the type of the maps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.autograd import forward_ad

from nanobragg_plugin import lattice, structure_factors
from nanobragg_plugin.structure_factors import StructureFactors


@dataclass(frozen=True)
class Terms:
    """Affine maps and weights: hkl of term k at s1 is maps[k, :, :3] s1 + maps[k, :, 3].

    maps [terms, 3 (h k l), 4], index dtype; weight [terms], value dtype.
    """

    maps: Tensor
    weight: Tensor

    def __len__(self) -> int:
        return len(self.weight)

    def __getitem__(self, which: slice | Tensor) -> Terms:
        return Terms(self.maps[which], self.weight[which])

    def detach(self) -> Terms:
        """Without gradients."""
        return Terms(self.maps.detach(), self.weight.detach())


@dataclass(frozen=True)
class Scatterer:
    """The structure factors and the shape of the domains.

    squares [n]: F_cell^2, the box of StructureFactors laid flat; box [3, 3] int32: lowest index,
    highest index and stride along h, k, l; ncells [3], index dtype; fudge [], metric [3, 3] value
    and index dtype.
    """

    squares: Tensor
    box: Tensor
    ncells: Tensor
    fudge: Tensor
    metric: Tensor
    xtal_shape: str

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All but the shape's name, in their order."""
        return self.squares, self.box, self.ncells, self.fudge, self.metric

    def detach(self) -> Scatterer:
        """Without gradients."""
        return self.of(*(tensor.detach() for tensor in self.tensors))

    def of(self, *tensors: Tensor) -> Scatterer:
        """The same with other `tensors`."""
        return replace(self, **dict(zip(("squares", "box", "ncells", "fudge", "metric"), tensors)))


def terms_of(vectors: Tensor, direction: Tensor, wavelength: Tensor, weight: Tensor) -> Terms:
    """The terms of steps x domains x sources, sources innermost.

    vectors [steps, domains, 3 (a b c), 3 (x y z)] Angstrom; direction [3] or [sources, 3]: unit
    vectors along the beam; wavelength [sources] Angstrom; weight [sources]. h of q is the product
    of a with q = (s1 - s0)/wavelength.
    """
    a = vectors.flatten(0, 1)[:, None] / wavelength[:, None, None]
    shift = -(a * direction.reshape(-1, 1, 3)).sum(-1, keepdim=True)
    maps = torch.cat([a, shift], -1).flatten(0, 1)
    return Terms(maps, weight.expand(len(a), -1).flatten())


def flat_table(amplitudes: StructureFactors) -> tuple[Tensor, Tensor]:
    """`Scatterer.squares` and `Scatterer.box` of amplitudes in value dtype."""
    sizes, low = amplitudes.Fhkl.shape, amplitudes.hkl_min
    rows = [
        [first - 1 for first in low],
        [first + size - 2 for first, size in zip(low, sizes)],
        [sizes[1] * sizes[2], sizes[2], 1],
    ]
    device = amplitudes.Fhkl.device
    box = torch.tensor(rows, dtype=torch.int32, device=device)
    return amplitudes.Fhkl.reshape(-1).square(), box


def is_dual(*tensors: Tensor) -> bool:
    """Whether some carry tangents, of torch's forward mode."""
    return any(forward_ad.unpack_dual(one).tangent is not None for one in tensors)


def columns(s1_unit: Tensor, which: slice | Tensor) -> Tensor:
    """Those of [3, n], contiguous; numbers twice as fast as torch's selection on a CPU."""
    if isinstance(which, slice):
        return s1_unit[:, which].contiguous()
    if torch.is_grad_enabled() or is_dual(s1_unit):
        return s1_unit.index_select(1, which)
    found = torch.empty(3, len(which), dtype=s1_unit.dtype, device=s1_unit.device)
    for axis in range(3):
        torch.index_select(s1_unit[axis], 0, which, out=found[axis])
    return found


def indices(s1_unit: Tensor, maps: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """hkl and the nearest h0 k0 l0 of points [3, n] for maps [terms, 3, 4]: each [terms, n].

    ceil(h - 1/2) is nanoBragg.c's nearest index, which takes a half downwards.
    """
    x, y, z = s1_unit
    hkl = []
    for axis in range(3):
        a, b, c, shift = maps[:, axis, :, None].unbind(1)
        hkl.append(shift + a * x + b * y + c * z)
    return hkl, [torch.ceil(index.detach() - 0.5) for index in hkl]


def flat_index(nearest: list[Tensor], box: Tensor) -> Tensor:
    """Where in `Scatterer.squares` reflections stand, int32: outside the box in its outer layer.

    As integers, which have no NaN to look after: what is not a number becomes the lowest.
    """
    low, high, stride = box
    flat = 0
    for axis, index in enumerate(nearest):
        # exact in float32 below 2^24, and beyond it outside any box
        index = index.to(torch.float32).to(torch.int32)
        index = torch.minimum(torch.maximum(index, low[axis]), high[axis])
        flat = flat + (index - low[axis]) * stride[axis]
    return flat


def lattice_sum(
    s1_unit: Tensor,
    terms: Terms,
    scatterer: Scatterer,
    amplitudes: StructureFactors | None = None,
) -> Tensor:
    """The sum over terms [n] at points [3, n]: weight F_cell^2 F_latt^2, F_cell of the nearest
    reflection, or interpolated between the `amplitudes`."""
    hkl, nearest = indices(s1_unit, terms.maps)
    f_latt_sqr = lattice.squared(
        tuple(x - x0 for x, x0 in zip(hkl, nearest)),
        scatterer.ncells,
        scatterer.xtal_shape,
        scatterer.fudge,
        scatterer.metric,
        scatterer.squares.dtype,
    )
    if amplitudes is None:
        f_cell_sqr = scatterer.squares[flat_index(nearest, scatterer.box)]
    else:
        f_cell_sqr = structure_factors.interpolated(amplitudes, *hkl).square()
    weighted = f_latt_sqr * f_cell_sqr * terms.weight[:, None]
    return weighted.sum(0, dtype=terms.maps.dtype)
