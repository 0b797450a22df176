"""The sparse kernel: only the samples and terms that can matter, within a stated tolerance.

`tolerance` is the largest error of a pixel, in expected photons. A pixel's photons are the mean,
over its samples and terms, of r_e^2 fluence spot_scale omega capture polar weight F_cell^2
F_latt^2 (captures sum to 1 over the sensor's layers): if every term that is left out is known to
have no more than the tolerance, the pixel lacks no more than that. Found in three stages, each
with the bound of `reach`: tiles of pixels that some term may light; pixels, if they have several
samples or their rays are kept; at each sample the leaves of a tree of terms (`tree`). What is kept
is the dense kernel's, gradients included.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from nanobragg_plugin.corrections import layer_depth
from nanobragg_plugin.geometry import lab_position, numbered_pixels, pixel_numbers, unit
from nanobragg_plugin.kernels import reach, summing
from nanobragg_plugin.kernels.compiled import exceeds
from nanobragg_plugin.kernels.lattice_sum import Scatterer, Terms, columns
from nanobragg_plugin.kernels.prepared import Prepared, Rays, Rough, Tiles, is_logarithm
from nanobragg_plugin.kernels.tree import Tree
from nanobragg_plugin.models import Layers, Panel

#: Pixels along a tile's edge.
TILE = 4
#: Share of the tiles from which on their pixels are not told from the others.
MOST = 0.6
#: Points that are tested, or pixels that are summed, at a time.
POINTS = 1 << 16
#: Pixels by which the kept share is estimated.
SAMPLED = 2000


class Bound:
    """What the bound of one image's crystal needs besides nodes and points."""

    def __init__(
        self, prepared: Prepared, scatterer: Scatterer, photons: float, compiled: bool = False
    ) -> None:
        """photons: r_e^2 fluence spot_scale; compiled: whether compiled code may be used."""
        self.exceeds = exceeds if compiled else reach.exceeds
        self.prepared, self.scatterer = prepared, scatterer
        #: The most that F_cell^2 F_latt^2 weight may lack, times what weighs it.
        self.allowed = prepared.options.tolerance / photons if photons > 0 else math.inf
        self._nodes: dict[int, tuple[Tree, dict[int, tuple[Tensor, Tensor, Tensor]]]] = {}
        strengths, strongest = prepared.bounds()
        fudge = scatterer.fudge.detach().float()
        if scatterer.xtal_shape.endswith("_star"):
            fudge = fudge * _least_stretch(scatterer).float()
        ncells = scatterer.ncells.detach().float()
        if scatterer.xtal_shape == "square":
            ncells = ncells.clamp(min=1) ** -2
        half = torch.tensor(len(strengths) // 2, dtype=torch.int32, device=strengths.device)
        self.tensors = strengths, half, strongest, scatterer.box, ncells, fudge

    def nodes(self, tree: Tree, level: int) -> tuple[Tensor, Tensor, Tensor]:
        """maps, spread and weight of a level as `reach.exceeds` takes them, for limits that are in
        units of `allowed`: made once."""
        # the tree is kept, so that its id stays its own
        _, known = self._nodes.setdefault(id(tree), (tree, {}))
        if level not in known:
            nodes = tree.levels[level]
            weight = nodes.weight.double() / self.allowed
            if is_logarithm(self.scatterer.xtal_shape):
                weight = (weight * self.scatterer.ncells.detach().prod() ** 2).log()
            known[level] = nodes.maps, nodes.spread, weight.float()
        return known[level]

    def may_matter(
        self, rough: Rough, tree: Tree, level: int, which: slice, extent: Tensor | None = None
    ) -> Tensor:
        """[nodes, n]: whether nodes of a level may matter at some points, or within `extent` [n]
        (float32) of them."""
        extent = torch.zeros_like(rough.limit) if extent is None else extent
        node = tuple(one[which] for one in self.nodes(tree, level))
        points, shape = (rough.s1_unit, extent, rough.limit), self.scatterer.xtal_shape
        return self.exceeds(points, node, self.tensors, tree.s0_unit, shape).view(torch.bool)


def _least_stretch(scatterer: Scatterer) -> Tensor:
    """The least of (Na Nb Nc |dr*|)^2 / |N dh|^2, which the `_star` shapes have in place of 1: an
    eigenvalue of the metric in units of N h."""
    ncells = scatterer.ncells.detach().double()
    metric = scatterer.metric.detach().double() / torch.outer(ncells, ncells)
    return torch.linalg.eigvalsh(metric)[0] * ncells.prod() ** 2


def walk(bound: Bound, tree: Tree, rough: Rough) -> Iterator[tuple[int, Tensor]]:
    """The leaves that may matter at some points, and the numbers of these points."""
    last = len(tree.levels) - 1
    first = slice(0, len(tree.levels[0].weight))
    waiting: list[tuple[int, slice, Tensor | None]] = [(0, first, None)]  # None: all points
    while waiting:
        level, which, at = waiting.pop()
        with torch.no_grad():
            found = bound.may_matter(rough if at is None else rough[at], tree, level, which)
        below = []
        for node, lit in enumerate(found, which.start):
            part = numbers_of(lit)  # one by one: faster than all at once
            part = part if at is None else at.index_select(0, part)
            if len(part) and level < last:
                below.append((level + 1, tree.children(level, node), part))
            elif len(part):
                yield node, part
        waiting += below[::-1]


def numbers_of(lit: Tensor) -> Tensor:
    """Where lit [n], bool, is true."""
    if lit.is_cpu:  # numpy is four times as fast as torch
        return torch.from_numpy(lit.numpy().nonzero()[0])
    return lit.nonzero().view(-1)


@dataclass(frozen=True)
class Leaves:
    """The leaves of a tree that may matter where they may, as `blocks.Parts`; rough: all points."""

    bound: Bound
    tree: Tree
    leaves: list[Terms]
    rough: Rough
    scatterer: Scatterer
    how: summing.How

    def value(self, s1_unit: Tensor, points: slice) -> Tensor:
        """See Parts."""
        some = s1_unit[:, points]
        total = torch.zeros(some.shape[1], dtype=some.dtype, device=some.device)
        for node, part in walk(self.bound, self.tree, self.rough[points]):
            one = summing.summed(columns(some, part), self.leaves[node], self.scatterer, self.how)
            total.index_add_(0, part, one)
        return total

    def pieces(self, s1_unit: Tensor) -> list[tuple[Tensor, Tensor]]:
        """See Parts."""
        numbers = self.tree.numbers()
        found = walk(self.bound, self.tree, self.rough)
        # a leaf may be nothing but places that do not count
        return [(numbers[node], points) for node, points in found if len(numbers[node])]


@torch.no_grad()
def kept_share(bound: Bound, trees: list[Tree], panels: tuple[Panel, ...]) -> float:
    """The share of steps that is kept, by a sample of the panels' pixels, masked ones too: so that
    a part of an image is simulated as all of it is."""
    kept, total = 0, 1
    for number, panel in enumerate(panels):
        slow, fast = panel.shape
        # a step that is a multiple of no row's length, or nearly
        step = max(1, round(slow * fast * len(panels) / SAMPLED * 0.987))
        flat = torch.arange(0, slow * fast, step, device=panel.origin.device)
        some = torch.stack([flat // fast, flat % fast], 1)
        rough, _ = patches(bound.prepared, number, some + 0.5, 1)
        for tree in trees:
            last = len(tree.levels) - 1
            leaves = slice(0, len(tree.levels[last].weight))
            found = bound.may_matter(rough, tree, last, leaves)
            kept, total = kept + int(found.sum()), total + found.numel()
    return kept / total


@torch.no_grad()
def candidates(
    prepared: Prepared,
    number: int,
    bound: Bound,
    trees: list[Tree],
    mask: Tensor | None,
    rays: Rays | None,
) -> Tensor | None:
    """Numbers [n] of the pixels of a panel that some term of the trees may light, in raster order
    within a tile; None: nearly all may be lit. rays: of all its pixels, where they are kept."""
    panel = prepared.panels[number]
    if panel.curved is not None:
        return None
    if number not in prepared.tiles:
        prepared.tiles[number] = _tiles(prepared, number, mask)
    tiles = prepared.tiles[number]
    lit = numbers_of(_lit(bound, trees, tiles.rough, tiles.extent))
    if len(lit) > MOST * len(tiles.first):
        return None
    pixels = (tiles.first[lit][:, None] + _within_tile(panel)).flatten()
    if tiles.counted is not None:
        pixels = pixels[tiles.counted[lit].flatten()]
    layers = prepared.options.layers_of(number)
    several = prepared.options.oversample > 1 or (layers is not None and len(layers.edges) > 2)
    if rays is None and not several:
        return pixels
    parts = []
    for some in pixels.split(POINTS):
        if rays is not None:
            lit = _lit(bound, trees, rays.rough[some])
        else:
            centres = numbered_pixels(panel, some) + 0.5
            lit = _lit(bound, trees, *patches(prepared, number, centres, 1))
        parts.append(some[numbers_of(lit)])
    return torch.cat(parts)


def _within_tile(panel: Panel) -> Tensor:
    """By how much the numbers of a tile's pixels [TILE^2] are above that of its first."""
    along = torch.arange(TILE, device=panel.origin.device)
    return (along[:, None] * panel.shape[1] + along).flatten()


def _lit(bound: Bound, trees: list[Tree], rough: Rough, extent: Tensor | None = None) -> Tensor:
    """[n] bool: which points, or patches, some term may light."""
    lit: Tensor | None = None
    for tree in trees:
        first = slice(0, len(tree.levels[0].weight))
        for one in bound.may_matter(rough, tree, 0, first, extent):
            lit = one if lit is None else lit | one
    return lit


def _tiles(prepared: Prepared, number: int, mask: Tensor | None) -> Tiles:
    """Those that have a pixel in the mask."""
    panel = prepared.panels[number]
    corners = torch.cartesian_prod(
        *(torch.arange(0, size, TILE, device=panel.origin.device) for size in panel.shape)
    )
    counted = None
    if mask is not None or panel.shape[0] % TILE or panel.shape[1] % TILE:
        good = torch.ones(panel.shape, dtype=torch.bool) if mask is None else mask
        below, beside = (-size % TILE for size in panel.shape)
        good = torch.nn.functional.pad(good.to(corners.device), (0, beside, 0, below))
        counted = good.unflatten(1, (-1, TILE)).unflatten(0, (-1, TILE)).transpose(1, 2)
        counted = counted.reshape(-1, TILE**2)
        some = numbers_of(counted.any(1))
        corners, counted = corners[some], counted[some]
    parts = [patches(prepared, number, one + TILE / 2, TILE) for one in corners.split(POINTS)]
    rough = Rough(
        torch.cat([part.s1_unit for part, _ in parts], 1),
        torch.cat([part.limit for part, _ in parts]),
    )
    first = pixel_numbers(panel, corners)
    return Tiles(first, counted, rough, torch.cat([extent for _, extent in parts]))


def patches(prepared: Prepared, number: int, centres: Tensor, size: int) -> tuple[Rough, Tensor]:
    """Of squares of `size` pixels about centres [n, 2] (slow, fast), in pixels: s1 of a middle
    sample and the most that a pixel's solid angle can be; and how far s1 of any other sample is
    from it [n], float32."""
    panel, options = prepared.panels[number], prepared.options
    surface = lab_position(panel, *(c.to(panel.origin.dtype) for c in centres.unbind(1)))
    low, high = _depths(options.layers_of(number), panel, surface)
    s1_unit, distance = unit(surface + ((low + high) / 2)[:, None] * panel.normal)
    # how far samples lie from this one along the panel, and along its normal
    samples = options.subpixel_centres
    width = size - 1 + samples[-1] - samples[0]
    across = torch.linalg.vector_norm(panel.pixel_size) / 2 * width
    along = (high - low) / 2
    nearest = distance - across - along  # no sample is nearer to the crystal
    sine = (1 - (s1_unit @ panel.normal) ** 2).clamp(min=0).sqrt() + across / nearest
    extent = (across + along * sine) / nearest
    # omega <= p^2 D'/R^3 <= p^2/R^2
    omega = nearest**-2 * (1e6 if options.point_pixel else panel.pixel_size.prod())
    near = nearest <= 0  # a patch as large as its distance: no bound
    extent, omega = (torch.where(near, torch.inf, value) for value in (extent, omega))
    return Rough.of(s1_unit.T, omega, prepared.xtal_shape), extent.float()


def _depths(layers: Layers | None, panel: Panel, surface: Tensor) -> tuple[Tensor, Tensor]:
    """The least and greatest depth [n], mm, at which the sensor below points [n, 3] is sampled,
    with a hundredth of its thickness to spare for what changes within a patch."""
    if layers is None:
        zero = torch.zeros(len(surface), dtype=surface.dtype, device=surface.device)
        return zero, zero
    cosine = unit(surface)[0] @ panel.normal
    spare = 0.01 * layers.edges[-1].to(surface.dtype)
    first = layer_depth(layers, 0, panel.mu, cosine)
    last = layer_depth(layers, len(layers.edges) - 2, panel.mu, cosine)
    return first - spare, last + spare
