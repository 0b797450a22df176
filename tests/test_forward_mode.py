"""Tangents: dual numbers through the simulation, and Jacobians of parameters."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from derivative_models import (
    CASES,
    REFLECTIONS,
    flat,
    gradients,
    leaves,
    made,
    on_peaks,
    tensor,
    uniform,
)
from sparse_models import Model, build, images
from torch import Tensor
from torch.autograd import forward_ad

from nanobragg_plugin import simulate
from nanobragg_plugin.jacobian import jacobian

# ---- forward mode


def problem(model: Model):
    """For `jacobian`: models, and the parameters: those of `leaves` (of the amplitudes a few),
    spot_scale, and one that does nothing."""
    values = leaves(model)
    table = values.pop("amplitudes")
    h, k, l = (index - low + 1 for index, low in zip(REFLECTIONS[0], model[2].hkl_min))
    parts = [*values.values(), table[h, k, l - 1 : l + 2], tensor(1.0, 1.0)]

    def models(vector: Tensor):
        cut = vector.split([one.numel() for one in parts])
        changed = {name: part.reshape(values[name].shape) for name, part in zip(values, cut)}
        changed["amplitudes"] = table.clone()
        changed["amplitudes"][h, k, l - 1 : l + 2] = cut[-2]
        experiment, _, amplitudes, _ = made(model, changed)
        spot_scale = experiment.crystal.spot_scale * cut[-1][0]
        crystal = replace(experiment.crystal, spot_scale=spot_scale)
        return replace(experiment, crystal=crystal), amplitudes

    return models, torch.cat([one.flatten() for one in parts])


def columns(model: Model, **options: object) -> tuple[Tensor, Tensor]:
    """Photons [pixels] and derivatives [p, pixels] of all panels."""
    models, start = problem(model)
    images, found = jacobian(models, start, model[1], replace(model[3], **options))
    return flat(images), torch.cat([one.flatten(1) for one in found], 1)


def column_difference(found: Tensor, expected: Tensor) -> float:
    """The worst, as a part of the largest of its column."""
    size = expected.abs().amax(1).clamp(min=1e-300)
    assert torch.isfinite(found).all()
    return float(((found - expected).abs().amax(1) / size).max())


@pytest.mark.parametrize("shape", ("square", "gauss"))
def test_the_jacobian(shape, compiled_slopes):
    """Against gradients of a weighted sum in double: measured worst 2.1e-15 of the sum of sizes.
    In mixed precision, eager, compiled and sparse, as a part of a column's largest: from double
    1.6e-6, compiled from eager 3.8e-7."""
    model = on_peaks(30, shape)
    photons, exact = columns(model)
    assert not exact[-1].any() and not exact[9:12].eq(0).all(1).any()
    torch.testing.assert_close(exact[-2], photons, rtol=1e-12, atol=0)
    assert not exact[:, photons == 0].any() and (photons == 0).any()
    models, start = problem(model)
    start.requires_grad_()
    experiment, table = models(start)
    image = flat(simulate.simulate(experiment, model[1], table, model[3]))
    weights = uniform(len(image), seed=9)
    (gradient,) = torch.autograd.grad(image @ weights, start)
    size = exact.abs() @ weights.abs()
    assert ((exact @ weights - gradient).abs() <= 1e-13 * size).all()
    found = {}
    for options in (
        {"compile": "never"},
        {"compile": "always"},
        {"compile": "never", "kernel": "sparse"},
        {"compile": "always", "kernel": "sparse"},
    ):
        tolerance = 1e-9 * float(photons.max())
        own = {"kernel": "dense", "tolerance": tolerance, "precision": "mixed", **options}
        _, found[tuple(options.values())] = columns(model, **own)
    eager = found[("never",)]
    for one in found.values():
        assert column_difference(one, exact) <= 5e-6 and column_difference(one, eager) <= 1e-6


@pytest.mark.parametrize("kernel", ("dense", "sparse"))
@pytest.mark.parametrize("name", CASES)
def test_jacobians_of_every_case(name, kernel):
    """Against gradients of a weighted sum; with much left out by the sparse kernel. Measured worst
    6.9e-16 of the sum of sizes."""
    model = build(CASES[name])
    part = 1e-3 * float(images(model, kernel="dense").max())
    model = (*model[:3], replace(model[3], kernel=kernel, tolerance=part))
    names = ("strain", "turn", "Ncells_abc", "wavelength", "origin")
    values = {one: leaves(model)[one] for one in names}

    def models(vector: Tensor) -> tuple:
        cut = vector.split([one.numel() for one in values.values()])
        changed = {one: x.reshape(values[one].shape) for one, x in zip(values, cut)}
        experiment, _, table, _ = made(model, changed)
        return experiment, table

    start = torch.cat([one.flatten() for one in values.values()])
    found_images, columns = jacobian(models, start, model[1], model[3])
    photons, expected = gradients(model, names)
    torch.testing.assert_close(flat(found_images), photons, rtol=1e-12, atol=0)
    exact = torch.cat([one.flatten(1) for one in columns], 1)
    weights = uniform(len(photons), seed=9)
    wrong = exact @ weights - torch.cat([expected[one].flatten() for one in names])
    assert (wrong.abs() <= 1e-12 * (exact.abs() @ weights.abs())).all()


@pytest.mark.parametrize("kernel", ("dense", "sparse"))
def test_dual_numbers_go_through_the_simulation(kernel):
    """Of the crystal's A, against the jacobian's column. Measured worst 1.8e-15 of its largest."""
    model = on_peaks(30, "gauss", kernel=kernel, tolerance=1.0)
    models, start = problem(model)
    _, exact = columns(model)
    for number in (0, 7):
        with torch.no_grad(), forward_ad.dual_level():
            along = torch.zeros_like(start)
            along[number] = 1
            A = models(forward_ad.make_dual(start, along))[0].crystal.A
            A = forward_ad.make_dual(*(one.clone() for one in forward_ad.unpack_dual(A)))
            crystal = replace(models(start)[0].crystal, A=A)
            dual = (replace(model[0], crystal=crystal), *model[1:])
            found = forward_ad.unpack_dual(flat(simulate.simulate(*dual))).tangent
        worst = float((found - exact[number]).abs().max() / exact[number].abs().max())
        assert worst <= 1e-12


@pytest.mark.parametrize("grad", (False, True))
@pytest.mark.parametrize("kernel", ("dense", "sparse"))
@pytest.mark.parametrize("compile", ("never", "always"))
def test_dual_numbers_of_everything(compile, kernel, grad, compiled_slopes):
    """In mixed precision, whether compiled or not, with gradients besides or without: no tangent is
    lost. Measured worst 3.8e-7 of a column's largest."""
    own = {"precision": "mixed", "kernel": kernel, "compile": compile, "tolerance": 1e-3}
    model = on_peaks(30, "gauss", **own)
    models, start = problem(model)
    _, expected = columns(model, compile="never", kernel="dense")
    for number in (7, 9, 15):  # turn, Ncells_abc, origin
        with torch.set_grad_enabled(grad), forward_ad.dual_level():
            along = torch.zeros_like(start)
            along[number] = 1
            dual = forward_ad.make_dual(start.clone().requires_grad_(grad), along)
            experiment, table = models(dual)
            image = flat(simulate.simulate(experiment, model[1], table, model[3]))
            found = forward_ad.unpack_dual(image).tangent
            assert found is not None
            worst = (found.detach() - expected[number]).abs().max()
        assert worst <= 1e-6 * expected[number].abs().max(), number


@pytest.mark.parametrize("kernel", ("dense", "sparse"))
def test_a_jacobian_of_one_parameter_after_the_other(kernel):
    """Where it is not made at once: with nanoBragg.c's carryover. Against gradients; measured worst
    1.1e-15 of the sum of sizes."""
    own = {"kernel": kernel, "tolerance": 1e-3, "phi_carryover_mode": "c-parity"}
    model = on_peaks(30, "gauss", size=(13, 11), **own)
    models, start = problem(model)
    names, count = ("strain", "turn"), 9

    def of_few(vector: Tensor) -> tuple:
        return models(torch.cat([vector, start[count:]]))

    simulated, found = jacobian(of_few, start[:count], model[1], model[3])
    photons, expected = gradients(model, names)
    torch.testing.assert_close(flat(simulated), photons, rtol=1e-12, atol=0)
    exact, weights = torch.cat([one.flatten(1) for one in found], 1), uniform(len(photons), seed=9)
    wrong = exact @ weights - torch.cat([expected[name].flatten() for name in names])
    assert photons.any()
    assert (wrong.abs() <= 1e-12 * (exact.abs() @ weights.abs())).all()


@pytest.mark.parametrize("panel", (0, 1))
def test_a_jacobian_with_a_dark_panel(panel):
    model = on_peaks(30, "gauss")
    panels = list(model[0].panels)
    panels[panel] = replace(panels[panel], mask=torch.zeros_like(panels[panel].mask))
    models, start = problem((replace(model[0], panels=tuple(panels)), *model[1:]))
    images, found = jacobian(models, start, model[1], model[3])
    whole, expected = jacobian(*problem(model), model[1], model[3])
    assert not images[panel].any() and not found[panel].any()
    assert found[panel].shape == expected[panel].shape
    assert torch.equal(found[1 - panel], expected[1 - panel])
    assert torch.equal(images[1 - panel], whole[1 - panel])
