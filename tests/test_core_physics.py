"""Rotation, cell, solid angle, polarization, sensor and geometry against figures from elsewhere:
integrals, textbooks, scipy, cctbx and nanoBragg.c's own formulae."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import integrate, spatial, special
from torch import Tensor

from nanobragg_plugin import cell, corrections, geometry, orientation, rotation
from nanobragg_plugin.models import Exposure, Goniometer, Layers, Panel, SimulationOptions

TRICLINIC = (27.1, 31.9, 34.3, 88.5, 108.6, 111.8)


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


# Rotations and the cell


def test_rotations_are_scipys():
    draw = torch.Generator().manual_seed(1)
    vectors = torch.randn(50, 3, generator=draw, dtype=torch.float64)
    vectors[:10] *= 1e-4  # the series
    vectors[10:20] *= torch.logspace(-5, -1, 10, dtype=torch.float64)[:, None]
    expected = torch.tensor(spatial.transform.Rotation.from_rotvec(vectors.numpy()).as_matrix())
    torch.testing.assert_close(rotation.from_vector(vectors), expected, rtol=0, atol=3e-15)
    angles = torch.linalg.vector_norm(vectors, dim=-1)
    found = rotation.about_axis(vectors / angles[:, None], angles)
    torch.testing.assert_close(found, expected, rtol=0, atol=3e-15)


def test_rotation_vectors_of_zero_have_the_generators_as_gradient():
    jacobian = torch.autograd.functional.jacobian(rotation.from_vector, vector(0, 0, 0))
    expected = torch.zeros(3, 3, 3, dtype=torch.float64)
    for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):  # d(R)_jk / d(v)_i = -epsilon_ijk
        expected[j, k, i], expected[k, j, i] = -1, 1
    assert torch.equal(jacobian, expected)


def test_goniometer_is_setting_scan_fixed():
    """R = S Rot(e, phi) F, by scipy."""
    turn = spatial.transform.Rotation
    fixed, setting = turn.from_rotvec([0.3, -0.2, 0.5]), turn.from_rotvec([0.1, 0.7, -0.4])
    axis = np.array([0.6, 0.0, 0.8])
    goniometer = Goniometer(
        torch.tensor(axis),
        torch.tensor(fixed.as_matrix()),
        torch.tensor(setting.as_matrix())[None],
    )
    found = orientation.rotations(goniometer, Exposure((0.0, 0.2), (0.25, 0.75)))
    expected = [(setting * turn.from_rotvec(axis * phi) * fixed).as_matrix() for phi in (0, 0.2)]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-15)


def test_scan_points_are_interpolated():
    points = vector(1.0, 3.0, 11.0)[:, None]
    found = orientation.at_positions(points, vector(0, 0.25, 1, 1.5, 2))[:, 0]
    assert found.tolist() == [1.0, 1.5, 3.0, 7.0, 11.0]


def test_the_reciprocal_basis_by_the_textbook():
    """Lengths and angles of a*, b*, c* (International Tables B, section 1.1), V in a, b, c."""
    a, b, c, *angles = TRICLINIC
    cos, sin = np.cos(np.radians(angles)), np.sin(np.radians(angles))
    volume = a * b * c * math.sqrt(1 - (cos**2).sum() + 2 * cos.prod())
    B = cell.b_matrix(vector(*TRICLINIC))
    metric = (B.T @ B).numpy()
    lengths = np.array([b * c * sin[0], c * a * sin[1], a * b * sin[2]]) / volume
    np.testing.assert_allclose(np.sqrt(np.diag(metric)), lengths, rtol=1e-14)
    for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        cos_star = (cos[i] * cos[j] - cos[k]) / (sin[i] * sin[j])
        assert metric[i, j] / (lengths[i] * lengths[j]) == pytest.approx(cos_star, rel=1e-12)
    assert cell.volume(B).item() == pytest.approx(volume, rel=1e-13)
    np.testing.assert_allclose(cell.edges(B).numpy(), [a, b, c], rtol=1e-14)


def test_b_matrix_is_cctbxs():
    uctbx = pytest.importorskip("cctbx.uctbx", reason="needs cctbx")
    unit_cell = uctbx.unit_cell(TRICLINIC)
    B = cell.b_matrix(vector(*TRICLINIC))
    # a dxtbx crystal's B is the transposed fractionalization matrix
    expected = np.array(unit_cell.fractionalization_matrix()).reshape(3, 3).T
    np.testing.assert_allclose(B.numpy(), expected, rtol=1e-13, atol=1e-17)
    orthogonal = np.array(unit_cell.orthogonalization_matrix()).reshape(3, 3)
    found = cell.orthogonalization_matrix(vector(*TRICLINIC)).numpy()
    np.testing.assert_allclose(found, orthogonal, rtol=1e-13, atol=1e-14)


# Solid angle, polarization, capture


def tilted_panel() -> Panel:
    """300 x 200 pixels of 0.5 x 0.7 mm, 61 mm away, tilted."""
    turn = rotation.from_vector(vector(0.3, -0.4, 0.2))
    return Panel(
        origin=vector(-80.0, 60.0, -50.0),
        fast=turn @ vector(1, 0, 0),
        slow=turn @ vector(0, -1, 0),
        pixel_size=vector(0.5, 0.7),
        image_size=(300, 200),
        thickness=vector(0.45)[0],
        mu=vector(3.2)[0],
    )


def triangle(a: Tensor, b: Tensor, c: Tensor) -> float:
    """Solid angle of a triangle (van Oosterom & Strackee 1983, IEEE Trans. Biomed. Eng. 30)."""
    a, b, c = (v / v.norm() for v in (a, b, c))
    return 2 * math.atan2(abs(a @ torch.linalg.cross(b, c)), 1 + a @ b + b @ c + c @ a)


def test_the_pixels_of_a_panel_add_up_to_its_solid_angle():
    panel = tilted_panel()
    slow, fast = (torch.arange(size, dtype=torch.float64) + 0.5 for size in panel.shape)
    points = geometry.lab_position(panel, *torch.meshgrid(slow, fast, indexing="ij"))
    plane = panel.origin @ panel.normal
    distance = torch.linalg.vector_norm(points, dim=-1)
    found = corrections.solid_angle(panel, distance, plane).sum().item()
    corner = panel.origin
    along, down = 150.0 * panel.fast, 140.0 * panel.slow
    expected = triangle(corner, corner + along, corner + along + down)
    expected += triangle(corner, corner + down, corner + along + down)
    assert expected > 1.5  # a large part of the sphere
    assert found == pytest.approx(expected, rel=1e-5)  # midpoints; measured 3.6e-6


def test_a_point_pixel_is_one_over_r_squared_in_metres():
    """nanoBragg.c: `if(point_pixel) omega_pixel = 1.0/airpath/airpath`, airpath in metres."""
    distance = vector(250.0)
    found = corrections.solid_angle(tilted_panel(), distance, distance, point_pixel=True)
    assert found.item() == pytest.approx(16.0, rel=1e-14)


def test_a_layer_sees_its_pixel_in_its_own_plane():
    """A panel moved back by a layer's depth; nanoBragg.c's `start` keeps the surface's D."""
    panel = tilted_panel()
    depth, distance, cosine = 0.4, vector(100.0, 150.0), vector(0.9, 0.8)
    layers = Layers(vector(0.0, depth), "midpoint")
    front = panel.origin @ panel.normal
    position = vector(100.0 * 0.9, 150.0 * 0.8)
    assert torch.equal(corrections.seen_plane(panel, layers, distance, cosine), position)
    start = Layers(layers.edges, "start")
    assert corrections.seen_plane(panel, start, distance, cosine) == front
    assert corrections.seen_plane(panel, None, distance, cosine) == front


def directions(n: int = 500) -> tuple[Tensor, Tensor]:
    """Random s1 [n, 3], and one s0 [3]."""
    draw = torch.Generator().manual_seed(2)
    s1 = torch.randn(n, 3, generator=draw, dtype=torch.float64)
    return geometry.unit(s1)[0], geometry.unit(vector(0.1, -0.2, -1.0))[0]


def polarization(s1: Tensor, s0: Tensor, axis: Tensor, kahn_factor: float) -> Tensor:
    return corrections.polarization(s1, s0, axis, vector(kahn_factor)[0])


@pytest.mark.parametrize("kahn_factor", (0.0, 0.9, 1.0, -1.0))
def test_polarization_is_that_of_nanobraggs_angle(kahn_factor):
    """`polarization_factor` of nanoBragg.c, with its psi = -atan2(B_out, E_out)."""
    s1, s0 = directions()
    axis = vector(0.2, 1.0, 0.1)
    b = np.cross(axis, s0)
    b /= np.linalg.norm(b)
    e = np.cross(s0, b)
    psi = -np.arctan2(s1.numpy() @ b, s1.numpy() @ e)
    cos_sqr = (s1 @ s0).numpy() ** 2
    expected = 0.5 * (1 + cos_sqr - kahn_factor * np.cos(2 * psi) * (1 - cos_sqr))
    found = polarization(s1, s0, axis, kahn_factor)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-14)


def test_polarization_of_a_dipole():
    """Wholly polarized along E, a dipole radiates 1 - (s1.E)^2; unpolarized, the mean of two."""
    s1, s0 = directions()
    b = torch.linalg.cross(vector(0.2, 1.0, 0.1), s0)
    b = b / b.norm()
    e = torch.linalg.cross(s0, b)
    along_e, along_b = 1 - (s1 @ e) ** 2, 1 - (s1 @ b) ** 2
    for kahn_factor, expected in ((1.0, along_e), (-1.0, along_b), (0.0, (along_e + along_b) / 2)):
        found = polarization(s1, s0, vector(0.2, 1.0, 0.1), kahn_factor)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)
    # unpolarized: (1 + cos^2 2theta)/2
    torch.testing.assert_close((along_e + along_b) / 2, (1 + (s1 @ s0) ** 2) / 2)
    # and over the sphere, 2/3: the Thomson cross-section is 8 pi/3 r_e^2
    mean = polarization(s1, s0, vector(0.2, 1.0, 0.1), 0.9).mean().item()
    assert mean == pytest.approx(2 / 3, abs=0.03)


def test_the_layers_capture_what_the_sensor_absorbs():
    layers = Layers(vector(0.0, 0.1, 0.13, 0.45))
    mu, cosine = vector(3.2)[0], vector(1.0, 0.8, 0.3)
    found = sum(corrections.capture_fraction(layers, k, mu, cosine) for k in range(3))
    np.testing.assert_allclose(found, 1 - np.exp(-3.2 * 0.45 / cosine.numpy()), rtol=1e-14)


def mean_depth(rate: float, top: float, bottom: float) -> float:
    """The mean of z over exp(-rate z) between top and bottom, by quadrature."""
    weight, _ = integrate.quad(lambda z: math.exp(-rate * (z - top)), top, bottom)
    moment, _ = integrate.quad(lambda z: z * math.exp(-rate * (z - top)), top, bottom)
    return moment / weight


@pytest.mark.parametrize("mu", (1e-6, 1e-3, 0.03, 3.2, 80.0))
@pytest.mark.parametrize("sampling", ("absorption", "midpoint", "start"))
def test_the_depth_of_a_layer(sampling, mu):
    """`absorption`: the mean of z over exp(-mu z/cosine), by quadrature."""
    layers = Layers(vector(0.0, 0.1, 0.13, 0.45), sampling)
    cosine = vector(1.0, 0.8, 0.3)
    for layer, (top, bottom) in enumerate(((0.0, 0.1), (0.1, 0.13), (0.13, 0.45))):
        found = corrections.layer_depth(layers, layer, vector(mu)[0], cosine)
        for depth, rho in zip(found.tolist(), cosine.tolist()):
            expected = {"start": top, "midpoint": (top + bottom) / 2}.get(sampling)
            if expected is None:
                expected = mean_depth(mu / rho, top, bottom)
            assert depth == pytest.approx(expected, rel=1e-9)


def test_one_layer_or_many_lie_at_the_same_mean_depth():
    """The parallax shift does not depend on the number of layers (absorption only)."""
    mu, cosine = vector(3.2)[0], vector(0.7)
    means = []
    for count in (1, 3, 40):
        layers = Layers(torch.linspace(0, 0.45, count + 1, dtype=torch.float64))
        weights = [corrections.capture_fraction(layers, k, mu, cosine) for k in range(count)]
        depths = [corrections.layer_depth(layers, k, mu, cosine) for k in range(count)]
        means.append((sum(w * d for w, d in zip(weights, depths)) / sum(weights)).item())
    assert means == pytest.approx([means[0]] * 3, rel=1e-12)


# Geometry


def test_positions_and_normal_of_a_panel():
    """Fast before slow, the pixel's centre at +0.5, the normal away from the crystal."""
    panel = tilted_panel()
    found = geometry.lab_position(panel, vector(2.5), vector(10.0))[0]
    expected = panel.origin + 5.0 * panel.fast + 1.75 * panel.slow
    torch.testing.assert_close(found, expected, rtol=1e-15, atol=0)
    for one in (panel, replace(panel, fast=panel.slow, slow=panel.fast)):
        assert one.normal @ one.fast == pytest.approx(0, abs=1e-15)
        assert one.normal @ one.slow == pytest.approx(0, abs=1e-15)
        assert one.normal @ one.origin > 0


def test_subpixels_in_the_order_of_nanobragg():
    """`for(subS) for(subF)`: slow outermost, centres of equal parts."""
    assert geometry.subpixel_offsets(SimulationOptions(oversample=1)) == ((0.5, 0.5),)
    quarter = ((0.25, 0.25), (0.25, 0.75), (0.75, 0.25), (0.75, 0.75))
    assert geometry.subpixel_offsets(SimulationOptions(oversample=2)) == quarter


def test_subpixels_of_the_right_moments():
    """Two are numpy's points of Gauss's quadrature; of three and more the mean square distance is
    that of all of a pixel, 1/12; one has none. A gauss of a sigma of half a pixel is integrated
    (truth: scipy's erf) to 0.75 % of the most, by centres to 2.8 %."""
    two = SimulationOptions(oversample=2, subpixels="moments")
    gauss = np.polynomial.legendre.leggauss(2)[0] / 2 + 0.5
    np.testing.assert_allclose(two.subpixel_centres, gauss, rtol=1e-14)
    for number in (3, 7):
        made = SimulationOptions(oversample=number, subpixels="moments").subpixel_centres
        assert np.mean((np.array(made) - 0.5) ** 2) == pytest.approx(1 / 12, rel=1e-14)
    assert SimulationOptions(oversample=1, subpixels="moments").subpixel_centres == (0.5,)
    first, sigma = np.arange(-4.3, 4), 0.5
    true = np.diff([special.erf(np.append(first, first[-1] + 1) / sigma / 2**0.5)])[0] / 2
    worst = {}
    for kind in ("centres", "moments"):
        places = SimulationOptions(oversample=2, subpixels=kind).subpixel_centres
        found = np.mean([np.exp(-(((first + x) / sigma) ** 2) / 2) for x in places], 0)
        found /= sigma * (2 * np.pi) ** 0.5
        worst[kind] = np.abs(found - true).max() / true.max()
    assert worst["moments"] < worst["centres"] / 3
    with pytest.raises(ValueError, match="neither centres nor moments"):
        SimulationOptions(subpixels="corners")


def test_the_scattering_vector_is_braggs():
    """|q| = 2 sin(theta)/lambda."""
    s1, s0 = directions(50)
    q = geometry.scattering_vector(s1, s0, vector(0.9768))
    theta = torch.arccos((s1 @ s0).clamp(-1, 1)) / 2
    torch.testing.assert_close(q.norm(dim=-1), 2 * theta.sin() / 0.9768, rtol=1e-12, atol=0)


def test_the_depth_in_an_opaque_sensor_has_a_gradient():
    """t mu = 900: all is absorbed at 1/mu, whose gradient is -1/mu^2 (exp(900) overflows)."""
    mu = vector(900.0).requires_grad_()
    depth = corrections.layer_depth(Layers(vector(0.0, 1.0)), 0, mu, torch.ones_like(mu))
    assert depth.item() == pytest.approx(1 / 900, rel=1e-12)
    (gradient,) = torch.autograd.grad(depth.sum(), mu)
    assert gradient.item() == pytest.approx(-1 / 900**2, rel=1e-9)


@pytest.mark.parametrize("sampling", ["absorption", "midpoint", "start"])
def test_layers_follow_the_precision(sampling):
    """float64 edges and a float32 ray, as with precision=single, give float32."""
    layers = Layers(vector(0.0, 0.1, 0.45), sampling)
    cosine = torch.tensor([0.8, 0.9])
    mu = torch.tensor(3.0)
    assert corrections.layer_depth(layers, 1, mu, cosine).dtype == torch.float32
    assert corrections.capture_fraction(layers, 1, mu, cosine).dtype == torch.float32
