"""ran1 and the mosaic domains, against published numbers and functions of nanoBragg.c that were
compiled alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import spatial
from torch import Tensor

from nanobragg_plugin import mosaic
from nanobragg_plugin.cell import b_matrix
from nanobragg_plugin.ran1 import Ran1


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_ran1_is_park_and_millers_generator():
    """Park & Miller (1988), Comm. ACM 31, 1195: from a seed of 1, the 10000th is 1043618065.
    Filling the shuffle table of ran1 takes 40 of them."""
    draw = Ran1(1)
    for _ in range(10_000 - 40):
        draw()
    assert draw._state == 1043618065


@pytest.mark.parametrize(
    "seed, values",
    [
        (-1, (0.415999353, 0.091964893, 0.75641048, 0.52970022, 0.930436492)),
        (-12345678, (0.765989304, 0.023453664, 0.589726627, 0.535101593, 0.982231438)),
    ],
)
def test_ran1_is_nanobraggs(seed, values):
    """Printed with %.9g by nanoBragg.c's ran1, compiled alone."""
    draw = Ran1(seed)
    assert [float(f"{draw():.9g}") for _ in values] == list(values)


def test_ran1_against_the_algorithm_in_words():
    """Numerical Recipes (1992), section 7.1: x' = 16807 x mod (2^31 - 1); discard 8, fill a
    table of 32 from its end; what was drawn last says which entry is drawn next."""
    modulus = 2**31 - 1
    states = [4321]
    while len(states) < 41 + 2000:
        states.append(16807 * states[-1] % modulus)
    table = states[9:41][::-1]
    last, expected = table[0], []
    for state in states[41:]:
        slot = last // (1 + (modulus - 1) // 32)
        last, table[slot] = table[slot], state
        expected.append(np.float32(last / modulus))
    draw = Ran1(-4321)
    found = [draw() for _ in expected]
    assert np.abs(np.array(found) - np.array(expected)).max() < 1e-7  # float32's last place
    assert 0 < min(found) and max(found) < 1


#: nanoBragg.c's mosaic_rotation_umat(0.5 degrees, seed -12345678), domains 1 and 2.
CAP_UMATS = (
    (0.9999659208978446, -0.007975168091458018, 0.002133948649430912,
     0.007976187218955598, 0.9999680794966287, -0.0004694946988297568,
     -0.002130136233574633, 0.000486499472815474, 0.9999976129160956),
    (0.9999914359922164, 0.002841644103004765, 0.003008820535838392,
     -0.002858485791905317, 0.999980189430753, 0.005608012572469512,
     -0.002992824953534706, -0.005616565216158264, 0.9999797483919213),
)  # fmt: skip


def test_the_cap_is_nanobraggs():
    umats = mosaic.mosaic_umats(vector(math.radians(0.5))[0], 3, "cap", mosaic.CLASSIC_SEED)
    assert torch.equal(umats[0], torch.eye(3, dtype=torch.float64))
    # measured 1.4e-17
    torch.testing.assert_close(umats[1:].flatten(1), vector(*CAP_UMATS), rtol=0, atol=1e-15)


def angles_of(umats: Tensor) -> np.ndarray:
    return spatial.transform.Rotation.from_matrix(umats.numpy()).magnitude()


def is_rotation(matrices: Tensor) -> bool:
    eye = torch.eye(3, dtype=matrices.dtype)
    orthogonal = (matrices @ matrices.transpose(-1, -2) - eye).abs().max() < 1e-14
    return bool(orthogonal and (torch.linalg.det(matrices) - 1).abs().max() < 1e-14)


def test_the_distribution_of_the_cap():
    """angle = spread (1 - r^2)^(1/3), r uniform: never above the spread, and by a change of
    variable P(angle < x) = 1 - sqrt(1 - (x/spread)^3)."""
    spread = 0.02
    umats = mosaic.mosaic_umats(vector(spread)[0], 4000, "cap", 5)
    assert is_rotation(umats)
    angles = np.sort(angles_of(umats)[1:])
    assert angles[-1] < spread * (1 + 1e-6)
    expected = 1 - np.sqrt(1 - np.clip(angles / spread, 0, 1) ** 3)
    found = (np.arange(len(angles)) + 0.5) / len(angles)
    assert np.abs(expected - found).max() < 1.63 / math.sqrt(4000)  # Kolmogorov, 1 %


@pytest.mark.parametrize("domains", (2, 3, 5, 50))
def test_gaussian_domains_have_exactly_the_spread(domains):
    """Their mean is the crystal's orientation, sigma about each axis the spread."""
    spread = 0.003
    umats = mosaic.mosaic_umats(vector(spread)[0], domains, "gaussian", 3)
    assert is_rotation(umats)
    vectors = spatial.transform.Rotation.from_matrix(umats.numpy()).as_rotvec()
    assert np.abs(vectors.mean(0)).max() < 1e-12
    covariance = vectors.T @ vectors / domains
    if domains < 4:  # too few for three axes: the mean over the axes
        assert np.trace(covariance) == pytest.approx(3 * spread**2, rel=1e-9)
    else:
        np.testing.assert_allclose(covariance, spread**2 * np.eye(3), atol=1e-9 * spread**2)


def test_many_gaussian_domains_are_gaussian():
    deviates = mosaic.gaussian_deviates(2000, 3).numpy()
    for axis in range(3):
        sorted_deviates = np.sort(deviates[:, axis])
        normal = 0.5 * (1 + torch.erf(torch.tensor(sorted_deviates) / math.sqrt(2))).numpy()
        assert np.abs(normal - (np.arange(2000) + 0.5) / 2000).max() < 0.005


def test_one_domain_is_the_crystal_and_seeds_differ():
    one = mosaic.mosaic_umats(vector(0.1)[0], 1, "gaussian", 3)
    assert torch.equal(one, mosaic.identity_umats())
    first, again, other = (mosaic.gaussian_deviates(9, seed) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.allclose(first, other)
    with pytest.raises(ValueError, match="neither gaussian nor cap"):
        mosaic.mosaic_umats(vector(0.1)[0], 1, "flat", 3)


# ---- about the crystal's axes, and cells of their own

TRICLINIC = (27.1, 31.9, 34.3, 88.5, 108.6, 111.8)


def orientation(cell: tuple[float, ...] = TRICLINIC) -> tuple[np.ndarray, Tensor]:
    """U, and A = U B by the textbook's B of that cell (test_core_physics compares it)."""
    turn = spatial.transform.Rotation.from_rotvec([0.5, -0.8, 1.3]).as_matrix()
    return turn, torch.tensor(turn) @ b_matrix(vector(*cell))


def test_the_crystals_frame_is_u():
    """Of A = U B with the PDB's B; and a is its first axis, b in the plane of the first two."""
    turn, a_matrix = orientation()
    frame = mosaic.crystal_frame(a_matrix).numpy()
    np.testing.assert_allclose(frame, turn, atol=1e-14)
    a, b, _ = np.linalg.inv(a_matrix.numpy())
    assert a @ frame[:, 0] == pytest.approx(np.linalg.norm(a)) and abs(b @ frame[:, 2]) < 1e-12


def test_the_frame_is_dxtbxs_u():
    dxtbx_model = pytest.importorskip("dxtbx.model", reason="needs dxtbx")
    _, a_matrix = orientation()
    a, b, c = (tuple(row) for row in np.linalg.inv(a_matrix.numpy()))
    crystal = dxtbx_model.Crystal(a, b, c, space_group_symbol="P1")
    found = mosaic.crystal_frame(torch.tensor(crystal.get_A()).reshape(3, 3).double())
    np.testing.assert_allclose(found.flatten(), crystal.get_U(), atol=1e-14)


@pytest.mark.parametrize("domains", (4, 16, 500))
def test_the_spread_about_each_of_the_crystals_axes(domains):
    """The covariance of the rotation vectors, by scipy, in the crystal's frame is diagonal, each
    spread squared; whatever the orientation, and however few the domains."""
    turn, a_matrix = orientation()
    spreads = vector(0.001, 0.004, 0.02)
    frame = mosaic.crystal_frame(a_matrix)
    umats = mosaic.mosaic_umats(spreads, domains, "gaussian", 3, frame)
    assert is_rotation(umats)
    vectors = spatial.transform.Rotation.from_matrix(umats.numpy()).as_rotvec() @ turn
    covariance = vectors.T @ vectors / domains
    scale = np.outer(spreads, spreads)
    np.testing.assert_allclose(covariance / scale, np.eye(3), atol=1e-8)


def test_equal_spreads_are_the_isotropic_one_in_another_frame():
    """Deviates about the crystal's axes: U_m of the crystal at datum turned by U."""
    turn, a_matrix = orientation()
    frame = mosaic.crystal_frame(a_matrix)
    three = mosaic.mosaic_umats(vector(0.01, 0.01, 0.01), 9, "gaussian", 3, frame).numpy()
    one = mosaic.mosaic_umats(vector(0.01)[0], 9, "gaussian", 3).numpy()
    np.testing.assert_allclose(three, turn @ one @ turn.T, atol=1e-15)


def test_a_spread_about_one_axis_leaves_that_axis():
    """Rotations about a alone: points h00 do not move; 0k0 do, by angle times length, in the plane
    at right angles to a; of a monoclinic cell, whose b* is along its second axis."""
    _, a_matrix = orientation((30.0, 40.0, 50.0, 90.0, 105.0, 90.0))
    frame = mosaic.crystal_frame(a_matrix)
    umats = mosaic.mosaic_umats(vector(0.01, 0, 0), 200, "gaussian", 3, frame)
    a = torch.linalg.inv(a_matrix)[0]
    assert ((umats @ a) - a).abs().max() < 1e-13
    moved = umats @ a_matrix[:, 1] - a_matrix[:, 1]
    along = (moved @ frame).square().mean(0).sqrt() * 40
    # towards the axis by 1 - cos, whose mean square of a gaussian is 3/4 sigma^4 (8.7e-5)^2
    assert along[0] < 1e-14 and along[1] < 9e-5 and abs(along[2] / 0.01 - 1) < 1e-4


def test_domains_have_edges_of_their_own():
    """Of cells that reciprocal matrices have by cctbx's definition: sigma of the logarithms of the
    edges is the spread, the angles are the crystal's."""
    uctbx = pytest.importorskip("cctbx.uctbx", reason="needs cctbx")
    _, a_matrix = orientation()
    deviates = mosaic.gaussian_deviates(200, 3, 6)
    turns = mosaic.gaussian_umats(vector(0.01)[0], deviates[:, :3])
    umats = mosaic.with_cells(turns, vector(0.002)[0], deviates[:, 3:], a_matrix)
    reals = np.linalg.inv((umats @ a_matrix).numpy())
    metrics = [(real @ real.T) for real in reals]
    symmetric = [tuple(m[i, j] for i, j in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)))
                 for m in metrics]  # fmt: skip
    cells = np.array([uctbx.unit_cell(metrical_matrix=m).parameters() for m in symmetric])
    logs = np.log(cells[:, :3] / TRICLINIC[:3])
    np.testing.assert_allclose(np.cov(logs.T, bias=True) / 0.002**2, np.eye(3), atol=1e-9)
    np.testing.assert_allclose(logs.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(cells[:, 3:] - TRICLINIC[3:], 0, atol=1e-9)


def test_deviates_of_any_dimension():
    for dimensions in (1, 2, 6):
        deviates = mosaic.gaussian_deviates(50, 3, dimensions)
        covariance = deviates.T @ deviates / 50
        torch.testing.assert_close(covariance, torch.eye(dimensions).double(), atol=1e-12, rtol=0)
        assert deviates.mean(0).abs().max() < 1e-12
    few = mosaic.gaussian_deviates(5, 3, 6)  # too few to be white
    assert few.square().mean() == pytest.approx(1) and torch.isfinite(few).all()
    assert mosaic.gaussian_deviates(1, 3, 6).tolist() == [[0.0] * 6]


def test_gradients_of_the_spreads():
    _, a_matrix = orientation()
    deviates = mosaic.gaussian_deviates(5, 3)

    def turned(spreads: Tensor, a_matrix: Tensor) -> Tensor:
        return mosaic.gaussian_umats(spreads, deviates, mosaic.crystal_frame(a_matrix))

    def strained(spread: Tensor, a_matrix: Tensor) -> Tensor:
        return mosaic.with_cells(torch.eye(3).double()[None], spread, deviates, a_matrix)

    of_a = 30 * a_matrix  # of the size of 1
    for function, spread in ((turned, vector(0.1, 0, 0.3)), (strained, vector(0.1)[0])):
        arguments = (spread.requires_grad_(), of_a.clone().requires_grad_())
        assert torch.autograd.gradcheck(function, arguments)
