"""The gradient of every parameter: against finite differences, the reference kernel, and on the
peak and on the beam, where formulae as they are usually written give NaN."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from core_models import FEATURES, WATER_ONCE, Setup, build, parameters, sums
from torch import Tensor
from torch.autograd import gradcheck

from nanobragg_plugin.kernels import dense, reference
from nanobragg_plugin.models import XTAL_SHAPES
from nanobragg_plugin.simulate import simulate, simulate_panel

#: Everything at once: every parameter acts.
EVERYTHING = Setup(
    seed=11,
    image_size=(4, 3),
    domains=3,
    sources=2,
    layers=2,
    phi=(0.0, 0.03),
    xtal_shape="gauss",
    options={"oversample": 2},
)
#: In radians, degrees, Angstrom, mm: see core_models.parameters.
PARAMETERS = tuple(parameters(EVERYTHING))


def objective(setup: Setup, values: dict[str, Tensor], scale: float = 1.0) -> Tensor:
    """A weighted sum of the first panel's image, no two pixels of one weight."""
    experiment, exposure, amplitudes, options = build(setup, values)
    image = simulate_panel(experiment, 0, exposure, amplitudes, options)
    weights = torch.linspace(0.5, 1.5, image.numel(), dtype=image.dtype).reshape(image.shape)
    return (image * weights).sum() / scale


def agrees_with_differences(setup: Setup, name: str, eps: float = 1e-6, rtol: float = 1e-5) -> bool:
    """torch's gradcheck (central differences, float64) of one parameter: measured worst 6e-6 of
    a component (of the cell, a small one), else 3e-6, mostly 1e-8."""
    values = parameters(setup)
    if name == "amplitudes":  # of the 729, those that this image sees
        leaf = values[name].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(objective(setup, {**values, name: leaf}), leaf)
        used = gradient.nonzero()[:, 0]
        assert 5 < len(used) < 200
    scale = objective(setup, values).item()
    assert scale > 0

    def function(leaf: Tensor) -> Tensor:
        value = values[name].index_put((used,), leaf) if name == "amplitudes" else leaf
        return objective(setup, {**values, name: value}, scale)

    start = values[name][used] if name == "amplitudes" else values[name]
    leaf = start.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(function(leaf), leaf)
    assert gradient.abs().max() > 1e-6, f"{name} does nothing here"
    return gradcheck(function, (leaf,), eps=eps, atol=1e-7, rtol=rtol)


@pytest.mark.parametrize("name", PARAMETERS)
def test_gradcheck_of_every_parameter(name):
    assert agrees_with_differences(EVERYTHING, name)


@pytest.mark.parametrize(
    "xtal_shape, name",
    [
        (xtal_shape, name)
        for xtal_shape in ("square", "round", "gauss_star")
        for name in ("cell", "misorientation", "Ncells_abc", "wavelength", "fudge")
        if (xtal_shape, name) != ("square", "fudge")  # a square crystal has no fudge
    ],
)
def test_gradcheck_of_the_other_shapes(xtal_shape, name):
    setup = replace(EVERYTHING, xtal_shape=xtal_shape, layers=0, options={})
    assert agrees_with_differences(setup, name)


@pytest.mark.parametrize("mosaic_frame", ("crystal", "lab"))
def test_gradcheck_of_the_cap(mosaic_frame):
    """The cap's angle is rounded to single precision as in nanoBragg.c: differences need a
    wide step; measured 2.4e-6."""
    setup = replace(EVERYTHING, distribution="cap", mosaic_frame=mosaic_frame)
    assert agrees_with_differences(setup, "spread", eps=1e-4, rtol=2e-5)


@pytest.mark.parametrize("name", ("b_per_image", "loss_per_image", "wavelength", "origin"))
def test_gradcheck_of_a_damaged_crystal(name):
    setup = replace(EVERYTHING, damaged=True)
    assert agrees_with_differences(setup, name)


@pytest.mark.parametrize(
    "name", ("sigma", "gamma", "cell", "misorientation", "amplitudes", "wavelength", "spot_scale")
)
def test_gradcheck_of_diffuse_scattering(name):
    setup = replace(EVERYTHING, diffuse=True, damaged=True, options={"oversample": 1})
    assert agrees_with_differences(setup, name)


@pytest.mark.parametrize("name", ("cell", "spread", "cell_spread"))
def test_gradcheck_of_domains_with_their_own_cells(name):
    assert agrees_with_differences(replace(EVERYTHING, cells=True), name)


@pytest.mark.parametrize("name", ("cell", "misorientation", "axis_tilt", "beam_tilt", "wavelength"))
def test_gradcheck_of_a_scan_varying_experiment(name):
    setup = replace(EVERYTHING, varying=("crystal", "beam", "wavelength", "setting"))
    assert agrees_with_differences(setup, name)


@pytest.mark.parametrize("name", ("cell", "misorientation", "axis_tilt", "spread"))
def test_gradcheck_with_the_carryover(name):
    options = {"phi_carryover_mode": "c-parity", "batch_steps": 24}
    assert agrees_with_differences(replace(EVERYTHING, options=options), name)


@pytest.mark.parametrize(
    "change, names",
    [
        ({"options": {"interpolate": True}}, ("cell", "misorientation", "wavelength")),
        ({"curved": True}, ("curved", "origin", "panel_tilt", "mu")),
        ({"options": {"d_min": 4.0, "oversample_polar": False}}, ("cell", "origin", "kahn_factor")),
        ({"options": WATER_ONCE}, ("fluence", "spot_scale", "mu", "thickness", "origin")),
    ],
    ids=("interpolation", "curved", "d_min", "water"),
)
def test_gradcheck_of_nanobragg_c_features(change, names):
    """Measured worst case: 1e-6 of a component."""
    for name in names:
        assert agrees_with_differences(replace(EVERYTHING, **change), name), name


def gradients(module, setup: Setup) -> tuple[float, dict[str, Tensor | None]]:
    """A kernel's sums, and the gradients of a weighted sum of them, by parameter."""
    values = {name: value.requires_grad_() for name, value in parameters(setup).items()}
    found = sums(module, build(setup, values))
    weights = torch.linspace(0.5, 1.5, len(found), dtype=found.dtype)
    answer = torch.autograd.grad(found @ weights, list(values.values()), allow_unused=True)
    return found.sum().item(), dict(zip(values, answer))


@pytest.mark.parametrize("name", FEATURES)
def test_dense_and_reference_have_the_same_gradients(name):
    """In every feature, of every parameter: 1e-10 of its largest component (measured worst
    2.7e-12)."""
    setup = replace(FEATURES[name], seed=1)
    (photons, expected), (_, found) = gradients(reference, setup), gradients(dense, setup)
    compared = 0
    for parameter, gradient in expected.items():
        other = found[parameter]
        gradient, other = (torch.zeros(1) if g is None else g for g in (gradient, other))
        # the weight of a single source does nothing: its gradient is rounding, 3e-16 of the sums
        size = gradient.abs().max().item()
        assert (other - gradient).abs().max() <= 1e-10 * size + 1e-15 * photons, parameter
        compared += size > 1e-3
    assert compared >= (5 if "tophat" in name else 9)


def on_the_beam(xtal_shape: str) -> tuple[Setup, dict[str, Tensor]]:
    """The centre of pixel (slow 1, fast 2) stands in the direct beam: q = 0, h = k = l = 0."""
    setup = Setup(seed=6, xtal_shape=xtal_shape, layers=2, domains=2)
    values = parameters(setup)
    values["beam_tilt"] = torch.zeros(1, 3, dtype=torch.float64)
    values["panel_tilt"] = torch.zeros(1, 3, dtype=torch.float64)
    values["pixel_size"] = torch.tensor([2.0, 3.0], dtype=torch.float64)
    values["origin"] = torch.tensor([[-5.0, 4.5, -31.0]], dtype=torch.float64)
    return setup, values


def photons_on_the_beam(values: dict[str, Tensor], edges: list[float], xtal_shape: str) -> float:
    """What must arrive there: F = F(000) (core_models leaves it to default_F, 21), F_latt its
    maximum, polarization 1, and for each layer what it captures at normal incidence times
    p_fast p_slow/R^2 at its mean depth of absorption, integrated numerically."""
    mu, angle = values["mu"].item(), 0.0
    for top, bottom in zip(edges[:-1], edges[1:]):
        z = torch.linspace(top, bottom, 20001, dtype=torch.float64)
        absorbed = torch.exp(-mu * z)
        depth = (torch.trapezoid(z * absorbed, z) / torch.trapezoid(absorbed, z)).item()
        angle += (math.exp(-mu * top) - math.exp(-mu * bottom)) * 6.0 / (31.0 + depth) ** 2
    maximum = values["Ncells_abc"].prod().item()
    if xtal_shape == "round":
        maximum *= 0.723601254558268  # nanoBragg.c
    beam = 7.94079248018965e-30 * 1e28 * values["fluence"].item() * values["spot_scale"].item()
    return beam * angle * (21.0 * maximum) ** 2


@pytest.mark.parametrize("precision", ("double", "mixed"))
@pytest.mark.parametrize("xtal_shape", XTAL_SHAPES)
def test_gradients_are_finite_on_the_beam(xtal_shape, precision):
    setup, values = on_the_beam(xtal_shape)
    setup = replace(setup, options={"precision": precision})
    values = {name: value.requires_grad_() for name, value in values.items()}
    model = build(setup, values)
    pixel = simulate(*model)[0][1, 2]
    expected = photons_on_the_beam(values, model[3].layers[0].edges.tolist(), xtal_shape)
    tolerance = 1e-9 if precision == "double" else 1e-6
    assert pixel.item() == pytest.approx(expected, rel=tolerance)
    answer = torch.autograd.grad(pixel, list(values.values()), allow_unused=True)
    by_name = dict(zip(values, answer))
    for name, gradient in by_name.items():
        assert gradient is None or torch.isfinite(gradient).all(), name
    # it goes with (Na Nb Nc)^2
    n_gradient = 2 * expected / values["Ncells_abc"].detach()
    torch.testing.assert_close(by_name["Ncells_abc"], n_gradient, rtol=10 * tolerance, atol=0)
    assert by_name["fluence"].item() == pytest.approx(
        expected / values["fluence"].item(), rel=tolerance
    )


@pytest.mark.parametrize("xtal_shape", XTAL_SHAPES)
def test_gradients_are_finite_on_a_bragg_peak(xtal_shape):
    """a* is laid through a pixel's own q: the pixel has h = 1, k = l = 0 but for rounding."""
    setup = Setup(seed=7, xtal_shape=xtal_shape, phi=(0.0,))
    values = parameters(setup)
    experiment, exposure, amplitudes, options = build(setup, values)
    panel, beam = experiment.panels[0], experiment.beam
    point = panel.origin + 2.5 * panel.pixel_size[0] * panel.fast
    point = point + 1.5 * panel.pixel_size[1] * panel.slow
    q = (point / point.norm() - beam.direction[0, 0]) / beam.wavelength[0, 0]
    r = experiment.goniometer.setting[0] @ experiment.goniometer.fixed
    A = experiment.crystal.A[0].clone()
    A[:, 0] = r.T @ q
    A = A.requires_grad_()
    n = values["Ncells_abc"].requires_grad_()
    crystal = replace(experiment.crystal, A=A[None], Ncells_abc=n)
    model = (replace(experiment, crystal=crystal), exposure, amplitudes, options)
    pixel = torch.tensor([[1, 2]])
    for module in (dense, reference):
        found = sums(module, model, pixels=pixel)[0]
        gradient_A, gradient_n = torch.autograd.grad(
            found, [A, n], allow_unused=True, materialize_grads=True
        )
        # on the peak the sum is F^2 (Na Nb Nc)^2 and factors without N, at its maximum in A
        torch.testing.assert_close(gradient_n, 2 * found.detach() / n.detach(), rtol=1e-9, atol=0)
        assert gradient_A.abs().max() < 1e-6 * found * n.detach().max()


def saved_bytes(function) -> int:
    """What autograd keeps of a forward pass for the backward pass."""
    kept = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel() * tensor.element_size())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        function()
    return sum(kept)


@pytest.mark.parametrize("mode", ("spec", "c-parity"))
def test_the_gradient_of_many_batches_is_that_of_one(mode):
    setup = Setup(
        seed=9, image_size=(31, 23), domains=4, phi=(0.0, 0.1), options={"phi_carryover_mode": mode}
    )
    values = {name: value.requires_grad_() for name, value in parameters(setup).items()}
    leaves = [values[name] for name in ("cell", "misorientation", "spread", "axis_tilt", "origin")]
    whole = torch.autograd.grad(objective(setup, values), leaves)
    small = replace(setup, options={**setup.options, "batch_steps": 400})
    parts = torch.autograd.grad(objective(small, values), leaves)
    for one, other in zip(whole, parts):
        assert (one - other).abs().max() < 1e-10 * one.abs().max()


def test_the_forward_pass_keeps_pixels_not_samples():
    """713 pixels of 80 samples: of these the kernel alone keeps none, and of pixels dozens of
    tensors, which `simulate` does not."""
    setup = Setup(seed=9, image_size=(31, 23), domains=40, phi=(0.0, 0.1))
    values = {name: value.requires_grad_() for name, value in parameters(setup).items()}
    model = build(setup, values)
    pixels = 31 * 23 * 8
    assert 20 * pixels < saved_bytes(lambda: sums(dense, model)) < 100 * pixels
    assert saved_bytes(lambda: simulate(*model)) < 16 * pixels
