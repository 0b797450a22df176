"""What the simulation has to compare with nanoBragg.c: d_min, the curved detector, its water.

The C program's own images of them are in test_golden.py; here each is held against its formula.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from core_models import WATER_ONCE, Setup, build, parameters
from torch import Tensor

from nanobragg_plugin import background, geometry, lattice
from nanobragg_plugin.kernels.batches import simulated_pixels
from nanobragg_plugin.models import XTAL_SHAPES, Panel, SimulationOptions
from nanobragg_plugin.simulate import simulate


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def image(model, **options) -> Tensor:
    return simulate(*model[:3], replace(model[3], **options))[0]


def resolution(model) -> Tensor:
    """lambda/(2 sin theta) at the pixels' centres, [slow, fast], of the first source."""
    experiment = model[0]
    panel, beam = experiment.panels[0], experiment.beam
    slow, fast = (simulated_pixels(panel).double() + 0.5).unbind(1)
    s1 = geometry.unit(geometry.lab_position(panel, slow, fast))[0]
    s0 = beam.direction[0, 0] / beam.direction[0, 0].norm()
    two_theta = torch.arccos(s1 @ s0)
    return (beam.wavelength[0, 0] / 2 / torch.sin(two_theta / 2)).reshape(panel.shape)


# d_min


def test_d_min_leaves_pixels_out_and_the_others_as_they_are():
    setup = Setup(seed=3)
    model = build(setup, parameters(setup))
    inside = resolution(model) >= 7.5
    assert 0 < inside.sum() < 20
    whole, cut = image(model), image(model, d_min=7.5)
    assert (whole > 0).all()
    torch.testing.assert_close(cut, whole * inside, rtol=1e-12, atol=0)


def test_the_beam_itself_is_never_cut():
    """q = 0 has no resolution to speak of: d is infinite."""
    setup = Setup(seed=6)
    values = parameters(setup)
    values["beam_tilt"], values["panel_tilt"] = torch.zeros(2, 1, 3, dtype=torch.float64)
    values["pixel_size"] = vector(2.0, 3.0)
    values["origin"] = vector(-5.0, 4.5, -31.0)[None]
    cut = image(build(setup, values), d_min=1e6)
    assert cut[1, 2] > 0 and (cut > 0).sum() == 1


def two_sources(first: float, second: float):
    """An experiment of two sources of these wavelengths and other directions, and one of the
    second alone; the sources' weights are alike."""
    setup = Setup(seed=3, sources=2, phi=(0.1, 0.2))
    values = {**parameters(setup), "wavelength": vector(first, second), "weight": vector(1, 1)}
    alone = {
        **values,
        "wavelength": values["wavelength"][1:],
        "weight": values["weight"][1:],
        "beam_tilt": values["beam_tilt"][1:],
    }
    return build(setup, values), build(replace(setup, sources=1), alone)


@pytest.mark.parametrize("oversample", (True, False))
def test_a_source_that_is_cut_still_counts(oversample):
    """The first source's photons are all beyond d_min: the image is half of that of the second,
    with the second's polarization even where that is taken once, of the first sample left."""
    options = {"d_min": 8.0, "oversample_polar": oversample}
    both, alone = two_sources(0.1, 1.2)
    assert resolution(both).max() < 8.0
    found, expected = image(both, **options), image(alone, **options)
    assert (found > 0).any() and (found == 0).any()
    torch.testing.assert_close(found, expected / 2, rtol=1e-12, atol=0)


def test_a_scan_of_the_wavelength_is_cut_step_by_step():
    """The wavelength of scan points 1, 1.01 and 0.985 (core_models): between the resolutions of
    two steps only one of them is left."""
    setup = Setup(seed=3, varying=("wavelength",), phi=(0.1, 0.2))
    model = build(setup, parameters(setup))
    # positions 0.35 and 1.35 of scan points 0, 1 and 2
    scale = vector(1 + 0.35 * 0.01, 1.01 - 0.35 * 0.025)
    per_step = resolution(model)[..., None] * scale
    between = per_step[1, 2].mean().item()
    experiment, exposure, *rest = model
    steps = [
        replace(exposure, phi=exposure.phi[k : k + 1], position=exposure.position[k : k + 1])
        for k in range(2)
    ]
    images = torch.stack([image((experiment, step, *rest)) for step in steps], -1)
    expected = (images * (per_step >= between)).sum(-1) / 2
    assert 0 < expected[1, 2] < images[1, 2].sum() / 2
    torch.testing.assert_close(image(model, d_min=between), expected, rtol=1e-11, atol=0)


def test_negative_figures_are_refused():
    for option in ("d_min", "water_c_um"):
        for value in (-1.0, math.nan):
            with pytest.raises(ValueError, match="must not be negative"):
                SimulationOptions(**{option: value})


# The curved detector


def test_a_curved_detector_of_a_beam_along_x():
    """fast = z and slow = -y, the mosflm convention: the beam's end (d, 0, 0) turned about -y by
    y/d, then about z by z/d; y and z have changed places, everything is at distance d."""
    d, zero = 80.0, torch.zeros((), dtype=torch.float64)
    panel = Panel(
        vector(d, 17.0, -23.0), vector(0, 0, 1), vector(0, -1, 0), vector(0.3, 0.4), (150, 90),
        zero, zero, curved=vector(d, 0, 0),
    )  # fmt: skip
    slow, fast = vector(0.5, 31.0, 89.5), vector(120.5, 60.0, 0.5)
    flat = geometry.lab_position(panel, slow, fast)
    y, z = flat[:, 1] / d, flat[:, 2] / d
    expected = d * torch.stack([y.cos() * z.cos(), y.cos() * z.sin(), y.sin()], -1)
    found = geometry.curve(panel, flat)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13 * d)
    torch.testing.assert_close(found.norm(dim=-1), vector(d, d, d), rtol=1e-14, atol=0)


# The water


def test_the_water_of_the_c_program():
    """40 micrometres cubed are 6.4e-8 g, or 2.1411e15 molecules, each of 2.57^2 r_e^2."""
    molecules = 6.4e-8 / 18.0 * 6.02214179e23
    expected = 2.57**2 * 7.94079248018965e-30 * 1e24 * molecules
    assert background.water_c(40.0, vector(1e24)).item() == pytest.approx(expected, rel=1e-13)
    assert molecules == pytest.approx(2.1411e15, rel=1e-4)


def water_in(model, **options) -> Tensor:
    """What much water adds to an image, over r_e^2 fluence and the sum that it starts from."""
    options = {**WATER_ONCE, "water_c_um": 3.0, **options}
    fluence = model[0].beam.fluence
    extra = image(model, **options) - image(model, **{**options, "water_c_um": 0.0})
    water = background.water_c(options["water_c_um"], fluence)
    return extra / (7.94079248018965e-30 * fluence * water)


def at_the_first_sub_pixel(model) -> dict[str, Tensor]:
    """Solid angle, polarization of unpolarized light, and s1 . n there, [slow, fast] each."""
    panel, beam = model[0].panels[0], model[0].beam
    slow, fast = (simulated_pixels(panel).double() + 0.25).unbind(1)
    s1, distance = geometry.unit(geometry.lab_position(panel, slow, fast))
    omega = panel.pixel_size.prod() * (panel.origin @ panel.normal) / distance**3
    cos_2theta = s1 @ (beam.direction[0, 0] / beam.direction[0, 0].norm())
    factors = {"omega": omega, "polar": (1 + cos_2theta**2) / 2, "cosine": s1 @ panel.normal}
    return {name: factor.reshape(panel.shape) for name, factor in factors.items()}


def unpolarized(setup: Setup):
    """Its spot_scale is not 1, so that what ought not to have it shows."""
    values = parameters(setup)
    assert values["spot_scale"] > 2
    return build(setup, {**values, "kahn_factor": torch.zeros((), dtype=torch.float64)})


@pytest.mark.parametrize(
    "oversampled, factors",
    [((), ("omega", "polar")), (("omega",), ("polar",)), (("polar",), ("omega",)),
     (("omega", "polar"), ())],
)  # fmt: skip
def test_the_water_has_the_factors_that_are_taken_once(oversampled, factors):
    """Without spot_scale, and divided by the steps: 2 phi, 4 sub-pixels. It is the difference of
    two images: measured 2e-15 of its largest."""
    model = unpolarized(Setup(seed=4, phi=(0.1, 0.2)))
    expected = torch.full((4, 5), 1 / 8, dtype=torch.float64)
    for name in factors:
        expected = expected * at_the_first_sub_pixel(model)[name]
    found = water_in(model, **{f"oversample_{name}": True for name in oversampled})
    assert (found - expected).abs().max() < 1e-12 * expected.max()


def test_the_water_is_captured_as_all_layers_or_as_the_last():
    """1 - exp(-mu t/rho) of the whole sensor, or what is left of it behind the layers before; that
    rho is each layer's own changes it by 3e-4 (measured)."""
    for capture in ("layer", "last"):
        setup = Setup(seed=4, layers=3, thick_sampling="start", thick_capture=capture)
        model = unpolarized(setup)
        panel, (layers,) = model[0].panels[0], model[3].layers
        factors = at_the_first_sub_pixel(model)
        rate = panel.mu / factors["cosine"]
        depth = layers.edges[-2] if capture == "last" else 0.0
        captured = torch.exp(-depth * rate) - torch.exp(-layers.edges[-1] * rate)
        expected = captured * factors["omega"] * factors["polar"] / 4
        torch.testing.assert_close(water_in(model), expected, rtol=1e-3, atol=0)
        everywhere = water_in(model, oversample_thick=True)
        torch.testing.assert_close(everywhere, expected / captured, rtol=1e-9, atol=0)


def test_the_water_of_a_pixel_that_is_wholly_cut():
    """Its polarization factor is never set: 0, unless there is no such correction (-nopolar) or it
    is taken at every sample."""
    setup = Setup(seed=3)
    options = {**WATER_ONCE, "oversample": 1, "d_min": 7.5}
    model = build(setup, parameters(setup))
    cut = resolution(model) < 7.5
    assert cut.any() and not cut.all()
    found = image(model, **options)
    assert not found[cut].any() and (found[~cut] > 0).all()
    bare = build(replace(setup, polarized=False), parameters(setup))
    for one, changes in ((bare, {}), (model, {"oversample_polar": True})):
        chosen = {**options, **changes}
        alone = image(one, **{**chosen, "d_min": 1e9})  # nothing but water
        assert (alone > 0).all()
        torch.testing.assert_close(image(one, **chosen)[cut], alone[cut], rtol=1e-12, atol=0)


# The lattice factor's factors


@pytest.mark.parametrize("shape", XTAL_SHAPES)
def test_f_latt_is_the_product_of_its_factors(shape):
    delta = tuple((torch.rand(3, 50, dtype=torch.float64) - 0.5) * 0.2)
    arguments = (vector(3, 5, 4), shape, vector(1.1)[0], 1e-3 * torch.eye(3, dtype=torch.float64))
    factors = lattice.factors(delta, *arguments)
    assert len(factors) == (3 if shape == "square" else 1)
    squared = lattice.squared(delta, *arguments)
    torch.testing.assert_close(math.prod(factors).square(), squared, rtol=1e-14, atol=0)
    if shape == "square":  # along a, b, c: sums over the cells
        for factor, d, n in zip(factors, delta, (3, 5, 4)):
            cells = torch.arange(n) - (n - 1) / 2
            expected = torch.cos(2 * math.pi * d[:, None] * cells).sum(1)
            torch.testing.assert_close(factor, expected, rtol=0, atol=1e-13)
