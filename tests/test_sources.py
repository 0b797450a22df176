"""Divergence, dispersion and lists of sources (`nanobragg_plugin.sources`).

Directions are held against scipy's Rotation and spherical trigonometry, numbers of sources against
nanoBragg.c's own; its images of diverging and dispersed beams are in test_golden.py, the PHIL
parameters in test_beam_sources.py.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from core_models import Model, Setup, build, parameters
from scipy.spatial.transform import Rotation
from torch import Tensor

from nanobragg_plugin import structure_factors
from nanobragg_plugin.models import (
    Beam,
    Crystal,
    Experiment,
    Exposure,
    Goniometer,
    Panel,
    SimulationOptions,
)
from nanobragg_plugin.mosaic import identity_umats
from nanobragg_plugin.simulate import simulate
from nanobragg_plugin.sources import Grid, Spread, with_list, with_spread


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def grid(width: float, count: int) -> Grid:
    """Evenly from end to end."""
    return Grid(width, width / (count - 1), count)


def beam_of(
    direction: Tensor, wavelength: Tensor | None = None, axis: Tensor | None = None
) -> Beam:
    """One source; direction [3], or [points, 3] of a scan, of any length."""
    direction = direction.reshape(-1, 1, 3)
    return Beam(
        direction=direction / torch.linalg.vector_norm(direction, dim=-1, keepdim=True),
        wavelength=vector(1.1)[None] if wavelength is None else wavelength.reshape(-1, 1),
        weight=vector(1.0),
        kahn_factor=vector(0.7)[0],
        polarization_axis=vector(0.1, 0.9, -0.3) if axis is None else axis,
        fluence=vector(1e28)[0],
    )


TILTED = vector(0.2, -0.1, 0.9)
SPREAD = Spread(grid(8e-3, 3), grid(5e-3, 2), grid(0.04, 3), round=False)


def test_offsets_start_at_the_lower_end():
    assert Grid(6.0, 2.0, 4).offsets == (-3.0, -1.0, 1.0, 3.0)
    # a step that does not fill the range, and one that goes beyond
    assert Grid(6.0, 1.0, 3).offsets == (-3.0, -2.0, -1.0)
    assert Grid(6.0, 4.0, 3).offsets == (-3.0, 1.0, 5.0)
    assert Grid().offsets == (0.0,)


@pytest.mark.parametrize(
    "horizontal, vertical, number",
    [
        (2, 2, 4),
        (3, 3, 5),
        (4, 4, 12),
        (5, 5, 13),
        (4, 3, 8),
        (5, 3, 7),
        (6, 6, 24),
        (7, 4, 20),
        (8, 8, 44),
        (9, 5, 29),
        (2, 5, 10),
        (10, 10, 76),
    ],
)
def test_the_ellipse_holds_as_many_directions_as_nanobragg_c_s(horizontal, vertical, number):
    """Its "created a total of ... sources", of -hdivrange 6 -vdivrange 4 and these steps."""
    spread = Spread(grid(6e-3, horizontal), grid(4e-3, vertical))
    assert len(spread.directions) == number
    every = replace(spread, round=False).directions
    assert len(every) == horizontal * vertical
    # what is cut is farther out than what is left, by the distance that an ellipse has
    far = {at: math.hypot(at[0] / 6, at[1] / 4) for at in every}
    cut = set(every) - set(spread.directions)
    assert not cut or min(far[at] for at in cut) > max(far[at] for at in spread.directions)


def test_a_range_in_one_direction_is_not_cut():
    assert len(Spread(horizontal=grid(6e-3, 4)).directions) == 4
    assert len(Spread(vertical=grid(6e-3, 3)).directions) == 3


def test_directions_and_order():
    """Horizontal outermost, wavelengths innermost; the turns are scipy's, of an E vector that is
    neither a unit vector nor at right angles to the beam."""
    beam = beam_of(TILTED, axis=2 * vector(0.1, 0.9, -0.3))
    found = with_spread(beam, SPREAD)
    middle, axis = (v.squeeze().numpy() for v in (beam.direction, beam.polarization_axis))
    axis = axis / np.linalg.norm(axis)
    across = np.cross(middle, axis)
    across /= np.linalg.norm(across)
    expected = [
        (Rotation.from_rotvec(h * across) * Rotation.from_rotvec(v * axis)).apply(middle)
        for h in (-4e-3, 0, 4e-3)
        for v in (-2.5e-3, 2.5e-3)
        for _ in range(3)
    ]
    # measured worst case 1.2e-16
    np.testing.assert_allclose(found.direction[0], expected, rtol=0, atol=1e-15)
    wavelengths = 1.1 * np.tile([0.98, 1.0, 1.02], 6)
    np.testing.assert_allclose(found.wavelength[0], wavelengths, rtol=1e-15)
    assert found.weight.tolist() == [1.0] * 18
    for name in ("kahn_factor", "polarization_axis", "fluence"):
        assert getattr(found, name) is getattr(beam, name)


def test_mean_and_variance_of_a_divergence():
    """The mean direction is the beam's; the angles towards E and towards E x beam have the
    variance of n points evenly over a width w, w^2 (n + 1)/(12 (n - 1))."""
    axis = torch.linalg.cross(TILTED, vector(1.0, 0.5, 0.0))
    beam = beam_of(TILTED, axis=axis)
    found = with_spread(beam, Spread(grid(0.3, 7), grid(0.2, 4), round=False)).direction[0]
    middle, axis = beam.direction[0, 0], axis / torch.linalg.vector_norm(axis)
    mean = found.mean(0)
    torch.testing.assert_close(mean / torch.linalg.vector_norm(mean), middle, rtol=0, atol=1e-15)
    up = torch.linalg.cross(axis, middle)
    horizontal = torch.atan2(found @ axis, found @ middle)
    vertical = torch.asin(found @ up)
    for angles, width, count in ((horizontal, 0.3, 7), (vertical, 0.2, 4)):
        variance = width**2 * (count + 1) / (12 * (count - 1))
        assert angles.mean().abs() < 1e-15
        assert float(angles.var(correction=0)) == pytest.approx(variance, rel=1e-13)


@pytest.mark.parametrize("varying", ["direction", "wavelength", "both"])
def test_a_beam_that_varies_over_the_scan(varying):
    """At each scan point the spread is that of the beam there."""
    directions = torch.stack([TILTED, TILTED + vector(0.01, 0, 0), TILTED - vector(0, 0.02, 0)])
    wavelengths = vector(1.1, 1.2, 0.9)
    beam = beam_of(
        TILTED if varying == "wavelength" else directions,
        None if varying == "direction" else wavelengths,
    )
    found = with_spread(beam, SPREAD)
    assert found.direction.shape == ((1 if varying == "wavelength" else 3), 18, 3)
    assert found.wavelength.shape == ((1 if varying == "direction" else 3), 18)
    for point in range(3):
        at = [min(point, len(v) - 1) for v in (beam.direction, beam.wavelength)]
        alone = with_spread(beam_of(beam.direction[at[0]], beam.wavelength[at[1]]), SPREAD)
        torch.testing.assert_close(found.direction[at[0]], alone.direction[0], rtol=0, atol=1e-15)
        torch.testing.assert_close(found.wavelength[at[1]], alone.wavelength[0], rtol=1e-15, atol=0)


def test_a_list_of_sources():
    """Directions away from the positions, whatever their lengths; weights of mean 1."""
    positions = torch.stack([vector(0, 0, -3), vector(0.4, 0, -0.3), vector(0, -5e-5, 0)])
    found = with_list(beam_of(TILTED), positions, vector(1.0, 1.1, 0.9), vector(1, 2, 6))
    expected = torch.stack([vector(0, 0, 1), vector(-0.8, 0, 0.6), vector(0, 1, 0)])
    torch.testing.assert_close(found.direction, expected[None], rtol=0, atol=1e-15)
    assert found.wavelength.tolist() == [[1.0, 1.1, 0.9]]
    torch.testing.assert_close(found.weight, vector(1, 2, 6) / 3, rtol=1e-15, atol=0)


# ---- images


def model(beam: Beam | None = None, **setup) -> Model:
    setup = Setup(seed=4, image_size=(7, 5), **setup)
    experiment, *rest = build(setup, parameters(setup))
    return (experiment if beam is None else replace(experiment, beam=beam), *rest)


def image(made: Model, beam: Beam) -> Tensor:
    experiment, *rest = made
    return simulate(replace(experiment, beam=beam), *rest)[0]


def alone(beam: Beam, source: int) -> Beam:
    """One of its sources."""
    return replace(
        beam,
        direction=beam.direction[:, source : source + 1],
        wavelength=beam.wavelength[:, source : source + 1],
        weight=torch.ones_like(beam.weight[:1]),
    )


def test_an_image_is_the_weighted_mean_of_those_of_single_sources():
    made = model(phi=(0.1, 0.2))
    back = -made[0].beam.direction[0]
    positions = back + 0.05 * torch.randn(4, 3, dtype=torch.float64)
    wavelengths, weights = vector(1.05, 1.1, 1.15, 0.9), vector(0.2, 3.0, 1.0, 0.7)
    beam = with_list(made[0].beam, positions, wavelengths, weights)
    singles = torch.stack([image(made, alone(beam, source)) for source in range(4)])
    expected = (weights[:, None, None] * singles).sum(0) / weights.sum()
    found = image(made, beam)
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)  # measured worst case 5e-16
    unweighted = image(made, with_list(made[0].beam, positions, wavelengths, 0 * weights + 5))
    torch.testing.assert_close(unweighted, singles.mean(0), rtol=1e-14, atol=0)
    assert not torch.allclose(found, unweighted, rtol=1e-2)


def test_an_image_of_a_spread_is_the_mean_of_those_of_single_sources_over_a_scan():
    made = model(phi=(0.1, 0.2), varying=("beam", "wavelength"))
    assert len(made[0].beam.direction) == 3
    beam = with_spread(made[0].beam, Spread(grid(0.1, 3), grid(0.05, 3), grid(0.1, 2)))
    assert len(beam.weight) == 10
    singles = [image(made, alone(beam, source)) for source in range(10)]
    torch.testing.assert_close(image(made, beam), torch.stack(singles).mean(0), rtol=1e-14, atol=0)


def bragg_ring(dispersion: Grid) -> tuple[Tensor, Tensor]:
    """Photons, and 2theta of the pixels' centres, radians, of reflection 8 0 0 of a gauss crystal,
    turned through its Bragg angle in fine steps, along a row of pixels."""
    cell, domain, distance = 30.0, 40.0, 100.0
    theta = math.asin(8 / (2 * cell))  # of 1 Angstrom
    middle = distance * math.tan(2 * theta)
    pixel, pixels = 0.02, 300
    panel = Panel(
        origin=vector(middle - pixel * pixels / 2, -0.5, distance),
        fast=vector(1, 0, 0),
        slow=vector(0, 1, 0),
        pixel_size=vector(pixel, 1.0),
        image_size=(pixels, 1),
        thickness=vector(0)[0],
        mu=vector(0)[0],
    )
    beam = beam_of(vector(0, 0, 1), vector(1.0), vector(0, 1, 0))
    crystal = Crystal(
        A=torch.eye(3, dtype=torch.float64)[None] / cell,
        Ncells_abc=vector(domain, domain, domain),
        xtal_shape="gauss",
        fudge=vector(1)[0],
        spot_scale=vector(1)[0],
        umats=identity_umats(),
    )
    still = torch.eye(3, dtype=torch.float64)
    experiment = Experiment(
        (panel,),
        with_spread(beam, Spread(dispersion=dispersion)),
        Goniometer(vector(0, 1, 0), still, still[None]),
        crystal,
    )
    steps = torch.linspace(theta - 0.015, theta + 0.015, 240).tolist()
    one = structure_factors.table(torch.tensor([[8, 0, 0]]), vector(10.0))
    photons = simulate(
        experiment,
        Exposure(tuple(steps), (0.5,) * len(steps)),
        one,
        SimulationOptions(precision="double"),
    )[0][0]
    x = panel.origin[0] + pixel * (torch.arange(pixels, dtype=torch.float64) + 0.5)
    return photons, torch.atan(x / distance)


def test_dispersion_spreads_a_spot_along_its_radius():
    """Bragg's law: 2theta of every wavelength is 2 asin(wavelength/2d), so d(2theta) is
    2 tan(theta) d(wavelength)/wavelength, and the variances of spot and spectrum add up."""
    width, count, theta = 0.04, 5, math.asin(8 / 60)
    mono, angles = bragg_ring(Grid())
    spread, _ = bragg_ring(grid(width, count))
    pixel = float(angles[1] - angles[0])

    def moments(photons: Tensor) -> tuple[float, float]:
        mean = (photons * angles).sum() / photons.sum()
        return float(mean), float((photons * (angles - mean) ** 2).sum() / photons.sum())

    assert moments(mono)[0] == pytest.approx(2 * theta, abs=pixel / 100)  # measured 1e-3 of it
    inner = spread[1:-1]
    peaks = torch.nonzero((inner > spread[:-2]) & (inner > spread[2:]) & (inner > 1e-3))[:, 0] + 1
    expected = [2 * math.asin((1 + k * width / 4) * 8 / 60) for k in range(-2, 3)]
    assert angles[peaks].tolist() == pytest.approx(expected, abs=pixel)
    extent = 2 * math.tan(theta) * width
    assert float(angles[peaks[-1]] - angles[peaks[0]]) == pytest.approx(extent, abs=2 * pixel)
    added = moments(spread)[1] - moments(mono)[1]
    variance = extent**2 * (count + 1) / (12 * (count - 1))
    assert added == pytest.approx(variance, rel=1e-3)  # measured 2e-4: of second order


# ---- gradients


def test_gradients_of_a_spread():
    """torch's finite differences; of the direction, whose length is kept by the turns, of the
    wavelength and of the E vector."""

    def spread(direction: Tensor, wavelength: Tensor, axis: Tensor) -> tuple[Tensor, ...]:
        beam = beam_of(direction, wavelength, axis)
        found = with_spread(beam, SPREAD)
        return found.direction, found.wavelength

    inputs = [
        torch.stack([TILTED, TILTED + 0.1]),
        vector(1.1, 1.2),
        vector(0.1, 0.9, -0.3),
    ]
    assert torch.autograd.gradcheck(spread, [value.requires_grad_() for value in inputs])


def test_gradients_of_a_list():
    beam = beam_of(TILTED)

    def sources(*inputs: Tensor) -> tuple[Tensor, ...]:
        found = with_list(beam, *inputs)
        return found.direction, found.wavelength, found.weight

    inputs = [torch.randn(3, 3, dtype=torch.float64), vector(1.0, 1.1, 0.9), vector(1, 2, 6)]
    assert torch.autograd.gradcheck(sources, [value.requires_grad_() for value in inputs])


def test_gradients_of_an_image_of_a_spread():
    """Through the whole simulation, of the beam's middle."""
    made = model()
    beam = made[0].beam
    spread = Spread(grid(0.1, 2), grid(0.05, 2), grid(0.1, 2))

    def photons(direction: Tensor, wavelength: Tensor) -> Tensor:
        middle = direction / torch.linalg.vector_norm(direction)
        changed = replace(beam, direction=middle.reshape(1, 1, 3), wavelength=wavelength[None])
        return image(made, with_spread(changed, spread))

    inputs = [beam.direction[0, 0].clone(), beam.wavelength[0].clone()]
    scale = float(photons(*inputs).max())
    assert torch.autograd.gradcheck(
        lambda *values: photons(*values) / scale,
        [value.requires_grad_() for value in inputs],
        eps=1e-7,
        atol=1e-5,
        rtol=1e-4,
    )
