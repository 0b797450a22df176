"""The trace of a pixel: what is recorded is what makes the image."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from core_models import FEATURES, THROUGH_ZERO, Setup, build, parameters
from test_carryover import F_CELL, TRACES, seed_model

from nanobragg_plugin.kernels.batches import simulated_pixels
from nanobragg_plugin.models import XTAL_SHAPES
from nanobragg_plugin.simulate import simulate
from nanobragg_plugin.trace import trace_pixel
from nanobragg_plugin.traced import Trace

PARITY = {"phi_carryover_mode": "c-parity"}


def model_of(setup: Setup):
    return build(setup, parameters(setup))


def some_pixels(panel) -> list[list[int]]:
    """The first and the last pixel that are simulated, and some between."""
    pixels = simulated_pixels(panel).tolist()
    return [pixels[0], *pixels[1:-1:4], pixels[-1]]


def summed(trace: Trace) -> float:
    """`I_weighted` by its description."""
    total = []
    for sample in trace.samples:
        own = sample.capture_fraction
        if trace.inputs.oversample_omega:
            own *= sample.omega_pixel_sr
        for source in sample.sources:
            for k, step in enumerate(source.steps):
                ray = source.rays[k if len(source.rays) > 1 else 0]
                once = not trace.inputs.oversample_polar or ray.polar is None
                polar = 1.0 if once else ray.polar
                total += [own * source.weight * polar * one.intensity for one in step.domains]
    return math.fsum(total)


# ---- the image is made of what is recorded


@pytest.mark.parametrize("precision", ("double", "mixed", "single"))
@pytest.mark.parametrize("name", FEATURES)
def test_the_photons_are_the_images(name, precision):
    """To the bit, in every feature; and they follow from the records (measured worst: double
    4e-16, mixed 7e-8, single 2e-7)."""
    setup = replace(FEATURES[name], options={**FEATURES[name].options, "precision": precision})
    model = model_of(setup)
    with torch.no_grad():
        images = simulate(*model)
    for number, (panel, image) in enumerate(zip(model[0].panels, images)):
        for slow, fast in some_pixels(panel):
            trace = trace_pixel(*model, number, slow, fast)
            inputs, sums = trace.inputs, trace.sums
            assert sums.photons == image[slow, fast].item() and not sums.left_out
            assert sums.photons_float32 == image[slow, fast].float().item()
            close = {"rel": 1e-13 if precision == "double" else 2e-6}
            assert sums.I_weighted == pytest.approx(summed(trace), **close)
            photons = inputs.r_e_sqr_m2 * inputs.fluence_photons_per_m2 / sums.steps
            photons *= sums.I_weighted * inputs.spot_scale + sums.water
            photons *= 1.0 if sums.polar is None else sums.polar
            photons *= 1.0 if sums.omega_pixel_sr is None else sums.omega_pixel_sr
            assert sums.photons == pytest.approx(photons, **close)
            intensities = [point.domain.intensity for point in trace.points()]
            assert sums.I_before_scaling == math.fsum(intensities)


def test_every_term_is_there():
    """Layers, sub-pixels (slow outermost), sources, steps, domains, in nanoBragg.c's order."""
    setup = Setup(phi=(0.1, 0.2), domains=3, sources=2, layers=2, options={"oversample": 2})
    trace = trace_pixel(*model_of(setup), 0, 2, 1)
    assert [(s.layer, s.sub_slow, s.sub_fast) for s in trace.samples] == [
        (layer, slow, fast) for layer in range(2) for slow in range(2) for fast in range(2)
    ]
    for sample in trace.samples:
        assert [len(source.steps) for source in sample.sources] == [2, 2]
        for source in sample.sources:
            assert [len(step.domains) for step in source.steps] == [3, 3]
            phi = [step.phi_deg for step in source.steps]
            assert phi == pytest.approx([math.degrees(0.1), math.degrees(0.2)], rel=1e-14)
    assert len(list(trace.points())) == 8 * 2 * 2 * 3
    assert trace.sums.steps == 4 * 2 * 2 * 3
    points = list(trace.points())
    assert trace.first == points[0] and trace.last == points[-1]
    assert trace.last.sample == trace.samples[-1] and trace.last.step.phi_deg > 11
    depths = [math.dist(s.position_mm, trace.samples[0].position_mm) for s in trace.samples[::4]]
    assert depths[0] == 0 and depths[1] > 0.1


@pytest.mark.parametrize("shape", XTAL_SHAPES)
def test_what_a_term_is(shape):
    """hkl = (a, b, c).q, q = (s1 - s0)/lambda, F_cell of the table, F_latt of a square crystal as
    nanoBragg.c has it: the product of sin(pi N h)/sin(pi h), signs included. Measured worst
    4e-14 (F_latt)."""
    setup = Setup(xtal_shape=shape, phi=(0.1, 0.2), domains=2, sources=2)
    values = parameters(setup)
    values["Ncells_abc"] = torch.tensor([4.0, 6.0, 3.0], dtype=torch.float64)  # signs change
    model = build(setup, values)
    signs = set()
    for slow, fast in simulated_pixels(model[0].panels[0]).tolist():
        for point in trace_pixel(*model, 0, slow, fast).points():
            ray, domain = point.ray, point.domain
            q = [(x - y) / ray.wavelength_ang for x, y in zip(point.sample.s1_unit, ray.s0_unit)]
            assert ray.q_inv_ang == pytest.approx(q, rel=1e-12)
            assert ray.stol_inv_ang == pytest.approx(math.hypot(*q) / 2, rel=1e-12)
            axes = (domain.a_ang, domain.b_ang, domain.c_ang)
            hkl = [sum(x * y for x, y in zip(axis, q)) for axis in axes]
            assert domain.hkl == pytest.approx(hkl, rel=1e-11, abs=1e-13)
            assert domain.h0k0l0 == tuple(math.ceil(x - 0.5) for x in hkl)
            table = model[2]
            place = [x - low + 1 for x, low in zip(domain.h0k0l0, table.hkl_min)]
            inside = all(0 < x < size - 1 for x, size in zip(place, table.Fhkl.shape))
            assert domain.F_cell == (table.Fhkl[tuple(place)].item() if inside else 21.0)
            assert domain.intensity == pytest.approx(domain.F_cell**2 * domain.F_latt**2, rel=1e-13)
            if shape == "square":
                expected = [
                    math.sin(math.pi * n * x) / math.sin(math.pi * x)
                    for n, x in zip((4, 6, 3), domain.hkl)
                ]
                assert domain.F_latt_abc == pytest.approx(expected, rel=1e-10, abs=1e-10)
                assert domain.F_latt == pytest.approx(math.prod(domain.F_latt_abc), rel=1e-13)
                signs |= {(domain.h0k0l0[i] % 2, x > 0) for i, x in enumerate(domain.F_latt_abc)}
            else:
                assert domain.F_latt_abc is None
    assert len(signs) == (4 if shape == "square" else 0)


def test_a_part_of_a_cell_has_no_sign():
    values = parameters(Setup())
    values["Ncells_abc"] = values["Ncells_abc"] + 0.5
    for point in trace_pixel(*build(Setup(), values), 0, 1, 1).points():
        delta = [h - h0 for h, h0 in zip(point.domain.hkl, point.domain.h0k0l0)]
        expected = [
            math.sin(math.pi * n * x) / math.sin(math.pi * x)
            for n, x in zip((3.5, 5.5, 4.5), delta)
        ]
        assert point.domain.F_latt_abc == pytest.approx(expected, rel=1e-9)


def test_a_beam_that_moves_has_a_ray_for_each_step():
    for varying in ("beam", "wavelength"):
        model = model_of(Setup(varying=(varying,), phi=(0.1, 0.2, 0.3)))
        (source,) = trace_pixel(*model, 0, 1, 1).samples[0].sources
        assert len(source.rays) == len(source.steps) == 3
        name = {"beam": "s0_unit", "wavelength": "wavelength_ang"}[varying]
        assert len({getattr(ray, name) for ray in source.rays}) == 3
        assert len({ray.q_inv_ang for ray in source.rays}) == 3


# ---- the phi carryover


def cells(trace: Trace, sample: int = 0) -> list[tuple]:
    """a, b, c of a sample's steps (of the first source and domain)."""
    steps = trace.samples[sample].sources[0].steps
    return [(*s.domains[0].a_ang, *s.domains[0].b_ang, *s.domains[0].c_ang) for s in steps]


def stale(trace: Trace, sample: int = 0) -> list[bool]:
    return [step.stale for step in trace.samples[sample].sources[0].steps]


@pytest.mark.parametrize("batch_steps", (1, 9, 1000))
def test_c_parity_shows_the_vectors_left_behind(batch_steps):
    """The first pixel of a panel that is simulated sees the unrotated cell at phi 0; all others,
    and its own second sub-pixel, those of the last step."""
    options = {**PARITY, "batch_steps": batch_steps, "oversample": 2}
    setup = Setup(phi=(0.0, 0.1, 0.2), masked=True, panels=2, options=options)
    model = model_of(setup)
    goniometer, crystal = model[0].goniometer, model[0].crystal
    unrotated = torch.linalg.inv(goniometer.setting[0] @ goniometer.fixed @ crystal.A[0])
    for number in range(2):
        (first, *others) = some_pixels(model[0].panels[number])
        trace = trace_pixel(*model, number, *first)
        assert cells(trace)[0] == pytest.approx(unrotated.flatten().tolist(), rel=1e-12)
        assert stale(trace) == [False] * 3 and stale(trace, 1) == [True, False, False]
        for pixel in others:
            trace = trace_pixel(*model, number, *pixel)
            found = cells(trace)
            assert found[0] == found[2] and stale(trace) == [True, False, False]
            spec = trace_pixel(
                *model[:3], replace(model[3], phi_carryover_mode="spec"), number, *pixel
            )
            assert cells(spec)[0] == pytest.approx(unrotated.flatten().tolist(), rel=1e-12)
            assert cells(spec)[1:] == found[1:] and not any(stale(spec))


def test_through_zero_and_zero_alone():
    trace = trace_pixel(*model_of(Setup(phi=THROUGH_ZERO, options=PARITY)), 0, 0, 0)
    assert stale(trace) == [False, True, False] and cells(trace)[0] == cells(trace)[1]
    trace = trace_pixel(*model_of(Setup(phi=(0.0,), options=PARITY)), 0, 2, 2)
    assert stale(trace) == [False]


@pytest.mark.parametrize("name", TRACES)
def test_the_seed_pixel(name):
    """Figures of nanoBragg.c's trace of slow 685, fast 1039 (see test_carryover.py). Measured
    worst 1.3e-11 (A in eight digits)."""
    expected = TRACES[name]
    trace = trace_pixel(*seed_model(expected, "c-parity"), 0, 685, 1039)
    first = trace.first
    assert first.step.stale and first.step.phi_deg == 0
    assert first.domain.hkl == pytest.approx(expected["hkl"], rel=1e-11)
    assert first.domain.h0k0l0 == (-7, -1, -14)
    assert first.domain.F_latt == pytest.approx(expected["F_latt"], rel=1e-9)
    assert first.domain.F_cell == F_CELL
    before_scaling = expected["I_before_scaling"]
    assert trace.sums.I_before_scaling == pytest.approx(before_scaling, rel=1e-9)
    assert trace.sums.steps == 10


# ---- what is left out


@pytest.mark.parametrize("mode", ("spec", "c-parity"))
@pytest.mark.parametrize("batch_steps", (3, 1000))
def test_samples_cut_by_d_min(mode, batch_steps):
    options = {
        "oversample": 2,
        "d_min": 7.5,
        "phi_carryover_mode": mode,
        "batch_steps": batch_steps,
    }
    setup = Setup(seed=3, phi=(0.0, 0.1), sources=2, options={**options, "oversample_polar": False})
    model = model_of(setup)
    image = simulate(*model)[0]
    seen = []
    for slow, fast in simulated_pixels(model[0].panels[0]).tolist():
        trace = trace_pixel(*model, 0, slow, fast)
        assert trace.sums.photons == image[slow, fast].item()
        pairs = [
            (source, ray) for s in trace.samples for source in s.sources for ray in source.rays
        ]
        for source, ray in pairs:
            assert ray.within_d_min == (2 * 7.5 * ray.stol_inv_ang <= 1)
            assert len(source.steps) == 2
            for step in source.steps:
                assert len(step.domains) == ray.within_d_min
            assert (ray.polar is not None) == ray.within_d_min
        kept = [ray for _, ray in pairs if ray.within_d_min]
        assert len(list(trace.points())) == 2 * len(kept)
        assert (trace.first is None) == (trace.last is None) == (not kept)
        assert trace.sums.polar == (kept[0].polar if kept else 0)
        firsts = [point.step.stale for point in trace.points() if point.step.phi_deg == 0]
        if firsts and mode == "c-parity":  # the run's first sample has no predecessor
            assert firsts == [not (not any(seen) and k == 0) for k in range(len(firsts))]
        seen.append(len(kept))
    assert {0, 8} <= set(seen) and len(set(seen)) > 2


@pytest.mark.parametrize("mode", ("spec", "c-parity"))
def test_what_images_leave_out(mode):
    """The photons are the dense kernel's to the bit; those that the image lacks of them, because
    the sparse kernel left terms out, are told apart. Nothing, part and all of a pixel."""
    options = {
        "tolerance": 1.0,
        "batch_steps": 4,
        "precision": "mixed",
        "kernel": "sparse",
        "phi_carryover_mode": mode,
    }
    setup = Setup(seed=1, xtal_shape="gauss", phi=(0.0, 0.1, 0.2), domains=3, options=options)
    model = model_of(setup)
    dense = replace(model[3], kernel="dense")
    with torch.no_grad():
        image, whole = simulate(*model)[0], simulate(*model[:3], dense)[0]
    found = []
    for slow, fast in simulated_pixels(model[0].panels[0]).tolist():
        sums = trace_pixel(*model, 0, slow, fast).sums
        assert sums.photons == whole[slow, fast].item()
        assert 0 <= sums.left_out <= 1
        # a difference of float64 that were summed in two orders: measured worst 2.4e-16
        lacks = sums.photons - image[slow, fast].item()
        assert sums.left_out == pytest.approx(lacks, rel=0, abs=1e-14 * sums.photons)
        found.append((sums.left_out > 0, bool(image[slow, fast] > 0)))
    assert {(False, True), (True, True), (True, False)} <= set(found)


def test_pixels_that_are_not_simulated():
    model = model_of(Setup(masked=True, panels=2))
    masked = (~model[0].panels[1].mask).nonzero()[0].tolist()
    for panel, slow, fast, why in (
        (2, 0, 0, "no panel 2: the detector has 2"),
        (-1, 0, 0, "no panel -1"),
        (0, 4, 0, "slow 4, fast 0 is outside panel 0, which has 4 x 5"),
        (0, 0, 5, "outside"),
        (0, -1, 0, "outside"),
        (1, *masked, "of panel 1 is not simulated: it is masked"),
    ):
        with pytest.raises(ValueError, match=why):
            trace_pixel(*model, panel, slow, fast)
