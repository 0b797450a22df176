"""On another device the core gives what it gives on the CPU: images, gradients, derivatives.

The CPU itself, not compiled, is one of these devices: there nothing differs by a bit, which tries
the tests where there is no GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import core_models
import pytest
import sparse_models
import torch
from sparse_models import Case, Model
from torch import Tensor

from nanobragg_plugin import curve
from nanobragg_plugin.background import Material
from nanobragg_plugin.jacobian import jacobian
from nanobragg_plugin.models import Experiment, on_device, tensors_of
from nanobragg_plugin.rotation import from_vector
from nanobragg_plugin.simulate import Simulator, simulate
from nanobragg_plugin.structure_factors import StructureFactors

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU here")
#: What may differ: of an image, of its maximum; of a derivative, of its norm.
IMAGES = {"mixed": 1e-6, "double": 1e-12}
DERIVATIVES = {"mixed": 1e-4, "double": 1e-9}
#: What sparse may leave out of a sweep's images, of their maximum.
LEFT_OUT = 1e-3
SMALL = Case(image_size=(19, 14), domains=2)
CASES = {
    "plain": replace(SMALL, seed=1, image_size=(37, 34)),
    "masks, layers": replace(SMALL, seed=2, masked=True, layers=2),
    "c-parity": replace(SMALL, seed=3, options={"phi_carryover_mode": "c-parity"}),
    "scan points": replace(SMALL, seed=4, drift=True, same_way=True),
}
#: phi of c-parity, radians.
THROUGH_ZERO = (-0.003, 0.0, 0.003)

SHAPES, KERNELS = ("gauss", "square"), ("dense", "sparse")
#: On the CPU some suffice.
HERE = ("cpu", "never", "gauss", "sparse", "mixed"), ("cpu", "never", "square", "dense", "double")
THERE = product(("cuda",), ("never", "always"), SHAPES, KERNELS, IMAGES)
everywhere = pytest.mark.parametrize(
    "device, compile, shape, kernel, precision",
    (*HERE, *(pytest.param(*some, marks=GPU) for some in THERE)),
)
of_cases = pytest.mark.parametrize("name", CASES)


def model_of(name: str, shape: str, kernel: str, precision: str, part: float = 0.1) -> Model:
    """On the CPU. part: what sparse may leave out, of what may differ. What is near that limit may
    be kept on one device alone, so for derivatives it is little."""
    model = sparse_models.build(replace(CASES[name], xtal_shape=shape))
    experiment, exposure, amplitudes, options = model
    if options.phi_carryover_mode == "c-parity":
        exposure = replace(exposure, phi=THROUGH_ZERO)
    brightest = float(sparse_models.images(model, kernel="dense").max())
    own = {"tolerance": part * IMAGES[precision] * brightest, "compile": "never"}
    options = replace(options, kernel=kernel, precision=precision, **own)
    return experiment, exposure, amplitudes, options


def moved(model: Model, device: str, compile: str) -> Model:
    """The model there, to be compiled or not."""
    return on_device((*model[:3], replace(model[3], compile=compile)), device)


def alike(found: Sequence[Tensor], expected: Sequence[Tensor], device: str) -> list[Tensor]:
    """What was found, on the CPU: of the kind that is expected, there the same to the bit."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected):
        assert (one.device.type, one.dtype) == (device, other.dtype) and one.shape == other.shape
        assert device != "cpu" or torch.equal(one, other)
    return [one.detach().cpu() for one in found]


def check_images(
    found: list[Tensor],
    expected: list[Tensor],
    device: str,
    precision: str = "double",
    tolerance: float = 0.0,
) -> None:
    """tolerance: photons by which one pixel of a hundred may differ."""
    found, expected = (
        torch.cat([image.flatten() for image in one])
        for one in (alike(found, expected, device), expected)
    )
    difference, rounding = (found - expected).abs(), IMAGES[precision] * expected.max()
    assert rounding > 0
    assert difference.max() <= rounding + tolerance
    assert (difference > rounding).double().mean() <= 0.01


def check_derivatives(
    found: Sequence[Tensor], expected: Sequence[Tensor], device: str, precision: str
) -> None:
    """None of them is 0 here."""
    for one, other in zip(alike(found, expected, device), expected):
        assert other.norm() > 0
        assert (one - other).norm() <= DERIVATIVES[precision] * other.norm()


@everywhere
@of_cases
def test_sweeps(name, shape, kernel, precision, device, compile):
    """Three images, of the first of which the places of pixels are kept. sparse leaves out much."""
    model = model_of(name, shape, kernel, precision, LEFT_OUT / IMAGES[precision])

    def images(model: Model) -> list[Tensor]:
        experiment, exposure, amplitudes, options = model
        simulator = Simulator(experiment, amplitudes, options, images=3)
        found = []
        with torch.no_grad():
            choice = simulator.choose(exposure)
            for number in range(3):
                phi = tuple(angle + 0.002 * number for angle in exposure.phi)
                fluence = float(experiment.beam.fluence) * (1 + number / 8)
                found += simulator.image(replace(exposure, phi=phi), fluence)
        assert (choice.kernel, choice.compiled) == (kernel, options.compile == "always")
        assert kernel == "dense" or choice.kept < 0.9
        return found

    tolerance = model[3].tolerance if kernel == "sparse" else 0.0
    found = images(moved(model, device, compile))
    check_images(found, images(model), device, precision, tolerance)


@everywhere
@of_cases
def test_gradients(name, shape, kernel, precision, device, compile):
    model = model_of(name, shape, kernel, precision)

    def gradients(model: Model) -> tuple[list[Tensor], tuple[Tensor, ...]]:
        """The images, and a weighted sum's with respect to A, Ncells_abc, Fhkl, wavelength and the
        first panel's origin."""
        (panel, *others), beam = model[0].panels, model[0].beam
        tensors = model[0].crystal.A, model[0].crystal.Ncells_abc, model[2].Fhkl
        tensors = *tensors, beam.wavelength, panel.origin
        leaves = [one.detach().clone().requires_grad_() for one in tensors]
        crystal = replace(model[0].crystal, A=leaves[0], Ncells_abc=leaves[1])
        panels = (replace(panel, origin=leaves[4]), *others)
        experiment = replace(
            model[0], panels=panels, crystal=crystal, beam=replace(beam, wavelength=leaves[3])
        )
        images = simulate(experiment, model[1], replace(model[2], Fhkl=leaves[2]), model[3])
        weights = torch.linspace(1, 2, images[0].shape[1]).to(images[0])
        total = sum((image * weights).sum() for image in images)
        return [image.detach() for image in images], torch.autograd.grad(total, leaves)

    images, found = gradients(moved(model, device, compile))
    expected_images, expected = gradients(model)
    check_images(images, expected_images, device, precision)
    check_derivatives(found, expected, device, precision)


@everywhere
@of_cases
def test_jacobians(name, shape, kernel, precision, device, compile):
    """Of a turn of the crystal, a shift of the first panel, N, wavelength and amplitudes."""
    model = model_of(name, shape, kernel, precision)

    def derivatives(model: Model) -> tuple[list[Tensor], list[Tensor]]:
        experiment, exposure, amplitudes, options = model
        (panel, *others), beam, crystal = experiment.panels, experiment.beam, experiment.crystal

        def models(parameters: Tensor) -> tuple[Experiment, StructureFactors]:
            turn, shift, ncells, wavelength, scale = parameters
            along = crystal.A.new_tensor([0.5, -0.3, 0.8])
            changed = Experiment(
                (replace(panel, origin=panel.origin + shift * along), *others),
                replace(beam, wavelength=beam.wavelength * (1 + wavelength)),
                experiment.goniometer,
                replace(
                    crystal,
                    A=from_vector(turn * along) @ crystal.A,
                    Ncells_abc=crystal.Ncells_abc * (1 + ncells),
                ),
            )
            return changed, replace(amplitudes, Fhkl=amplitudes.Fhkl * (1 + scale))

        return jacobian(models, crystal.A.new_zeros(5), exposure, options)

    images, columns = derivatives(moved(model, device, compile))
    expected_images, expected = derivatives(model)
    check_images(images, expected_images, device, precision)
    found, expected = (
        torch.cat([column.flatten(1) for column in one], 1) for one in (columns, expected)
    )
    check_derivatives(found.unbind(), expected.unbind(), device, precision)


@pytest.mark.parametrize("device", ("cpu", pytest.param("cuda", marks=GPU)))
@pytest.mark.parametrize("name", core_models.FEATURES)
def test_every_feature(name, device):
    """Gradients with respect to all there is, that go through `on_device`. What does nothing, as
    the weight of a single source, has the rounding of the photons."""
    setup = replace(core_models.FEATURES[name], seed=1)

    def gradients(device: str) -> tuple[list[Tensor], tuple[Tensor, ...]]:
        values = core_models.parameters(setup)
        leaves = [value.requires_grad_() for value in values.values()]
        images = simulate(*moved(core_models.build(setup, values), device, "never"))
        weights = torch.linspace(1, 2, images[0].shape[1]).to(images[0])
        total = sum((image * weights).sum() for image in images)
        return images, torch.autograd.grad(total, leaves, allow_unused=True)

    (images, found), (expected_images, expected) = gradients(device), gradients("cpu")
    check_images(images, [image.detach() for image in expected_images], device)
    rounding = 1e-13 * float(sum(image.detach().sum() for image in expected_images))
    for one, other in zip(found, expected):
        assert (one is None) == (other is None)
        if one is not None:
            assert device != "cpu" or torch.equal(one, other)
            assert (one - other).norm() <= DERIVATIVES["double"] * other.norm() + rounding


def test_on_device():
    """`meta` is a device that every torch has."""
    setup = core_models.Setup(panels=2, layers=2, masked=True, curved=True, phi=(0.1, 0.2))
    model = core_models.build(setup, core_models.parameters(setup))
    found = on_device(model, "meta")
    before, after = list(tensors_of(*model)), list(tensors_of(*found))
    assert len(before) > 30 and {one.device.type for one in before} == {"cpu"}
    assert {one.device.type for one in after} == {"meta"}
    assert [(one.shape, one.dtype) for one in after] == [(one.shape, one.dtype) for one in before]
    assert [type(one) for one in found] == [type(one) for one in model]
    assert found[1] == model[1] and found[2].hkl_min == model[2].hkl_min
    assert found[0].panels[1].image_size == setup.image_size
    assert found[3].layers[1].sampling == setup.thick_sampling
    assert found[0].crystal.xtal_shape == setup.xtal_shape and found[3].precision == "double"
    assert found[0].panels[0].odet is None


@pytest.mark.parametrize("device", ("cpu", pytest.param("cuda", marks=GPU)))
def test_what_is_no_crystal(device):
    """A ring narrower than a pixel, and a measured profile."""
    model = model_of("masks, layers", "gauss", "dense", "double")
    stol = torch.linspace(0.05, 0.0501, 21, dtype=torch.float64)
    f = 1 + 9 * torch.sin(torch.linspace(0, 3.1, 21, dtype=torch.float64))
    middle = torch.zeros(1, dtype=torch.float64)
    ring = Material(stol, f, torch.ones_like(middle)[0], middle, middle + 1)

    def images(model: Model, ring: Material) -> list[Tensor]:
        experiment, exposure, amplitudes, options = model
        simulator = Simulator(experiment, amplitudes, options)
        profile = curve.linear(ring.stol, ring.f)
        seen = simulator.measured(exposure, profile)
        return [1e30 * one for one in simulator.scattered(exposure, (ring,))] + seen

    found = images(moved(model, device, "never"), on_device(ring, device))
    check_images(found, images(model, ring), device)
