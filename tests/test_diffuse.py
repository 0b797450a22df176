"""Diffuse scattering against the published formula in plain loops, lattice sums in real space,
quadratures by numpy, and figures of whole pixels by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from core_models import Setup, build, parameters
from torch import Tensor

from nanobragg_plugin import diffuse, structure_factors
from nanobragg_plugin.cell import b_matrix
from nanobragg_plugin.jacobian import jacobian
from nanobragg_plugin.kernels import diffuse as images
from nanobragg_plugin.models import Damage, Diffuse, Exposure
from nanobragg_plugin.simulate import Simulator, simulate
from nanobragg_plugin.structure_factors import StructureFactors

CELL = (27.1, 31.9, 34.3, 88.5, 108.6, 111.8)
SIGMA, GAMMA = (0.3, 0.5, 0.4), (20.0, 12.0, 30.0)


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def model(stencil: int = 1) -> Diffuse:
    return Diffuse(vector(*SIGMA), vector(*GAMMA), stencil)


def table() -> StructureFactors:
    axis = torch.arange(-6, 7)
    indices = torch.cartesian_prod(axis, axis, axis)
    draw = torch.Generator().manual_seed(1)
    return structure_factors.table(
        indices, 100 * torch.rand(len(indices), generator=draw, dtype=torch.float64), 7.0
    )


def by_loops(q: np.ndarray, B: np.ndarray, stencil: int) -> float:
    """electrons^2 a cell: F^2 x exp(-x) 8 pi g1 g2 g3/(1 + |2 pi G s|^2)^2/V, each step as simtbx's
    diffuse_util.h has it (exparg, dwf, gamma_portion) and its comments' paper, by the volume."""
    amplitudes, total = table(), 0.0
    nearest = np.round(np.linalg.solve(B, q)).astype(int)
    for offset in product(range(-stencil, stencil + 1), repeat=3):
        index = nearest + offset
        point = B @ index
        exparg = 4 * math.pi**2 * sum((s * p) ** 2 for s, p in zip(SIGMA, point))
        away = 4 * math.pi**2 * sum((g * d) ** 2 for g, d in zip(GAMMA, q - point))
        gamma_portion = 8 * math.pi * math.prod(GAMMA) / (1 + away) ** 2
        inside = all(abs(i) <= 6 for i in index)
        f = float(amplitudes.Fhkl[tuple(i + 7 for i in index)]) if inside else 7.0
        total += f**2 * math.exp(-exparg) * exparg * gamma_portion
    return total * abs(np.linalg.det(B))


@pytest.mark.parametrize("stencil", (0, 1, 2))
def test_the_formula(stencil):
    """(The part of halos within the stencil is taken off: see the next tests.)"""
    B = b_matrix(vector(*CELL))
    draw = torch.Generator().manual_seed(2)
    q = (8 * torch.rand(20, 3, generator=draw, dtype=torch.float64) - 4) @ B.T
    found = diffuse.intensity(model(stencil), B, q, table()) * diffuse.within(model(stencil), B)
    expected = [by_loops(one, B.numpy(), stencil) for one in q.numpy()]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def quadrature(reach: float, scale: float, count: int = 70) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights from -reach to reach, close about 0."""
    t, w = np.polynomial.legendre.leggauss(count)
    edge = math.atan(reach / scale)
    return scale * np.tan(edge * t), w * edge * scale / np.cos(edge * t) ** 2


def cube(reach: float, scales: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points [n, 3] and weights [n] of a cube."""
    (x, wx), (y, wy), (z, wz) = (quadrature(reach, scale) for scale in scales)
    points = np.stack(np.meshgrid(x, y, z, indexing="ij"), -1).reshape(-1, 3)
    return points, (wx[:, None, None] * wy[:, None] * wz).flatten()


@pytest.mark.parametrize("stencil, expected", [(0, 0.48), (1, 0.79), (2, 0.87)])
def test_the_part_of_a_halo_within_the_stencil(stencil, expected):
    """By numpy's quadrature over the parallelepiped. Measured: 6e-7 (of 4000 directions)."""
    B = b_matrix(vector(*CELL))
    points, weights = cube(stencil + 0.5, np.array(CELL[:3]) / (2 * math.pi * np.array(GAMMA)))
    values = diffuse.halo(model(), torch.tensor(points) @ B.T).numpy()
    by_numpy = (values * weights).sum() * abs(float(torch.linalg.det(B)))
    assert expected < by_numpy < expected + 0.02
    assert float(diffuse.within(model(stencil), B)) == pytest.approx(by_numpy, abs=5e-6)


def test_halos_are_the_transform_of_the_correlation():
    """Poisson: the sum of halos over the reciprocal lattice, over the volume of a cell, is that of
    exp(-|r/gamma|) cos(2 pi q r) over the lattice. Measured: 1.2e-5 (of the far halos
    only the mean is known)."""
    B = b_matrix(vector(*CELL))
    draw = torch.Generator().manual_seed(3)
    q = (torch.rand(10, 3, generator=draw, dtype=torch.float64) - 0.5) @ B.T
    axis = torch.arange(-12, 13)
    numbers = torch.cartesian_prod(axis, axis, axis).double()
    r = numbers @ torch.linalg.inv(B)
    correlation = torch.exp(-torch.linalg.vector_norm(r / vector(*GAMMA), dim=-1))
    expected = (correlation * torch.cos(2 * math.pi * q @ r.T)).sum(1)
    halos = diffuse.halo(model(), q[:, None] - numbers @ B.T).sum(1) * torch.linalg.det(B).abs()
    beyond = 1 - diffuse.within(model(12), B)
    assert expected.max() > 2 * expected.min()
    torch.testing.assert_close(halos + beyond, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("stencil", (0, 1))
def test_a_reflection_has_what_its_spot_loses(stencil):
    """Integrated over all cells of the stencil: F^2 x exp(-x), F^2 (1 - exp(-x)) to the first order
    in x; of one reflection alone. Measured: 1.2e-6."""
    B, index = b_matrix(vector(*CELL)), torch.tensor([[3, -2, 1]])
    alone = structure_factors.table(index, vector(50.0))
    points, weights = cube(stencil + 0.5, np.array(CELL[:3]) / (2 * math.pi * np.array(GAMMA)))
    q = (torch.tensor(points) + index) @ B.T
    found = float((diffuse.intensity(model(stencil), B, q, alone) * torch.tensor(weights)).sum())
    x = 4 * math.pi**2 * float(((B @ index[0].double()) * vector(*SIGMA)).square().sum())
    assert found == pytest.approx(2500 * x * math.exp(-x), rel=1e-5)
    lost = 2500 * (1 - math.exp(-x))
    assert 0.05 < x < 0.3 and abs(found - lost) < 0.6 * x**2 * 2500


def test_the_width_of_a_halo():
    """Half the peak at sqrt(sqrt(2) - 1)/(2 pi gamma) along each axis."""
    B = b_matrix(vector(*CELL))
    alone = structure_factors.table(torch.tensor([[3, -2, 1]]), vector(50.0))
    middle = B @ vector(3, -2, 1)
    for axis in range(3):
        off = torch.zeros(3, dtype=torch.float64)
        off[axis] = math.sqrt(math.sqrt(2) - 1) / (2 * math.pi * GAMMA[axis])
        peak, side, other = diffuse.intensity(
            model(), B, torch.stack([middle, middle + off, middle - off]), alone
        ).tolist()
        assert side == pytest.approx(peak / 2) and other == pytest.approx(peak / 2)


# ---- images


def with_diffuse(**changes: object) -> tuple:
    setup = Setup(diffuse=True, polarized=False, options={"kernel": "dense"}, **changes)
    return build(setup, parameters(setup))


def test_the_photons_of_pixels():
    """By hand: r_e^2 fluence cells solid angle electrons^2, of a rotated crystal."""
    experiment, exposure, amplitudes, options = with_diffuse(phi=(0.4,))
    (panel,), crystal = experiment.panels, experiment.crystal
    found = images.scattered(experiment, 0, exposure, amplitudes, replace(options, oversample=1))
    goniometer = experiment.goniometer
    axis = goniometer.axis.numpy()
    k = np.cross(axis, np.eye(3)).T
    turn = np.eye(3) + math.sin(0.4) * k + (1 - math.cos(0.4)) * k @ k
    turn = goniometer.setting[0].numpy() @ turn @ goniometer.fixed.numpy()
    a_matrix = crystal.A[0].numpy()
    real = np.linalg.inv(a_matrix)
    first, last = real[0] / np.linalg.norm(real[0]), a_matrix[:, 2] / np.linalg.norm(a_matrix[:, 2])
    frame = turn @ np.stack([first, np.cross(last, first), last], 1)
    wavelength = float(experiment.beam.wavelength[0, 0])
    s0 = experiment.beam.direction[0, 0].numpy() / wavelength
    for slow, fast in ((0, 0), (3, 4), (2, 1)):
        at = panel.origin + (fast + 0.5) * panel.pixel_size[0] * panel.fast
        at = (at + (slow + 0.5) * panel.pixel_size[1] * panel.slow).numpy()
        distance = np.linalg.norm(at)
        q = (at / distance / wavelength - s0) @ frame
        per_cell = float(
            diffuse.intensity(
                crystal.diffuse,
                torch.tensor(frame.T @ turn @ a_matrix),
                torch.tensor(q)[None],
                amplitudes,
            )
        )
        close = abs(float(panel.origin @ panel.normal))
        omega = float(panel.pixel_size.prod()) * close / distance**3
        cells = float(crystal.spot_scale * crystal.Ncells_abc.prod())
        expected = 7.94079248018965e-30 * float(experiment.beam.fluence) * cells * omega * per_cell
        assert float(found[slow, fast]) == pytest.approx(expected, rel=1e-10)


def test_an_image_is_its_weakened_spots_and_the_halos():
    """And damage weakens both. What is left of the spots is exp(-x) of the pixel's own q."""
    experiment, exposure, amplitudes, options = with_diffuse(phi=(0.3, 0.32), panels=2, masked=True)
    crystal = experiment.crystal
    whole = replace(experiment, crystal=replace(crystal, diffuse=None))
    hurt = Damage(vector(2.0)[0], vector(0.1)[0])
    damaged = replace(experiment, crystal=replace(crystal, damage=hurt))
    left = Simulator(damaged, amplitudes, options)._undamaged(exposure)
    found, plain, both = (
        simulate(x, exposure, amplitudes, options) for x in (experiment, whole, damaged)
    )
    for number, panel in enumerate(experiment.panels):
        spots = images.spots_left(experiment, number, exposure)
        halos = images.scattered(experiment, number, exposure, amplitudes, options)
        assert 0 < spots.min() < spots.max() < 1 and halos[panel.mask].min() > 0
        torch.testing.assert_close(found[number], plain[number] * spots + halos)
        torch.testing.assert_close(both[number], found[number] * left[number])
        assert (found[number][~panel.mask] == 0).all() and (halos[~panel.mask] == 0).all()


def test_what_is_left_of_spots_by_their_resolution():
    """exp(-4 pi^2 (sigma/d)^2) of an isotropic sigma, d of a pixel's middle by 2 d sin theta."""
    experiment, exposure, _, _ = with_diffuse()
    isotropic = Diffuse(vector(0.4, 0.4, 0.4), vector(*GAMMA))
    crystal = replace(experiment.crystal, diffuse=isotropic)
    found = images.spots_left(replace(experiment, crystal=crystal), 0, exposure)
    panel, s0 = experiment.panels[0], experiment.beam.direction[0, 0]
    at = panel.origin + 2.5 * panel.pixel_size[0] * panel.fast
    at = at + 1.5 * panel.pixel_size[1] * panel.slow
    theta = 0.5 * math.acos(float(at @ s0 / (at.norm() * s0.norm())))
    d = float(experiment.beam.wavelength[0, 0]) / (2 * math.sin(theta))
    assert float(found[1, 2]) == pytest.approx(math.exp(-4 * math.pi**2 * (0.4 / d) ** 2), rel=1e-9)


def test_it_is_sampled_as_finely_as_halos_ask_for():
    """Of 40 phi steps of 0.05 degrees two are evaluated, and the pixels are those of all. Measured:
    1.3e-3 of the brightest."""
    phi = tuple(0.3 + math.radians(0.05) * k for k in range(40))
    experiment, exposure, amplitudes, options = with_diffuse(phi=phi)
    coarse = images.coarser(experiment, exposure)
    assert len(coarse.phi) == 2
    assert sum(coarse.phi) / len(coarse.phi) == pytest.approx(sum(phi) / len(phi), rel=1e-2)
    found = images.scattered(experiment, 0, exposure, amplitudes, options)
    each = [
        images.scattered(experiment, 0, Exposure((p,), (0.5,)), amplitudes, options) for p in phi
    ]
    expected = sum(each) / len(each)
    assert (found - expected).abs().max() < 3e-3 * expected.max()
    assert images.coarser(experiment, Exposure((0.2,), (0.5,))) == Exposure((0.2,), (0.5,))


def test_the_jacobian_has_it_too():
    """By forward mode, against torch's gradients of the same image."""
    experiment, exposure, amplitudes, options = with_diffuse()
    some = experiment.crystal.diffuse

    def models(values: Tensor) -> tuple:
        changed = replace(some, sigma=values[:3], gamma=values[3:])
        return replace(experiment, crystal=replace(experiment.crystal, diffuse=changed)), amplitudes

    values = torch.cat([some.sigma, some.gamma])
    (image,), (columns,) = jacobian(models, values, exposure, options)
    leaf = values.clone().requires_grad_()
    (expected,) = simulate(*models(leaf)[:1], exposure, amplitudes, options)
    torch.testing.assert_close(image, expected.detach())
    for slow, fast in ((0, 0), (2, 3)):
        (gradient,) = torch.autograd.grad(expected[slow, fast], leaf, retain_graph=True)
        torch.testing.assert_close(columns[:, slow, fast], gradient, rtol=1e-9, atol=0)
        assert (gradient != 0).all()


def test_d_min_cuts_it_too():
    experiment, exposure, amplitudes, options = with_diffuse()
    whole = images.scattered(experiment, 0, exposure, amplitudes, options)
    cut = images.scattered(experiment, 0, exposure, amplitudes, replace(options, d_min=5.0))
    assert ((cut == 0) | (cut == whole)).all() and 0 < (cut == 0).sum() < cut.numel()
