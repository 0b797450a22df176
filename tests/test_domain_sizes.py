"""Domains of several sizes against integrals over the log-normal distribution by scipy."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from core_models import Setup, build, parameters
from scipy import integrate, stats
from torch import Tensor

from nanobragg_plugin import structure_factors
from nanobragg_plugin.domain_sizes import crystals_of_sizes, gauss_hermite
from nanobragg_plugin.models import (
    Beam,
    Crystal,
    Experiment,
    Exposure,
    Goniometer,
    Panel,
    SimulationOptions,
)
from nanobragg_plugin.simulate import simulate


def crystal(shape: str = "gauss") -> Crystal:
    setup = Setup(xtal_shape=shape)
    return build(setup, parameters(setup))[0].crystal


def spread(value: float = 0.3) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


@pytest.mark.parametrize("count", (1, 2, 5, 9))
def test_the_quadrature_is_numpys(count):
    nodes, weights = gauss_hermite(count)
    expected, shares = np.polynomial.hermite_e.hermegauss(count)
    np.testing.assert_allclose(nodes, expected, atol=1e-14)
    np.testing.assert_allclose(weights, shares / math.sqrt(2 * math.pi), atol=1e-14)


@pytest.mark.parametrize("width", (0.0, 0.1, 0.5))
def test_volume_and_mean_size_stay(width):
    """The volume, spot_scale Na Nb Nc, exactly; of the edges, weighted by volume, the mean, and the
    standard deviation of a log-normal distribution, sqrt(exp(sigma^2) - 1) (measured: 1e-4 of
    it at 0.5)."""
    one = crystal()
    several = crystals_of_sizes(one, spread(width), 5)
    volumes = torch.stack([x.spot_scale * x.Ncells_abc.prod() for x in several])
    assert float(volumes.sum()) == pytest.approx(float(one.spot_scale * one.Ncells_abc.prod()))
    edges = torch.stack([x.Ncells_abc for x in several]) / one.Ncells_abc
    shares = (volumes / volumes.sum())[:, None]
    mean = (shares * edges).sum(0)
    assert mean.tolist() == pytest.approx([1, 1, 1], abs=1e-5)
    deviation = (shares * (edges - mean).square()).sum(0).sqrt()
    assert deviation.tolist() == pytest.approx([math.sqrt(math.expm1(width**2))] * 3, rel=1e-3)
    assert several[0].umats is one.umats and several[0].A is one.A


@pytest.mark.parametrize("shape", ("gauss", "square"))
def test_the_profile_of_a_spot(shape):
    """Along h, integrated over k and l: of one size spot_scale N^4 times the profile (which has
    N^2 at h = 0 along each axis) over N along each of the other two; of all, the integral of
    that over the distribution, by scipy. Measured: 2e-5 of the peak."""
    one = crystal(shape)
    several = crystals_of_sizes(one, spread(0.2), 7)
    n_mean = float(one.Ncells_abc[0])
    h = np.linspace(0, 0.45, 40)

    def profile(n: float) -> np.ndarray:
        """Of a domain of n cells, per volume: over N^3."""
        if shape == "gauss":
            return n * np.exp(-2 * (n * h) ** 2 / 0.63)
        with np.errstate(invalid="ignore"):
            fringes = np.sin(np.pi * n * h) / np.sin(np.pi * h)
        return np.where(h == 0, n, fringes) ** 2 / n

    found = sum(float(x.spot_scale * x.Ncells_abc.prod()) * profile(float(x.Ncells_abc[0]))
                for x in several)  # fmt: skip
    distribution = stats.lognorm(0.2, scale=n_mean * math.exp(-(0.2**2) / 2))
    total = float(one.spot_scale * one.Ncells_abc.prod())
    expected, _ = integrate.quad_vec(
        lambda n: profile(n) * distribution.pdf(n), *distribution.interval(1 - 1e-12)
    )
    assert np.abs(found / total - expected).max() < 5e-5 * expected.max()
    assert np.abs(profile(n_mean) - expected).max() > 0.005 * expected.max()


def test_photons_of_a_whole_reflection_stay():
    """0 2 0, turned through the Ewald sphere: the sum over sizes is that of one, though the spot is
    another. Measured: 2e-4 (the Lorentz factor changes across a spot of 1.4 degrees)."""
    eye = torch.eye(3, dtype=torch.float64)
    steps = [math.radians(phi / 4) for phi in range(-40, 41)]
    total, image = zip(*(reflection(sizes, eye, steps) for sizes in (None, spread(0.2))))
    assert total[1] == pytest.approx(total[0], rel=1e-3)
    assert (image[1] - image[0]).abs().max() > 0.01 * image[0].max()


def reflection(width: Tensor | None, eye: Tensor, steps: list[float]) -> tuple[float, Tensor]:
    """Photons of 0 2 0, and its image, of domains of 8 cells or of several sizes."""
    lengths, pixel = torch.tensor([20.0, 24, 30], dtype=torch.float64), eye.new_tensor([0.1, 0.1])
    bragg = 2 * math.asin(1 / 24)
    origin = eye.new_tensor([-3.0, 50 * math.tan(bragg) + 3, -50])
    zero = eye.new_zeros(())
    panel = Panel(origin, eye[0], -eye[1], pixel, (60, 60), zero, zero)
    beam = Beam(-eye[2][None, None], eye.new_ones(1, 1), eye.new_ones(1), None, eye[0], zero + 1e28)
    one = replace(crystal(), A=torch.diag(1 / lengths)[None], Ncells_abc=eye.new_full((3,), 8.0))
    amplitudes = structure_factors.table(torch.tensor([[0, 2, 0]]), eye.new_tensor([100.0]))
    turned = tuple(math.asin(1 / 24) + phi for phi in steps)
    exposure = Exposure(turned, tuple((k + 0.5) / len(steps) for k in range(len(steps))))
    options = SimulationOptions(oversample=2, precision="double", compile="never", kernel="dense")
    image = torch.zeros(60, 60, dtype=torch.float64)
    for some in (one,) if width is None else crystals_of_sizes(one, width):
        experiment = Experiment((panel,), beam, Goniometer(eye[0], eye, eye[None]), some)
        image = image + simulate(experiment, exposure, amplitudes, options)[0]
    return float(image.sum()), image


def test_gradients():
    leaf = spread().requires_grad_()

    def numbers(width: Tensor, ncells: Tensor) -> Tensor:
        some = crystals_of_sizes(replace(crystal(), Ncells_abc=ncells), width, 3)
        return torch.cat([torch.cat([x.Ncells_abc, x.spot_scale[None]]) for x in some])

    ncells = crystal().Ncells_abc.clone().requires_grad_()
    assert torch.autograd.gradcheck(numbers, (leaf, ncells))
    with pytest.raises(ValueError, match="at least 1"):
        crystals_of_sizes(crystal(), spread(), 0)
