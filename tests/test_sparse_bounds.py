"""What the sparse kernel rests on, by brute force: the tree of terms, the bound, the patches.

A bound is held to all that it bounds at random: every term of a node, at points within its
extent; every sample of a patch of pixels.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sparse_models import Case, build, tensor

from nanobragg_plugin.corrections import seen_plane, solid_angle
from nanobragg_plugin.geometry import subpixel_offsets
from nanobragg_plugin.kernels import reach, sparse, tree
from nanobragg_plugin.kernels.batches import simulated_pixels
from nanobragg_plugin.kernels.dense import Kernel
from nanobragg_plugin.kernels.lattice_sum import Terms, indices, lattice_sum
from nanobragg_plugin.kernels.prepared import Rough
from nanobragg_plugin.kernels.samples import layer_count, sample_of
from nanobragg_plugin.models import XTAL_SHAPES

SEEDS = st.integers(0, 10**6)


def some_terms(seed: int, count: int) -> tuple[Terms, torch.Tensor]:
    """Of maps that differ a little, of sources around s0."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int):
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    s0_unit = normal(3)
    s0_unit = s0_unit / s0_unit.norm()
    a = 40 * normal(3, 3) + normal(count, 3, 3) * 10 ** float(normal(1))
    shift = -(a @ (s0_unit + 0.01 * normal(count, 1, 3)).transpose(1, 2))
    return Terms(torch.cat([a, shift], 2), normal(count).abs()), s0_unit


def points_near(seed: int, s1_unit: torch.Tensor, extent: torch.Tensor) -> torch.Tensor:
    """Unit vectors [3, n], each within `extent` [n] of its own of s1."""
    draw = torch.Generator().manual_seed(seed)
    away = torch.randn(*s1_unit.shape, generator=draw, dtype=torch.float64)
    away = away - (away * s1_unit).sum(0) * s1_unit  # a tangent: turned less far than it is long
    length = extent * torch.rand(len(extent), generator=draw, dtype=torch.float64) ** 0.2
    moved = s1_unit + length * away / away.norm(dim=0)
    return moved / moved.norm(dim=0)


# ---- the tree


@settings(max_examples=60)
@given(seed=SEEDS, count=st.integers(1, 300))
def test_every_term_is_in_one_leaf(seed, count):
    """Once; and with its own weight, whatever else a leaf is filled up with."""
    terms, s0_unit = some_terms(seed, count)
    found = tree.tree_of(terms, s0_unit)
    assert found.order[found.counted].sort().values.tolist() == list(range(count))
    leaves = found.leaves(terms)
    assert {len(leaf) for leaf in leaves} == {len(found.order) // len(leaves)}
    assert len(leaves[0]) <= tree.LEAF
    together = Terms(*(torch.cat([getattr(x, n) for x in leaves]) for n in ("maps", "weight")))
    kept = together.weight > 0
    assert together.weight[kept].sum().item() == pytest.approx(terms.weight.sum().item(), rel=1e-13)
    assert sorted(together.maps[kept][:, 0, 0].tolist()) == sorted(terms.maps[:, 0, 0].tolist())
    # children: all nodes of the next level, each below one
    assert len(found.levels[0].weight) <= 2**tree.FEW
    for level, (above, below) in enumerate(zip(found.levels, found.levels[1:])):
        slices = [found.children(level, node) for node in range(len(above.weight))]
        numbers = [number for one in slices for number in range(one.start, one.stop)]
        assert numbers == list(range(len(below.weight)))


@settings(max_examples=60)
@given(seed=SEEDS, count=st.integers(1, 150), size=st.sampled_from((0.0, 1e-3, 0.1)))
def test_the_spread_of_a_node(seed, count, size):
    """hkl of its terms, at points within an extent, against the mean map's at the point itself."""
    terms, s0_unit = some_terms(seed, count)
    found = tree.tree_of(terms, s0_unit)
    draw = torch.Generator().manual_seed(seed)
    s1_unit = s0_unit[:, None] + 10.0 ** torch.linspace(-6, 0, 12).double() * torch.randn(
        3, 12, generator=draw, dtype=torch.float64
    )
    s1_unit = s1_unit / s1_unit.norm(dim=0)
    extent = size * torch.rand(12, generator=draw, dtype=torch.float64)
    moved = points_near(seed, s1_unit, extent)
    from_s0 = (s1_unit - s0_unit[:, None]).norm(dim=0) + extent
    for level in found.levels:
        members = found.order.reshape(len(level.weight), -1)
        for node, numbers in enumerate(members):
            mean = torch.stack(
                indices(s1_unit, level.maps[node : node + 1].double())[0]
            )  # [3, 1, n]
            each = torch.stack(indices(moved, terms.maps[numbers])[0])  # [3, terms, n]
            turned, shifted, slope = level.spread[node].double().unbind(1)
            most = turned[:, None] * from_s0 + shifted[:, None] + slope[:, None] * extent
            # the tree is in float32, and `reach` spares something for that
            slack = 1e-3 * most + reach.ROUNDING * slope[:, None] + 1e-6
            assert ((each - mean).abs().amax(1) <= most + slack).all()
            assert level.weight[node] >= terms.weight[numbers].max() * (1 - 1e-7)


# ---- the bound


@settings(max_examples=40)
@given(
    shape=st.sampled_from(XTAL_SHAPES),
    seed=SEEDS,
    edges=st.sampled_from(((3.0, 9.0), (30.0, 80.0), (200.0, 1000.0))),
    ncells=st.sampled_from(((0.5, 2.0), (3.0, 23.0), (60.0, 300.0))),
    size=st.sampled_from((0.0, 1e-4, 1e-2, 0.3)),
    limit=st.sampled_from((1e-9, 1e-6, 1e-3, 0.1)),
)
def test_no_term_that_is_left_out_matters(shape, seed, edges, ncells, size, limit):
    """Wherever a node may be left out, every term of it has at most the limit (in units of the
    strongest reflection's peak), at every point within the extent. Double precision: F_latt^2 of
    the terms one by one."""
    case = Case(seed=seed, xtal_shape=shape, edges=edges, ncells=ncells, domains=4, sources=3)
    model = build(replace(case, options={"tolerance": 1.0}))
    kernel = Kernel(*model)
    bound = sparse.Bound(kernel.prepared, kernel.scatterer, kernel.photons)
    draw = torch.Generator().manual_seed(seed)
    pixels = simulated_pixels(model[0].panels[0])
    pixels = pixels[torch.randint(len(pixels), (60,), generator=draw)]
    sample = sample_of(kernel.prepared.panels[0], pixels, (0.5, 0.5), None, 0)
    s1_unit = sample.s1_unit.T.contiguous()
    extent = size * torch.rand(60, generator=draw, dtype=torch.float64)
    most = float(kernel.scatterer.squares.max() * kernel.ncells.prod() ** 2)
    rough = Rough.of(s1_unit, torch.full((60,), bound.allowed / (limit * most)), shape)
    moved = [s1_unit] + [points_near(seed + k, s1_unit, extent.float().double()) for k in range(4)]
    incidences = [one for group in kernel._groups(alone=False) for one in group]
    for incidence, found in zip(incidences, kernel.trees()):
        terms = kernel.known.terms(incidence, kernel.abc)
        true = torch.stack(
            [
                torch.stack([lattice_sum(p, terms[k : k + 1], kernel.scatterer) for p in moved])
                for k in range(len(terms))
            ]
        ).amax(1)  # [terms, n], the largest of the moved points
        for number, level in enumerate(found.levels):
            every = slice(0, len(level.weight))
            may = bound.may_matter(rough, found, number, every, extent.float())
            members = found.order.reshape(len(level.weight), -1)
            largest = torch.stack([true[numbers].amax(0) for numbers in members])
            assert (largest[~may] <= limit * most * (1 + 1e-5)).all()


@pytest.mark.parametrize("shape", XTAL_SHAPES)
def test_the_bound_leaves_out_what_is_far_from_spots(shape):
    """It is no bound that keeps everything: of the terms at points, most of those that lie far
    below the limit are left out, as leaves of few terms."""
    case = Case(seed=5, xtal_shape=shape, ncells=(60, 90), domains=4)
    kernel = Kernel(*build(replace(case, options={"tolerance": 1.0})))
    bound = sparse.Bound(kernel.prepared, kernel.scatterer, kernel.photons)
    sample = sample_of(
        kernel.prepared.panels[0],
        simulated_pixels(kernel.experiment.panels[0]),
        (0.5, 0.5),
        None,
        0,
    )
    s1_unit = sample.s1_unit.T.contiguous()
    n = s1_unit.shape[1]
    limit = 1e-6 * float(kernel.scatterer.squares.max() * kernel.ncells.prod() ** 2)
    rough = Rough.of(s1_unit, torch.full((n,), bound.allowed / limit), shape)
    for found in kernel.trees():
        leaves = found.levels[-1]
        may = bound.may_matter(rough, found, len(found.levels) - 1, slice(0, len(leaves.weight)))
        assert may.double().mean() < (0.5 if shape in ("square", "round") else 0.05)


# ---- patches of pixels


@settings(max_examples=40)
@given(
    seed=SEEDS,
    layers=st.integers(0, 3),
    sampling=st.sampled_from(("absorption", "midpoint", "start")),
    oversample=st.integers(1, 3),
    size=st.sampled_from((1, 4)),
    near=st.sampled_from((1.0, 0.1, 0.01)),
    point_pixel=st.booleans(),
)
def test_a_patch_holds_its_samples(seed, layers, sampling, oversample, size, near, point_pixel):
    """s1 of all sub-pixels, layers and pixels within the extent, their solid angles within the
    most: of panels that are far away, close to the crystal, and at its elbow."""
    case = Case(seed=seed, layers=layers, panels=1, image_size=(9, 7))
    experiment, exposure, table, options = build(case)
    panel = experiment.panels[0]
    middle = panel.origin + 4.5 * panel.pixel_size[0] * panel.fast
    panel = replace(
        panel, origin=panel.origin - (1 - near) * (middle @ panel.normal) * panel.normal
    )
    made = options.layers and tuple(replace(one, sampling=sampling) for one in options.layers)
    subpixels = "moments" if seed % 2 else "centres"
    given = {"oversample": oversample, "point_pixel": point_pixel, "subpixels": subpixels}
    options = replace(options, layers=made, **given)
    kernel = Kernel(replace(experiment, panels=(panel,)), exposure, table, options)
    pixels = simulated_pixels(panel)
    first = torch.div(pixels, size, rounding_mode="floor") * size
    rough, extent = sparse.patches(kernel.prepared, 0, first + size / 2, size)
    own = options.layers_of(0)
    for layer in range(layer_count(own)):
        for offset in subpixel_offsets(options):
            sample = sample_of(kernel.prepared.panels[0], pixels, offset, own, layer)
            plane = seen_plane(panel, own, sample.distance, sample.cosine)
            seen = solid_angle(panel, sample.distance, plane, point_pixel)
            away = (sample.s1_unit.T - rough.s1_unit).norm(dim=0)
            assert (away <= extent * (1 + 1e-6) + 1e-7).all()  # s1 of the patch is float32
            assert (seen * rough.limit <= 1 + 1e-6).all()  # the limit too


def test_a_patch_about_the_crystal_has_no_bound():
    """Of a pixel as large as its distance: everything within it may matter."""
    model = build(Case(seed=1, panels=1, xtal_shape="square"))
    panel = model[0].panels[0]
    large = replace(panel, pixel_size=tensor([90.0, 90.0]))
    kernel = Kernel(replace(model[0], panels=(large,)), *model[1:])
    rough, extent = sparse.patches(kernel.prepared, 0, simulated_pixels(panel) + 0.5, 4)
    assert extent.isinf().any() and torch.equal(extent.isinf(), rough.limit == 0)
