"""Derivatives by forward mode against gradients of the reference kernel, which shares no code with
them, and against torch's own forward mode."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from core_models import FEATURES, Model, Setup, build, parameters, sums
from torch import Tensor

from nanobragg_plugin.constants import R_E_SQR
from nanobragg_plugin.jacobian import jacobian
from nanobragg_plugin.kernels import reference
from nanobragg_plugin.kernels.batches import simulated_pixels
from nanobragg_plugin.models import Experiment
from nanobragg_plugin.structure_factors import StructureFactors

#: What is not among the parameters here: mu and thickness, which make the layers (options) too, and
#: of the amplitudes all but a few.
LEFT_OUT, AMPLITUDES = ("mu", "thickness"), slice(300, 420, 40)


def problem(setup: Setup) -> tuple[Callable[[Tensor], tuple], Tensor, Model]:
    """Models of all parameters one after the other, these parameters, and what they make."""
    values = parameters(setup)
    parts = {name: value for name, value in values.items() if name not in LEFT_OUT}
    parts["amplitudes"] = values["amplitudes"][AMPLITUDES]

    def models(vector: Tensor) -> tuple[Experiment, StructureFactors]:
        made, begin = dict(values), 0
        for name, value in parts.items():
            made[name] = vector[begin : begin + value.numel()].reshape(value.shape)
            begin += value.numel()
        some = torch.arange(len(values["amplitudes"]))[AMPLITUDES]
        made["amplitudes"] = values["amplitudes"].index_put((some,), made["amplitudes"])
        model = build(setup, made)
        return model[0], model[2]

    start = torch.cat([value.flatten() for value in parts.values()])
    return models, start, build(setup, values)


def weights(count: int) -> Tensor:
    """Of pixels, three times [3, n]."""
    draw = torch.Generator().manual_seed(0)
    return torch.rand(3, count, generator=draw, dtype=torch.float64)


def by_reference(setup: Setup) -> tuple[Tensor, Tensor]:
    """Photons [n] of the first panel, and the gradients [3, p] of their weighted sums."""
    models, start, (_, exposure, _, options) = problem(setup)
    start = start.clone().requires_grad_()
    experiment, amplitudes = models(start)
    photons = sums(reference, (experiment, exposure, amplitudes, options))
    photons = R_E_SQR * experiment.beam.fluence * photons
    rows = [
        torch.autograd.grad(photons @ weight, start, retain_graph=True)[0]
        for weight in weights(len(photons))
    ]
    return photons.detach(), torch.stack(rows)


@pytest.mark.parametrize("name", FEATURES)
def test_every_feature(name):
    """Of every parameter within 1e-10 of its derivative; measured worst 2e-12."""
    setup = replace(FEATURES[name], seed=1)
    models, start, (experiment, exposure, _, options) = problem(setup)
    photons, expected = by_reference(setup)
    images, columns = jacobian(models, start, exposure, options)
    assert len(images) == len(columns) == setup.panels
    slow, fast = simulated_pixels(experiment.panels[0]).unbind(1)
    assert (images[0][slow, fast] - photons).abs().max() <= 1e-12 * photons.max()
    assert columns[0].shape == (len(start), *images[0].shape)
    found = weights(len(photons)) @ columns[0][:, slow, fast].T
    size = expected.abs().amax(0)
    # what does nothing, as the weight of a single source, has the rounding of the photons
    assert ((found - expected).abs() <= 1e-10 * size + 1e-14 * photons.sum()).all()
    assert (size > 1e-6 * photons.sum()).sum() >= 20


@pytest.mark.parametrize("shape", ((0,), (), (2, 3)))
def test_parameters_of_another_shape(shape):
    models, _, (_, exposure, _, options) = problem(Setup())
    with pytest.raises(ValueError, match=r"parameters must be of shape \[p\], one at least, not"):
        jacobian(models, torch.zeros(shape, dtype=torch.float64), exposure, options)
