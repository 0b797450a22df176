"""Gradients and tangents of the sum over terms: precision, sparse against dense, threads, what is
remembered, and what is degenerate.

`test_gradients.py` compares them with differences and with the reference kernel. Compiled here are
the slopes of all parameters, of the `square` and the `gauss` crystal.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from sparse_models import Case, Model, build, images
from torch import Tensor
from torch.autograd import forward_ad

from nanobragg_plugin import mosaic, simulate, structure_factors
from nanobragg_plugin.jacobian import jacobian
from nanobragg_plugin.kernels import batches, blocks, compiled, derivatives
from nanobragg_plugin.kernels.dense import Kernel
from nanobragg_plugin.rotation import from_vector

#: Of the Ewald sphere's points, those where the panels of `on_peaks` are; and which reflections.
DIRECTIONS = ((0.35, 0.1, -1.0), (-0.2, 0.3, -1.0))
REFLECTIONS = ((11, 3, -2), (-4, 9, 5), (2, -5, 10))
NAMES = ("strain", "turn", "Ncells_abc", "fudge", "wavelength", "origin", "amplitudes")


def tensor(*values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def uniform(*shape: int, seed: int = 0) -> Tensor:
    """In [-1, 1]."""
    draw = torch.Generator().manual_seed(seed)
    return 2 * torch.rand(shape, generator=draw, dtype=torch.float64) - 1


def on_peaks(n: float, shape: str, size: tuple[int, int] = (31, 23), **options: object) -> Model:
    """Two panels, each about a reflection of a crystal of about n cells, its spot some ten pixels
    wide: all that is spread, in angle or wavelength, is so by a part of it. phi begins at 0."""
    experiment, _, _, own = build(Case(xtal_shape=shape, phi=2, masked=True, image_size=size))
    fine = 0.5 / (12 * n)
    beam, goniometer = experiment.beam, experiment.goniometer
    s0 = tensor(0.02, -0.01, -1)
    direction = s0 / s0.norm() + fine * uniform(1, 2, 3, seed=1)
    direction = direction / direction.norm(dim=-1, keepdim=True)
    beam = replace(beam, direction=direction, wavelength=1 + fine * uniform(1, 2, seed=2))
    s1 = tensor(*DIRECTIONS, (0.1, -0.3, -1.0))
    s1 = s1 / s1.norm(dim=1, keepdim=True)
    turn = goniometer.setting[0] @ from_vector(fine / 2 * goniometer.axis) @ goniometer.fixed
    A = turn.T @ (s1 - s0 / s0.norm()).T @ torch.linalg.inv(tensor(*REFLECTIONS).T)
    crystal = replace(
        experiment.crystal,
        A=A[None],
        Ncells_abc=n * tensor(1.0, 0.83, 1.21),
        umats=mosaic.mosaic_umats(tensor(fine)[0], 3, "gaussian", 5),
    )
    panels = []
    for panel, way in zip(experiment.panels, s1):
        middle = panel.pixel_size @ torch.stack([panel.fast, panel.slow]) * tensor(*size)[0] / 2
        mask = uniform(*panel.shape, seed=len(panels)) < 0.8
        panels.append(replace(panel, origin=30 * n * way - middle, mask=mask))
    axis = torch.arange(-12, 13)
    indices = torch.cartesian_prod(axis, axis, axis)
    table = structure_factors.table(indices, 100 + 60 * uniform(len(indices), seed=3), 20.0)
    experiment = replace(
        experiment, panels=tuple(panels), beam=beam, crystal=crystal, goniometer=goniometer
    )
    exposure = build(Case(phi=2))[1]
    return experiment, replace(exposure, phi=(0.0, fine)), table, replace(own, **options)


def leaves(model: Model) -> dict[str, Tensor]:
    """What is differentiated, by name: the strain (h k l) and the turn (radians) of the crystal
    among it."""
    experiment, _, table, _ = model
    values = {
        "strain": torch.zeros(6, dtype=torch.float64),
        "turn": tensor(0.3, -0.2, 0.1),
        "Ncells_abc": experiment.crystal.Ncells_abc,
        "fudge": experiment.crystal.fudge,
        "wavelength": experiment.beam.wavelength,
        "origin": torch.stack([panel.origin for panel in experiment.panels]),
        "amplitudes": table.Fhkl,
    }
    return {name: value.detach().clone() for name, value in values.items()}


def made(model: Model, values: dict[str, Tensor], **options: object) -> Model:
    """The model of these values."""
    experiment, exposure, table, own = model
    values = {**leaves(model), **values}
    xx, yy, zz, xy, xz, yz = values["strain"]
    strain = torch.stack([xx, xy, xz, xy, yy, yz, xz, yz, zz]).reshape(3, 3)
    turn = from_vector(values["turn"]) @ from_vector(tensor(0.3, -0.2, 0.1)).T
    A = turn @ experiment.crystal.A @ (torch.eye(3, dtype=torch.float64) + strain)
    of_crystal = {name: values[name] for name in ("Ncells_abc", "fudge")}
    experiment = replace(
        experiment,
        crystal=replace(experiment.crystal, A=A, **of_crystal),
        beam=replace(experiment.beam, wavelength=values["wavelength"]),
        panels=tuple(
            replace(panel, origin=origin)
            for panel, origin in zip(experiment.panels, values["origin"])
        ),
    )
    return experiment, exposure, replace(table, Fhkl=values["amplitudes"]), replace(own, **options)


def flat(images: list[Tensor]) -> Tensor:
    return torch.cat([image.flatten() for image in images])


def gradients(
    model: Model, names: tuple[str, ...] = NAMES, **options: object
) -> tuple[Tensor, dict[str, Tensor]]:
    """Photons of all panels, and gradients of their sum weighed at random, by name."""
    values = {name: leaves(model)[name].requires_grad_() for name in names}
    photons = flat(simulate.simulate(*made(model, values, **options)))
    if not photons.requires_grad:  # of an image in which nothing is lit
        return photons, {name: torch.zeros_like(value) for name, value in values.items()}
    weights = uniform(len(photons), seed=9)
    found = torch.autograd.grad(
        photons @ weights, list(values.values()), allow_unused=True, materialize_grads=True
    )
    return photons.detach(), dict(zip(names, found))


def difference(found: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, float]:
    """By name: the largest of a component, as a part of the gradient's norm."""
    assert found.keys() == expected.keys()
    answer = {}
    for name, one in expected.items():
        assert torch.isfinite(found[name]).all() and found[name].shape == one.shape
        size = max(float(one.norm()), 1e-300)
        answer[name] = float((found[name] - one).abs().max()) / size
    return answer


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    """To the bit."""
    assert found.keys() == expected.keys()
    return all(torch.equal(found[name], one) for name, one in expected.items())


@pytest.fixture(scope="module")
def ready() -> Iterator[None]:
    """The slopes of all parameters are compiled."""
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        pytest.skip("there is no C++ compiler")
    functions = compiled.lattice_sum_of, compiled.exceeds_of, compiled.channels_of
    for function in functions:
        function.cache_clear()
    for shape in ("square", "gauss"):
        kernel = Kernel(*on_peaks(30, shape, precision="mixed"))
        assert kernel.compile(for_sparse=shape == "square", slopes=(True, True))
    yield
    for function in functions:
        function.cache_clear()


@pytest.fixture
def threads() -> Iterator[None]:
    """Their number is what it was, afterwards."""
    count = torch.get_num_threads()
    yield
    torch.set_num_threads(count)


# ---- precision


@pytest.mark.parametrize("compile", ("never", "always"))
@pytest.mark.parametrize("n", (30, 300))
@pytest.mark.parametrize("shape", ("square", "gauss"))
def test_mixed_precision(shape, n, compile, ready):
    """Against double, of each parameter, an image of which a tenth is lit. Measured worst 3.9e-6
    (the wavelength's, whose terms cancel), of the other parameters 9.2e-7."""
    model = on_peaks(n, shape)
    photons, expected = gradients(model, precision="double")
    halves = photons.reshape(2, -1)
    assert ((halves > 1e-2 * photons.max()).sum(1) >= 50).all()
    _, found = gradients(model, precision="mixed", compile=compile, kernel="dense")
    parts = difference(found, expected)
    assert max(parts.values()) <= 1e-4, parts


# ---- sparse and dense

CASES = {
    "plain": Case(seed=3),
    "panels and mask": Case(seed=4, panels=3, masked=True, sources=3),
    "moving": Case(seed=5, drift=True, phi=2),
    "layers": Case(seed=6, layers=2, options={"oversample": 2}),
    "one way": Case(seed=7, sources=3, same_way=True, domains=9),
}


@pytest.mark.parametrize("shape", ("square", "gauss"))
@pytest.mark.parametrize("name", CASES)
def test_sparse_is_dense_where_all_is_kept(name, shape):
    """In double, with a tolerance below all photons; of a gauss crystal 1e-18, as its bound knows
    no less. Measured worst 2.3e-15 of both."""
    model = build(replace(CASES[name], xtal_shape=shape))
    photons, expected = gradients(model, kernel="dense")
    kept, found = gradients(model, kernel="sparse", tolerance=1e-30 if shape == "square" else 1e-18)
    torch.testing.assert_close(kept, photons, rtol=1e-12, atol=1e-12)
    parts = difference(found, expected)
    assert max(parts.values()) <= 1e-10, parts


@pytest.mark.parametrize("kernel", ("dense", "sparse"))
@pytest.mark.parametrize(
    "name, shape",
    (
        *((name, "square") for name in CASES),
        *(("one way", shape) for shape in ("gauss", "round", "tophat")),
        ("moving", "gauss"),
        ("panels and mask", "round"),
    ),
)
def test_as_torch_has_it(name, shape, kernel, monkeypatch):
    """In double, with much left out by the sparse kernel, against torch's own derivatives of the
    same sums. Measured worst 1.3e-14."""
    model = build(replace(CASES[name], xtal_shape=shape))
    brightest = float(images(model, kernel="dense").max())
    options = {"kernel": kernel, "tolerance": 1e-3 * brightest}
    photons, found = gradients(model, **options)
    monkeypatch.setattr(Kernel, "has_slopes", False)
    as_torch, expected = gradients(model, **options)
    torch.testing.assert_close(photons, as_torch, rtol=1e-12, atol=0)
    assert photons.any() and (kernel == "dense" or (photons == 0).any())
    parts = difference(found, expected)
    assert max(parts.values()) <= 1e-12, parts


@pytest.mark.parametrize("shape", ("square", "gauss"))
def test_what_a_tolerance_leaves_out(shape):
    """Of a tolerance that is a part of the brightest pixel: the gradient lacks a part of its norm.
    Measured worst 2.5e-3, 2.7e-6 and 5e-10 (a square crystal's; gauss 9.7e-5, 2.8e-7, 5e-10)."""
    model = on_peaks(30, shape)
    photons, expected = gradients(model, kernel="dense")
    for part, lacking in ((1e-2, 1e-2), (1e-4, 1e-4), (1e-6, 1e-6)):
        _, found = gradients(model, kernel="sparse", tolerance=part * float(photons.max()))
        parts = difference(found, expected)
        assert max(parts.values()) <= lacking, (part, parts)


# ---- threads, batches


@pytest.mark.parametrize("kernel", ("dense", "sparse"))
@pytest.mark.parametrize(
    "compile, size", (("never", (31, 23)), ("always", (31, 23)), ("always", (230, 190)))
)
def test_threads_change_nothing(compile, size, kernel, ready, threads, monkeypatch):
    """To the bit; in several batches, and in a single large one, but there for the origin, whose
    sum over more than 32768 pixels is torch's own. Measured worst 4.3e-16."""
    model = on_peaks(30, "square", size=size, precision="mixed")
    options = {"compile": compile, "kernel": kernel, "tolerance": 1.0}
    if size == (31, 23):
        options["batch_steps"] = 3000
        monkeypatch.setattr(batches, "BATCH_PIXELS", 100)
        monkeypatch.setattr(batches, "SPARSE_PIXELS", 100)
    else:
        options["batch_steps"] = 1 << 30
    torch.set_num_threads(1)
    photons, expected = gradients(model, **options)
    assert photons.any()
    for count in (2, 3):
        torch.set_num_threads(count)
        again, found = gradients(model, **options)
        assert torch.equal(again, photons)
        if size != (31, 23):
            parts = difference({"origin": found.pop("origin")}, {"origin": expected["origin"]})
            assert parts["origin"] <= 1e-14
        assert same(found, {name: expected[name] for name in found})


@pytest.mark.parametrize("kernel", ("dense", "sparse"))
@pytest.mark.parametrize("mode", ("spec", "c-parity"))
def test_batches_change_nothing(kernel, mode, monkeypatch):
    """In double. Measured worst 1.8e-15."""
    model = on_peaks(30, "gauss", kernel=kernel, tolerance=1.0, phi_carryover_mode=mode)
    _, expected = gradients(model)
    for pixels in (100, 17):
        monkeypatch.setattr(batches, "SPARSE_PIXELS", pixels)
        _, found = gradients(model, batch_steps=6 * pixels)
        parts = difference(found, expected)
        assert max(parts.values()) <= 1e-12, parts


@pytest.mark.parametrize("pixels", (100, 1))
def test_batches_of_compiled_code(pixels, ready, monkeypatch):
    """In mixed precision, where a batch has its own scale and centre: the photons to the bit,
    gradients measured worst 1.9e-6."""
    size = (31, 23) if pixels > 1 else (5, 4)
    model = on_peaks(30, "gauss", size=size, precision="mixed", compile="always", kernel="dense")
    photons, expected = gradients(model)
    monkeypatch.setattr(batches, "BATCH_PIXELS", pixels)
    again, found = gradients(model)
    assert torch.equal(again, photons)
    parts = difference(found, expected)
    assert max(parts.values()) <= 1e-5, parts


# ---- what is remembered


@pytest.fixture
def values_made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Points of each call of `Lattice.value`."""
    made_of, original = [], blocks.Lattice.value

    def counted(self: blocks.Lattice, s1_unit: Tensor) -> Tensor:
        made_of.append(s1_unit.shape[1])
        return original(self, s1_unit)

    monkeypatch.setattr(blocks.Lattice, "value", counted)
    return made_of


@pytest.mark.parametrize("kernel", ("dense", "sparse"))
@pytest.mark.parametrize("mode", ("spec", "c-parity"))
def test_sums_are_made_once(kernel, mode, values_made, monkeypatch):
    """And where there is no room for them once more in the backward pass: the gradient is the same
    to the bit."""
    model = build(Case(seed=3, layers=2, sources=2, options={"oversample": 2, "kernel": kernel}))
    model = (model[0], replace(model[1], phi=(0.0, 0.003, 0.006)), *model[2:])
    own = {"phi_carryover_mode": mode, "batch_steps": 3000, "tolerance": 1.0}
    values = {name: value.requires_grad_() for name, value in leaves(model).items()}
    photons = flat(simulate.simulate(*made(model, values, **own)))
    once = list(values_made)
    assert len(once) >= (16 if kernel == "sparse" else 32)
    weights = uniform(len(photons), seed=9)
    found = torch.autograd.grad(photons @ weights, list(values.values()))
    assert values_made == once
    monkeypatch.setattr(batches, "REMEMBERED_BYTES", 0)
    _, again = gradients(model, **own)
    assert sorted(values_made[len(once) :]) == sorted(2 * once)
    assert same(again, dict(zip(values, found)))


@pytest.mark.parametrize("room", (0, 1 << 20))
def test_backward_twice(room, values_made, monkeypatch):
    """Of one forward pass; and of a part of it."""
    monkeypatch.setattr(batches, "REMEMBERED_BYTES", room)
    model = on_peaks(30, "square", batch_steps=3000)
    values = {name: value.requires_grad_() for name, value in leaves(model).items()}
    names = [name for name in values if name != "fudge"]
    photons = flat(simulate.simulate(*made(model, values)))
    forward, some = len(values_made), [values[name] for name in names]
    loss = photons @ uniform(len(photons), seed=9)
    one, other = (torch.autograd.grad(loss, some, retain_graph=True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, other))
    assert len(values_made) == (3 if room == 0 else 1) * forward
    (alone,) = torch.autograd.grad(loss, values["turn"], retain_graph=True)
    assert torch.equal(alone, one[names.index("turn")])
    (other_loss,) = torch.autograd.grad(2 * photons.sum(), values["turn"])
    (expected,) = torch.autograd.grad(
        2 * flat(simulate.simulate(*made(model, values))).sum(), values["turn"]
    )
    assert torch.equal(other_loss, expected)


# ---- the sum itself


def sum_of(model: Model, count: int | None = None, terms: int | None = None):
    """`derivatives.lattice_sum` of the first panel's pixels as a function of s1_unit, maps, weight,
    squares, ncells and fudge; and these."""
    kernel = Kernel(*model)
    pixels = batches.simulated_pixels(model[0].panels[0])
    pixels = pixels[len(pixels) // 2 :][:count]
    ((sample, omega, _), *_) = kernel._samples(0, pixels)
    s1_unit, incidence = sample.s1_unit.T.contiguous(), kernel.incidences()[0]
    with torch.no_grad():
        lattice = kernel.lattice_of(incidence, kernel.abc, kernel._rough(s1_unit, omega))
    some = lattice.terms[:terms]
    if terms is not None:
        whole = replace(lattice.parts, terms=some)
        lattice = replace(lattice, terms=some, parts=whole)
    scatterer = lattice.scatterer

    def function(s1: Tensor, maps: Tensor, weight: Tensor, *of: Tensor) -> Tensor:
        squares, ncells, fudge = of
        changed = replace(scatterer, squares=squares, ncells=ncells, fudge=fudge)
        return derivatives.lattice_sum(
            lattice, s1, replace(some, maps=maps, weight=weight), changed, None
        )

    given = s1_unit, some.maps, some.weight, scatterer.squares, scatterer.ncells, scatterer.fudge
    return function, [one.detach().clone() for one in given]


PARTS = ("s1_unit", "maps", "weight", "squares", "ncells", "fudge")


@pytest.mark.parametrize("shape", ("square", "gauss", "round", "tophat"))
@pytest.mark.parametrize("precision", ("double", "mixed"))
@pytest.mark.parametrize("size", ((None, None), (1, 1), (1, None), (None, 1)))
def test_forward_is_reverse(size, precision, shape):
    """w (J v) = (J^T w) v of all inputs together and of each, as a part of their terms'
    norms: measured worst 2.6e-16, in mixed precision 5.9e-8."""
    function, given = sum_of(on_peaks(30, shape, precision=precision), *size)
    given = [one.requires_grad_() for one in given]
    value = function(*given)
    weights = uniform(len(value), seed=1)
    reverse = torch.autograd.grad(value @ weights, given)
    for which in ((0, 1, 2, 3, 4, 5), *((number,) for number in range(6))):
        with forward_ad.dual_level():
            duals, expected, scale = list(given), 0.0, 1e-300
            for number in which:
                one = given[number]
                along = uniform(*one.shape, seed=number).to(one) * (1e-3 if number < 2 else 1)
                duals[number] = forward_ad.make_dual(one, along)
                expected += float((reverse[number].double() * along.double()).sum())
                scale += float((reverse[number].double() * along.double()).abs().sum())
            found = forward_ad.unpack_dual(function(*duals)).tangent
        got = float(found.double() @ weights)
        scale += float(found.double().abs() @ weights.abs())
        assert abs(got - expected) <= (1e-14 if precision == "double" else 1e-6) * scale, which


@pytest.mark.parametrize("shape", ("square", "gauss"))
def test_what_is_not_a_number_stays_so(shape):
    """A NaN among the cotangents; and of zeros there are zeros."""
    function, given = sum_of(on_peaks(30, shape))
    given = [one.requires_grad_() for one in given]
    value = function(*given)
    wrong = torch.ones_like(value)
    wrong[7] = torch.nan
    s1, maps, weight, squares, ncells, fudge = torch.autograd.grad(
        value, given, wrong, retain_graph=True
    )
    assert s1[:, 7].isnan().all() and s1.isfinite().sum() == s1.numel() - 3
    assert all(one.isnan().all() for one in (maps, weight, ncells))
    assert squares.isnan().any() and fudge.isnan() == (shape == "gauss")
    zeros = torch.autograd.grad(value, given, torch.zeros_like(value))
    assert all(one.shape == of.shape and not one.any() for one, of in zip(zeros, given))


def test_a_pixel_that_is_not_a_number_makes_the_gradient_none():
    model = on_peaks(30, "gauss")
    values = {name: value.requires_grad_() for name, value in leaves(model).items()}
    photons = flat(simulate.simulate(*made(model, values)))
    loss = (photons * torch.where(photons == photons.max(), torch.nan, 1.0)).sum()
    for name, one in zip(values, torch.autograd.grad(loss, list(values.values()))):
        assert one.isnan().any(), name


def twice(function: Any, leaf: Tensor) -> None:
    (slope,) = torch.autograd.grad(function(leaf), leaf, create_graph=True)
    torch.autograd.grad(slope.sum(), leaf)


@pytest.mark.parametrize("power", (1, 2))
def test_second_derivatives_are_refused(power):
    """They would be those of all but the sum over terms; of a linear loss too, whose cotangent has
    no gradient."""
    function, given = sum_of(on_peaks(30, "gauss"))
    for number, one in enumerate(given):
        with pytest.raises(RuntimeError):
            leaf = one.clone().requires_grad_()
            others = given[:number], given[number + 1 :]
            twice(lambda x, a=others[0], b=others[1]: function(*a, x, *b).pow(power).sum(), leaf)
    model = on_peaks(30, "gauss")

    def loss(turn: Tensor) -> Tensor:
        photons = flat(simulate.simulate(*made(model, {"turn": turn})))
        return photons.pow(power).sum()

    with pytest.raises(RuntimeError):
        twice(loss, leaves(model)["turn"].requires_grad_())


@pytest.mark.parametrize("kernel", ("dense", "sparse"))
def test_nothing_is_lit(kernel):
    """All is masked, or below the tolerance: every gradient is 0, also beside that of the fluence,
    through which such an image has one."""
    model = on_peaks(30, "gauss", kernel=kernel, tolerance=1.0)
    panels = [replace(one, mask=torch.zeros_like(one.mask)) for one in model[0].panels]
    dark = [(replace(model[0], panels=tuple(panels)), *model[1:])]
    if kernel == "sparse":
        dark.append((*model[:3], replace(model[3], tolerance=1e30)))
    for one in dark:
        photons, found = gradients(one)
        assert not photons.any() and not any(slope.any() for slope in found.values())
        beam = one[0].beam
        fluence = beam.fluence.clone().requires_grad_()
        one = (replace(one[0], beam=replace(beam, fluence=fluence)), *one[1:])
        _, found = gradients(one)
        assert not any(slope.any() for slope in found.values())
        (slope,) = torch.autograd.grad(flat(simulate.simulate(*one)).sum(), fluence)
        assert slope == 0


def test_a_dark_panel_adds_nothing():
    model = on_peaks(30, "gauss")
    first, second = model[0].panels
    masked = replace(second, mask=torch.zeros_like(second.mask))
    _, found = gradients((replace(model[0], panels=(first, masked)), *model[1:]))
    assert not found["origin"][1].any() and found["origin"][0].any()
    found["origin"] = found["origin"][:1]
    _, expected = gradients((replace(model[0], panels=(first,)), *model[1:]))
    assert same(found, expected)


def test_a_pixel_and_a_term(ready):
    """In all ways that it can be simulated. Measured worst 0 in double, 2.3e-7 in mixed."""
    model = on_peaks(30, "square", size=(1, 1))
    experiment = model[0]
    beam = replace(
        experiment.beam,
        direction=experiment.beam.direction[:, :1],
        wavelength=experiment.beam.wavelength[:, :1],
        weight=tensor(1.0),
    )
    crystal = replace(experiment.crystal, umats=experiment.crystal.umats[:1])
    panels = (replace(experiment.panels[0], mask=None),)
    experiment = replace(experiment, panels=panels, beam=beam, crystal=crystal)
    exposure = replace(model[1], phi=model[1].phi[:1], position=model[1].position[:1])
    model = (experiment, exposure, *model[2:])
    photons, expected = gradients(model)
    assert photons > 0 and (expected["amplitudes"] != 0).sum() == 1
    for kernel in ("dense", "sparse"):
        for precision in ("double", "mixed"):
            for compile in ("never", "always")[: 1 + (precision == "mixed")]:
                options = {"kernel": kernel, "precision": precision, "compile": compile}
                _, found = gradients(model, **options, tolerance=1e-3)
                parts = difference(found, expected)
                assert max(parts.values()) <= (1e-12 if precision == "double" else 1e-5), parts


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
def test_the_jacobian(shape, ready):
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
def test_dual_numbers_of_everything(compile, kernel, grad, ready):
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
