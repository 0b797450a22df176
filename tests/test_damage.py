"""Radiation damage against the decay of dials.scale, and ratios of images."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from core_models import Setup, build, parameters

from nanobragg_plugin import damage
from nanobragg_plugin.jacobian import jacobian
from nanobragg_plugin.models import Damage, Exposure
from nanobragg_plugin.simulate import Simulator, simulate
from nanobragg_plugin.trace import trace_pixel


def number(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


def test_the_factor_is_that_of_dials_scale():
    """Its decay component, of a B of -0.7 n Angstrom^2 at n images, n to the image's middle."""
    pytest.importorskip("dials")
    from dials.algorithms.scaling.model.components import smooth_scale_components as components
    from dials.array_family import flex

    d = [1.2, 2.0, 3.7, 30.0]
    for image in (0, 4):
        n = image + 0.5
        theirs = components.SmoothBScaleComponent1D(flex.double(4, -0.7 * n))
        theirs.data = {"x": flex.double([0.3, 0.8, 1.4, 1.7]), "d": flex.double(d)}
        theirs.update_reflection_data()
        exposure = Exposure((0.0, 0.1), (image + 0.25, image + 0.75))
        stol_sqr = torch.tensor(d, dtype=torch.float64) ** -2 / 4
        found = damage.part_left(Damage(number(0.7), number(0.0)), exposure, stol_sqr)
        np.testing.assert_allclose(found, list(theirs.calculate_scales()), rtol=1e-12)


def test_what_is_lost_an_image():
    """10 % of what is left, of 5 images and two halves: 0.9^6."""
    loss = Damage(number(0.0), number(-math.log(0.9)), 5.0)
    left = damage.part_left(loss, Exposure((0.0,), (0.5,)), torch.zeros(1))
    later = damage.part_left(loss, Exposure((0.0,), (1.0,)), torch.zeros(1))
    assert left.item() == pytest.approx(0.9**5.5) and later.item() == pytest.approx(0.9**6)


@pytest.mark.parametrize("precision", ("mixed", "double", "single"))
def test_images_traces_and_derivatives_are_damaged(precision):
    """An image is the undamaged one's times the factor at each pixel, trace and all."""
    setup = Setup(damaged=True, sources=2, panels=2, layers=2)
    experiment, exposure, amplitudes, options = build(setup, parameters(setup))
    options = replace(options, precision=precision, compile="never")
    whole = replace(experiment, crystal=replace(experiment.crystal, damage=None))
    found = simulate(experiment, exposure, amplitudes, options)
    before = simulate(whole, exposure, amplitudes, options)
    hurt = experiment.crystal.damage
    for panel, model in enumerate(experiment.panels):
        squares = damage.stol_sqr(model, experiment.beam, exposure)
        part = damage.part_left(hurt, exposure, squares)
        assert (
            torch.equal(found[panel], before[panel] * part.to(before[panel]))
            and 0 < part.min() < part.max() < 1
        )
        trace = trace_pixel(experiment, exposure, amplitudes, options, panel, 2, 1)
        assert trace.sums.photons == found[panel][2, 1].item()
        assert trace.sums.spots_left == part[2, 1].to(found[panel]).item()

    def models(vector):
        changed = replace(hurt, b_per_image=vector[0], loss_per_image=vector[1])
        return replace(experiment, crystal=replace(experiment.crystal, damage=changed)), amplitudes

    start = torch.stack([hurt.b_per_image, hurt.loss_per_image])
    images, columns = jacobian(models, start, exposure, options)
    close = {"rtol": 1e-5 if precision == "single" else 1e-6, "atol": 0, "check_dtype": False}
    n = 5 + exposure.position[0]
    for panel, model in enumerate(experiment.panels):
        squares = damage.stol_sqr(model, experiment.beam, exposure)
        torch.testing.assert_close(images[panel], found[panel], **close)
        # d/dB and d/dloss of exp(-n (loss + 2 B stol^2))
        expected = torch.stack([-2 * n * squares * found[panel], -n * found[panel]])
        torch.testing.assert_close(columns[panel], expected, **close)


def test_what_is_known_of_pixels_is_forgotten_with_the_beam():
    """Of a beam that changes along the scan, the resolution of a pixel does too."""
    setup = Setup(damaged=True, varying=("wavelength",))
    experiment, _, amplitudes, options = build(setup, parameters(setup))
    simulator = Simulator(experiment, amplitudes, options)
    exposures = [Exposure((0.1,), (position,)) for position in (0.0, 2.0)]
    with torch.no_grad():
        kept = [simulator.spots_left(exposure)[0] for exposure in exposures]
        for exposure, found in zip(exposures, kept):
            alone = Simulator(experiment, amplitudes, options).spots_left(exposure)[0]
            assert torch.equal(alone, found)
