"""Terms sorted into a tree of nodes that are alike, so that many can be ruled out at once.

A node is a run of terms of similar maps. hkl of each of its terms at s1, within `extent` of a point
p, differ from the mean map's at p along each axis by no more than

    spread[0] (|p - s0| + extent) + spread[1] + spread[2] extent

with spread[0] the largest |w - w'| of a row w of the maps against the mean w', spread[1] the
largest difference of hkl at s1 = s0, and spread[2] = |w'|: the triangle inequality.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from nanobragg_plugin.kernels.lattice_sum import Terms

#: Terms in a leaf, at most, and in the only one; halvings from a level of the tree to the next.
LEAF, ONLY, HALVINGS = 16, 8, 4
#: Halvings that are done at once, without a test of the root.
FEW = 2


@dataclass(frozen=True)
class Level:
    """Nodes of equal size, in float32: maps [nodes, 3, 4], the mean; spread [nodes, 3 (h k l), 3];
    weight [nodes], the largest."""

    maps: Tensor
    spread: Tensor
    weight: Tensor


@dataclass(frozen=True)
class Tree:
    """levels: from the root, or its few children, to the leaves; order [leaves x leaf size]:
    numbers of the terms, of which some stand there twice; counted: whether a place counts (with
    weight 0 otherwise); s0_unit [3], float32."""

    levels: tuple[Level, ...]
    order: Tensor
    counted: Tensor
    s0_unit: Tensor

    def leaves(self, terms: Terms) -> list[Terms]:
        """The terms leaf by leaf."""
        size = len(self.order) // len(self.levels[-1].weight)
        weight = terms.weight[self.order] * self.counted.to(terms.weight.dtype)
        parts = zip(terms.maps[self.order].split(size), weight.split(size))
        return [Terms(maps, weight) for maps, weight in parts]

    def numbers(self) -> list[Tensor]:
        """Those of the terms of each leaf, each term once."""
        size = len(self.order) // len(self.levels[-1].weight)
        parts = zip(self.order.split(size), self.counted.split(size))
        return [numbers[counted] for numbers, counted in parts]

    def children(self, level: int, node: int) -> slice:
        """The nodes of the next level below a node."""
        fan = len(self.levels[level + 1].weight) // len(self.levels[level].weight)
        return slice(node * fan, (node + 1) * fan)


@torch.no_grad()
def tree_of(terms: Terms, s0_unit: Tensor) -> Tree:
    """The tree of terms that are lit from about s0 [3]."""
    maps = terms.maps.detach()
    halvings = max(int(len(terms) > ONLY), math.ceil(math.log2(len(terms) / LEAF)))
    size = math.ceil(len(terms) / 2**halvings)
    places = torch.arange(size * 2**halvings, device=maps.device)
    order, counted = places.clamp(max=len(terms) - 1), places < len(terms)
    features = torch.cat([maps[..., :3], _at(maps, s0_unit)[..., None]], -1).flatten(1)
    for level in range(halvings):
        values = features[order].reshape(2**level, -1, 12)
        widest = (values.amax(1) - values.amin(1)).argmax(-1)
        key = values.gather(2, widest[:, None, None].expand(-1, values.shape[1], 1))[..., 0]
        within = key.argsort(dim=1, stable=True)
        order = order.reshape(2**level, -1).gather(1, within).flatten()
        counted = counted.reshape(2**level, -1).gather(1, within).flatten()
    depths = [*range(halvings, 0, -HALVINGS)]
    if not depths or depths[-1] > FEW:
        depths.append(0)
    levels = [_level(maps[order], terms.weight.detach()[order], d, s0_unit) for d in depths[::-1]]
    return Tree(tuple(levels), order, counted, s0_unit.detach().float())


def _at(maps: Tensor, s0_unit: Tensor) -> Tensor:
    """hkl of each map [..., 3] at s1 = s0: 0 but for sources of other directions."""
    return (maps[..., :3] * s0_unit).sum(-1) + maps[..., 3]


def _level(maps: Tensor, weight: Tensor, halvings: int, s0_unit: Tensor) -> Level:
    maps = maps.unflatten(0, (2**halvings, -1))
    mean = maps.mean(1)
    away = maps - mean[:, None]
    spread = torch.stack(
        [
            torch.linalg.vector_norm(away[..., :3], dim=-1).amax(1),
            _at(away, s0_unit).abs().amax(1),
            torch.linalg.vector_norm(mean[..., :3], dim=-1),
        ],
        -1,
    )
    return Level(
        mean.float(), spread.float(), weight.unflatten(0, (2**halvings, -1)).amax(1).float()
    )
