"""The sparse kernel lacks no more than `tolerance` photons of a pixel, and most of the work.

Expected values are the dense kernel's, which is tested against the reference (test_kernels.py),
unless a test says otherwise.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sparse_models import Case, build, compared, images, tensor

from nanobragg_plugin import rotation, structure_factors
from nanobragg_plugin.models import XTAL_SHAPES

PARITY = {"phi_carryover_mode": "c-parity"}
BOOLEANS = st.booleans()
OPTIONS = st.fixed_dictionaries(
    {
        "oversample": st.integers(1, 2),
        "precision": st.sampled_from(("double", "mixed")),
        "oversample_omega": BOOLEANS,
        "oversample_polar": BOOLEANS,
        "oversample_thick": BOOLEANS,
        "point_pixel": BOOLEANS,
    }
)
CASES = st.builds(
    Case,
    seed=st.integers(0, 10**6),
    xtal_shape=st.sampled_from(XTAL_SHAPES),
    edges=st.sampled_from(((3.0, 9.0), (30.0, 80.0), (200.0, 1000.0))),
    ncells=st.sampled_from(((1.0, 3.0), (3.0, 23.0), (60.0, 300.0))),
    panels=st.integers(1, 2),
    phi=st.integers(1, 4),
    domains=st.integers(1, 5),
    cell_spread=st.sampled_from((0.0, 0.02)),
    sources=st.integers(1, 3),
    layers=st.integers(0, 2),
    same_way=BOOLEANS,
    drift=BOOLEANS,
    masked=BOOLEANS,
    options=OPTIONS,
)


@settings(max_examples=60)
@given(case=CASES, part=st.sampled_from((1e-9, 1e-6, 1e-3, 0.1)))
def test_no_pixel_lacks_more_than_the_tolerance(case, part):
    """On whatever experiment; `part` of the brightest pixel."""
    compared(build(case), part)


@pytest.mark.parametrize("shape", XTAL_SHAPES)
def test_something_is_left_out_of_every_shape(shape):
    """And something is kept: the test above would hold for a kernel that does neither."""
    dense, sparse = compared(build(Case(seed=3, xtal_shape=shape, ncells=(10, 40))), 1e-4)
    assert (sparse == 0).sum() > 0.1 * len(sparse) and sparse.max() > 0.999 * dense.max()
    if not shape.startswith("tophat"):  # of pixels that are kept, terms are left out
        assert ((sparse > 0) & (sparse < dense)).any()


@pytest.mark.parametrize("shape", XTAL_SHAPES)
def test_domains_of_their_own_cells(shape):
    """Whose matrices are no rotations: the bounds do not take them for such."""
    for seed in range(3):
        case = Case(seed, shape, ncells=(10, 40), domains=9, cell_spread=0.03)
        dense, sparse = compared(build(case), 1e-5)
        same_cells, _ = compared(build(replace(case, cell_spread=0.0)), 1e-5)
        assert (dense - same_cells).abs().max() > 1e-3 * dense.max()
        if not shape.startswith("tophat"):  # whose terms are all or nothing
            assert (sparse < dense).any()


def test_every_tolerance():
    """From less than rounding to more than the brightest pixel: ever less is kept, in the end
    nothing."""
    model = build(Case(seed=5, xtal_shape="square"))
    before, everything = images(model, kernel="dense"), images(model, kernel="dense")
    for part in (1e-30, 1e-12, 1e-6, 1e-2, 1.0, 1e6):
        _, sparse = compared(model, part)
        assert (sparse <= before * (1 + 1e-12)).all()
        before = sparse
    assert not sparse.any() and not images(model, kernel="sparse", tolerance=math.inf).any()
    tiny = images(model, kernel="sparse", tolerance=1e-30)
    torch.testing.assert_close(tiny, everything, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ("fluence", "spot_scale"))
def test_the_tolerance_is_in_photons(name):
    """A hundred times the photons, and a hundred times the tolerance: the same terms; with the
    tolerance as it was, more terms."""
    model = build(Case(seed=7, xtal_shape="square"))
    part = "beam" if name == "fluence" else "crystal"
    owner = getattr(model[0], part)
    brighter = replace(owner, **{name: 100 * getattr(owner, name)})
    bright = (replace(model[0], **{part: brighter}), *model[1:])
    tolerance = 1e-3 * float(images(model, kernel="dense").max())
    sparse, more = (images(m, kernel="sparse", tolerance=tolerance) for m in (model, bright))
    same = images(bright, kernel="sparse", tolerance=100 * tolerance)
    torch.testing.assert_close(same, 100 * sparse, rtol=1e-12, atol=0)
    assert (more > 0).sum() > (same > 0).sum() > 0


# ---- places where a bound is easily wrong


def at_the_beam(model, place: float):
    """The model with its panel 60 mm away, the direct beam at `place` pixels along both axes."""
    panel = model[0].panels[0]
    axes = torch.stack([panel.fast, panel.slow])
    origin = tensor([0.0, 0, -60]) - place * panel.pixel_size @ axes
    beam = replace(model[0].beam, direction=tensor([[[0.0, 0, -1]]]))
    experiment = replace(model[0], panels=(replace(panel, origin=origin),), beam=beam)
    return (experiment, *model[1:])


@pytest.mark.parametrize("place", (20.5, 20.0))
@pytest.mark.parametrize("shape", XTAL_SHAPES)
def test_the_direct_beam(shape, place):
    """F 000 where the beam goes through a pixel's very middle, where nothing but s1 - s0 = 0 is
    left of every bound, and where it passes the corner of four."""
    case = Case(seed=2, xtal_shape=shape, panels=1, sources=1, domains=2, ncells=(3, 5))
    model = at_the_beam(build(case), place)
    model[2].Fhkl[8, 8, 8] = 1000.0  # of 000
    dense, sparse = compared(model, 1e-3)
    middle = sparse.reshape(34, 43)[19:22, 19:22]
    assert middle.max() > 0.999 * dense.max() > 0 and (sparse == 0).any()


@pytest.mark.parametrize("shape", ("square", "gauss"))
def test_spots_on_edges_and_in_gaps(shape):
    """Four modules cut from one panel, some of its pixels in the gap between: each shows what the
    whole panel shows there, of spots that are larger than the gap too."""
    model = build(Case(seed=11, xtal_shape=shape, panels=1, ncells=(4, 8), sources=1))
    (panel,) = model[0].panels
    size = panel.pixel_size
    whole = images(model, kernel="dense").reshape(34, 43)
    tolerance = 1e-2 * float(whole.max())
    modules, expected = [], []
    for slow, rows in ((0, 15), (18, 16)):
        for fast, columns in ((0, 22), (23, 20)):
            step = torch.stack([panel.fast, panel.slow], 1) @ (tensor([fast, slow]) * size)
            modules.append(replace(panel, origin=panel.origin + step, image_size=(columns, rows)))
            expected.append(whole[slow : slow + rows, fast : fast + columns].flatten())
    parts = (replace(model[0], panels=tuple(modules)), *model[1:])
    expected, sparse = torch.cat(expected), images(parts, kernel="sparse", tolerance=tolerance)
    # of other origins, rounded otherwise
    assert (sparse - expected).max() <= 1e-9 * whole.max()
    assert (expected - sparse).max() <= tolerance + 1e-9 * whole.max()
    assert (sparse == 0).any()


def test_cusps():
    """A reflection along the spindle stays on the Ewald sphere for all phi, one beside it passes
    slowly: phi steps of ten degrees, each of which lights it."""
    model = build(Case(seed=13, panels=1, sources=1, domains=2, ncells=(20, 30)))
    crystal, goniometer, panel = model[0].crystal, model[0].goniometer, model[0].panels[0]
    turned = goniometer.fixed @ crystal.A[0]
    wavelength = model[0].beam.wavelength.mean()
    # fixed is chosen so that r of (2, 1, 0) is on the sphere, and the axis along it
    r = turned @ tensor([2.0, 1, 0])
    sine = r.norm() * wavelength / 2
    target = torch.stack([(1 - sine**2).sqrt(), tensor(0.0), sine])  # s1 - s0, of s0 = -z
    across = torch.linalg.cross(r, target)
    angle = torch.acos((r @ target) / r.norm())
    fixed = rotation.from_vector(across / across.norm() * angle) @ goniometer.fixed
    s0 = tensor([0.0, 0, -1])
    s1 = s0 + r.norm() * wavelength * target
    origin = 60 * s1 / -s1[2] - 16.5 * (
        panel.pixel_size[0] * panel.fast + panel.pixel_size[1] * panel.slow
    )
    experiment = replace(
        model[0],
        goniometer=replace(goniometer, axis=target, fixed=fixed),
        beam=replace(model[0].beam, direction=s0[None, None]),
        panels=(replace(panel, origin=origin),),
    )
    phi = tuple(math.radians(10 * k) for k in range(12))
    exposure = replace(model[1], phi=phi, position=tuple(k / 12 for k in range(12)))
    model = (experiment, exposure, *model[2:])
    model[2].Fhkl[10, 9, 8] = 1000.0
    dense, sparse = compared(model, 1e-6)
    # it is the brightest, though each step of phi passes other reflections by ten degrees
    assert sparse.reshape(34, 43)[16, 16] > 0.999 * dense.max()
    assert (sparse == 0).any()


@pytest.mark.parametrize("cell", (3.0, 1000.0))
@pytest.mark.parametrize("shape", ("square", "round", "gauss"))
def test_very_small_and_very_large_cells(cell, shape):
    """Of 3 Angstrom hardly a reflection is on the detector; of 1000 a spot is a few pixels from
    the next, and a tile of pixels reaches over several."""
    case = Case(seed=17, xtal_shape=shape, edges=(cell, 1.2 * cell), ncells=(4, 9), masked=True)
    dense, sparse = compared(build(case), 1e-4)
    assert sparse.max() > 0.999 * dense.max() > 0 and (sparse < dense).any()


@pytest.mark.parametrize("masked", (False, True))
def test_c_parity(masked):
    """The first pixel that is simulated has no predecessor, be it lit or not."""
    for seed in (19, 20, 21):
        case = Case(seed=seed, xtal_shape="square", ncells=(9, 30), masked=masked)
        case = replace(case, options=PARITY)
        model = build(case)
        model = (model[0], replace(model[1], phi=(0.0, 0.003, 0.006)), *model[2:])
        dense, sparse = compared(model, 1e-3)
        spec = images(model, kernel="dense", phi_carryover_mode="spec")
        assert (dense - spec).abs().max() > 1e-2 * dense.max() and (sparse == 0).any()


def test_d_min_and_a_curved_detector():
    model = build(Case(seed=23, panels=1, layers=2))
    cut = (*model[:3], replace(model[3], d_min=6.0))
    dense, sparse = compared(cut, 1e-6)
    whole = images(model, kernel="dense")
    assert ((dense == 0) & (whole > 0)).any() and (sparse < dense).any()
    panel = replace(model[0].panels[0], curved=tensor([0.0, 0, -70]))
    dense, sparse = compared((replace(model[0], panels=(panel,)), *model[1:]), 1e-6)
    assert (sparse < dense).any()


def test_an_amplitude_that_is_no_number_is_not_passed_over():
    model = at_the_beam(build(Case(seed=29, sources=1, panels=1)), 20.0)
    model[2].Fhkl[8, 8, 8] = math.nan  # of 000
    dense, sparse = compared(model, 1e-3)
    assert dense.isnan().any() and not dense.isnan().all()
    assert torch.equal(dense.isnan(), sparse.isnan())


def test_a_single_reflection():
    """All amplitudes 0 but one: what is lit is kept, and nothing else is evaluated."""
    case = Case(seed=59, xtal_shape="tophat", panels=1, sources=1, ncells=(3, 6))
    model = at_the_beam(build(case), 20.5)
    table = structure_factors.table(torch.tensor([[0, 0, 0], [1, 1, 1]]), tensor([50.0, 0.0]))
    dense, sparse = compared((*model[:2], table, model[3]), 1e-9)
    assert dense.any() and torch.equal(dense > 0, sparse > 0)
