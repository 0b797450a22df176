"""Gradients of the sum over terms: precision, sparse against dense, threads, what is remembered.

`test_gradients.py` compares them with differences and with the reference kernel. Compiled here are
the slopes of all parameters, of the `square` and the `gauss` crystal.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from derivative_models import (
    CASES,
    difference,
    flat,
    gradients,
    leaves,
    made,
    on_peaks,
    same,
    uniform,
)
from sparse_models import Case, build, images
from torch import Tensor

from nanobragg_plugin import simulate
from nanobragg_plugin.kernels import batches, blocks
from nanobragg_plugin.kernels.dense import Kernel

# ---- precision


@pytest.mark.parametrize("compile", ("never", "always"))
@pytest.mark.parametrize("n", (30, 300))
@pytest.mark.parametrize("shape", ("square", "gauss"))
def test_mixed_precision(shape, n, compile, compiled_slopes):
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
def test_threads_change_nothing(compile, size, kernel, compiled_slopes, same_threads, monkeypatch):
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
def test_batches_of_compiled_code(pixels, compiled_slopes, monkeypatch):
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
