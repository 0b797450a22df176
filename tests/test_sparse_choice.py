"""What the sparse kernel leaves to be done, when it is chosen, and that nothing depends on threads
and batches; its gradients. How exact it is: test_sparse.py."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from sparse_models import Case, build, images, tensor

from nanobragg_plugin import sampling, simulate
from nanobragg_plugin.kernels import batches, summing
from nanobragg_plugin.models import XTAL_SHAPES

PARITY = {"phi_carryover_mode": "c-parity"}


@pytest.mark.parametrize("shape, most", (("square", 0.35), ("gauss", 2e-3), ("tophat", 5e-4)))
def test_most_of_the_work_is_left_out(shape, most, monkeypatch):
    """Steps that are evaluated, of all; and what `Choice` says of them by its sample of pixels, of
    which few are within a spot."""
    model = build(Case(seed=31, xtal_shape=shape, ncells=(60, 90), domains=10, phi=5))
    tolerance = 1e-3 * float(images(model, kernel="dense").max()) or 1e-3  # hardly a tophat's spot
    counted, plain = [], summing.summed

    def counting(s1_unit, terms, *rest):
        counted.append(s1_unit.shape[1] * len(terms))
        return plain(s1_unit, terms, *rest)

    monkeypatch.setattr(summing, "summed", counting)
    steps = {kernel: 0 for kernel in ("dense", "sparse")}
    for kernel in steps:
        counted.clear()
        images(model, kernel=kernel, tolerance=tolerance)
        steps[kernel] = sum(counted)
    assert steps["dense"] == 2 * 43 * 34 * 5 * 10 * 2
    assert 0 < steps["sparse"] < most * steps["dense"]
    options = replace(model[3], kernel="sparse", tolerance=tolerance)
    choice = simulate.Simulator(model[0], model[2], options).choose(model[1])
    assert choice.steps == steps["dense"]
    assert 1 / 3 < choice.kept * steps["dense"] / steps["sparse"] < 3


def test_the_choice():
    """auto: sparse where that is estimated to pay, dense where it cannot be used or does not."""

    def choose(case, **options):
        model = build(case)
        options = replace(model[3], **options)
        return simulate.Simulator(model[0], model[2], options).choose(model[1])

    large, tiny = Case(seed=31, ncells=(60, 90)), Case(seed=31, xtal_shape="square", ncells=(1, 1))
    assert choose(large, tolerance=1e-2).kernel == "sparse"
    assert choose(large, tolerance=0.0).kernel == "dense"
    assert choose(tiny, tolerance=1e-20).kernel == "dense"
    assert choose(tiny, tolerance=1e-20, kernel="sparse").kernel == "sparse"
    forced = choose(large, tolerance=1e-2, kernel="dense")
    assert (forced.kernel, forced.kept, forced.compiled) == ("dense", None, False)
    text = str(choose(large, tolerance=1e-2))
    assert text.startswith("sparse; ") and "of which sparse evaluates about " in text
    model = build(large)
    assert torch.equal(
        images(model, tolerance=1e-2), images(model, kernel="sparse", tolerance=1e-2)
    )
    assert torch.equal(images(model), images(model, kernel="dense", tolerance=1e-2))


@pytest.mark.parametrize(
    "options, why",
    (
        ({"tolerance": 0.0}, "the tolerance is 0"),
        ({"interpolate": True}, "interpolated"),
        ({"water_c_um": 1.0}, "water"),
        ({**PARITY, "d_min": 2.0}, "c-parity"),
        ({"fudge": 0.0}, "no end"),
    ),
)
def test_what_has_no_bound_is_refused(options, why):
    """kernel=sparse is, and auto computes everything."""
    model = build(Case(seed=37, panels=1))
    own = {"tolerance": 1e6, **options}
    if "fudge" in own:
        crystal = replace(model[0].crystal, fudge=tensor(own.pop("fudge")))
        model = (replace(model[0], crystal=crystal), *model[1:])
    assert why in sampling.why_not_sparse(model[0], replace(model[3], **own))
    with pytest.raises(ValueError, match=why):
        images(model, kernel="sparse", **own)
    assert torch.equal(images(model, **own), images(model, kernel="dense", **own))


def test_what_has_a_bound_is_not_refused():
    for options in (PARITY, {"d_min": 2.0}, {"point_pixel": True}, {}):
        for shape in XTAL_SHAPES:
            model = build(Case(xtal_shape=shape, options=options))
            own = replace(model[3], tolerance=1e-3)
            assert sampling.why_not_sparse(model[0], own) is None
    square = replace(model[0].crystal, xtal_shape="square", fudge=tensor(0.0))
    assert sampling.why_not_sparse(replace(model[0], crystal=square), own) is None


@pytest.mark.parametrize("kernel", ("dense", "sparse"))
@pytest.mark.parametrize("precision", ("double", "mixed", "single"))
@pytest.mark.parametrize("options", ({}, PARITY), ids=("spec", "c-parity"))
def test_threads_and_batches_change_nothing(kernel, precision, options, monkeypatch):
    """To the bit."""
    own = {"kernel": kernel, "precision": precision, "tolerance": 1e-2, **options}
    case = Case(seed=41, xtal_shape="square", layers=2, domains=5, image_size=(23, 19))
    model = build(case)
    model = (model[0], replace(model[1], phi=(0.0, 0.003, 0.006)), *model[2:])
    expected, threads = images(model, **own), torch.get_num_threads()
    assert expected.any()
    try:
        for count, pixels, steps in ((2, 53, 1000), (3, 200, 200), (1, 101, 9990)):
            torch.set_num_threads(count)
            monkeypatch.setattr(batches, "SPARSE_PIXELS", pixels)
            found = images(model, batch_steps=steps, **own)
            assert torch.equal(found, expected), (count, pixels, steps)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("kernel", ("dense", "sparse"))
def test_kept_geometry_and_gradients_of_the_detector(kernel):
    """A simulator that has kept where the pixels are gives the gradient of one that has not."""
    model = build(Case(seed=61, sources=1, layers=1, panels=1, xtal_shape="square"))
    panel = model[0].panels[0]
    origin = panel.origin.clone().requires_grad_()
    experiment = replace(model[0], panels=(replace(panel, origin=origin),))
    options = replace(model[3], kernel=kernel, tolerance=1e-4 * float(images(model).max()))
    found = []
    for kept in (False, True):
        simulator = simulate.Simulator(experiment, model[2], options, 3)
        if kept:
            with torch.no_grad():
                simulator.image(model[1])
            assert simulator.prepared.rays
        (image,) = simulator.image(model[1])
        found.append(torch.autograd.grad(image.sum(), origin)[0])
    assert torch.equal(*found) and found[0].norm() > 0


@pytest.mark.parametrize("precision", ("double", "mixed"))
@pytest.mark.parametrize("once", (False, True))
def test_the_images_of_a_sweep(once, precision):
    """Of which the pixels' geometry is kept, as each is one sample: the same as alone, to the bit,
    and of a fluence of their own; sparse ones within the tolerance."""
    own = {name: not once for name in ("oversample_omega", "oversample_polar", "oversample_thick")}
    case = Case(seed=61, sources=1, layers=1, xtal_shape="square", ncells=(9, 30))
    model = build(replace(case, options={**own, "precision": precision, "kernel": "dense"}))
    exposures = [replace(model[1], phi=(0.003 * k, 0.003 * k + 0.001)) for k in range(3)]
    exposures = [replace(exposure, position=(0.2, 0.6)) for exposure in exposures]
    tolerance = 1e-4 * float(images(model).max())
    sparse = replace(model[3], kernel="sparse", tolerance=tolerance)
    sweeps = [simulate.Simulator(model[0], model[2], o, 3) for o in (model[3], sparse)]
    with torch.no_grad():
        for exposure in exposures:
            dense, found = (torch.cat([i.flatten() for i in s.image(exposure)]) for s in sweeps)
            assert torch.equal(dense, images((model[0], exposure, *model[2:])))
            assert (found <= dense * (1 + 1e-12)).all() and (found < dense).any()
            assert (dense - found <= tolerance + 1e-12 * dense).all()
        brighter = torch.cat([i.flatten() for i in sweeps[1].image(exposure, fluence=3e26)])
        assert (3 * dense - brighter <= tolerance + 1e-12 * dense).all()
        assert (brighter <= 3 * dense * (1 + 1e-12)).all() and (brighter > 3 * found).any()
    assert all(set(sweep.prepared.rays) == {0, 1} for sweep in sweeps)


# ---- gradients


def test_the_gradient_of_what_is_kept():
    """Each kept term is quadratic in its amplitude: F dI/dF, added up over all reflections, is
    twice the sparse image itself (Euler), not the dense one."""
    model = build(Case(seed=43, xtal_shape="square", ncells=(20, 40)))
    table = model[2]
    amplitudes = table.Fhkl.clone().requires_grad_()
    tolerance = 1e-2 * float(images(model, kernel="dense").max())
    kept = replace(model[3], kernel="sparse", tolerance=tolerance)
    found = simulate.simulate(*model[:2], replace(table, Fhkl=amplitudes), kept)
    total = torch.stack([image.sum() for image in found]).sum()
    (gradient,) = torch.autograd.grad(total, amplitudes)
    assert torch.isfinite(gradient).all()
    twice = float((gradient * table.Fhkl).sum())
    sparse = float(images(model, kernel="sparse", tolerance=tolerance).sum())
    assert total.item() == pytest.approx(sparse, rel=1e-12)
    assert twice == pytest.approx(2 * sparse, rel=1e-11)
    assert float(images(model, kernel="dense").sum()) > 1.001 * sparse


@pytest.mark.parametrize("shape", ("square", "round", "gauss"))
def test_gradients_are_dense_s(shape):
    """Of a loss over all pixels, by every parameter; what is left out, 1e-9 of the brightest pixel,
    changes them by as little: measured worst 3.2e-8 of their norm."""
    model = build(Case(seed=47, xtal_shape=shape, panels=1, layers=2, drift=True))
    experiment, exposure, table, options = model
    names = {
        "panel": ("origin", "fast", "pixel_size", "mu"),
        "beam": ("direction", "wavelength", "weight", "fluence"),
        "crystal": ("A", "Ncells_abc", "umats", "spot_scale"),
    }
    owners = {"panel": experiment.panels[0], "beam": experiment.beam, "crystal": experiment.crystal}

    def gradients(**own):
        values = {
            part: {name: getattr(owners[part], name).clone().requires_grad_() for name in some}
            for part, some in names.items()
        }
        made = {part: replace(owners[part], **some) for part, some in values.items()}
        other = replace(
            experiment, panels=(made["panel"],), beam=made["beam"], crystal=made["crystal"]
        )
        (image,) = simulate.simulate(other, exposure, table, replace(options, **own))
        loss = (image * torch.linspace(0.5, 1.5, image.numel()).reshape(image.shape)).sum()
        return torch.autograd.grad(loss, [v for some in values.values() for v in some.values()])

    tolerance = 1e-9 * float(images(model, kernel="dense").max())
    dense = gradients(kernel="dense")
    for found, expected in zip(gradients(kernel="sparse", tolerance=tolerance), dense):
        assert (found - expected).norm() <= 1e-5 * expected.norm()
        assert expected.norm() > 0


def test_progress_counts_every_pixel():
    """With gradients and without; the pixels that the tolerance leaves out too, the masked ones
    not."""
    model = build(Case(seed=53, ncells=(30, 60), masked=True, panels=3))
    pixels = sum(int(panel.mask.sum()) for panel in model[0].panels)
    for kernel in ("dense", "sparse"):
        for grad in (True, False):
            counted = []
            own = replace(model[3], kernel=kernel, tolerance=1e-2)
            with torch.set_grad_enabled(grad):
                simulate.simulate(*model[:3], own, counted.append)
            assert sum(counted) == pixels > 0
