"""The phi carryover of nanoBragg.c (DESIGN section 5): what it does to images.

nanoBragg.c rotates the cell only `if (phi != 0.0)`; the reference kernel keeps that literally, as
a variable that is not reset. The cache itself is tested in test_phi_cache.py.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from core_models import THROUGH_ZERO, Setup, build, parameters, sums
from torch import Tensor

from nanobragg_plugin import carryover, structure_factors
from nanobragg_plugin.kernels import dense, reference
from nanobragg_plugin.lattice import square_sign
from nanobragg_plugin.models import (
    Beam,
    Crystal,
    Experiment,
    Exposure,
    Goniometer,
    Panel,
    SimulationOptions,
)
from nanobragg_plugin.rotation import phi_steps
from nanobragg_plugin.simulate import simulate, simulate_panel

PARITY = {"phi_carryover_mode": "c-parity"}


# The dense kernel against the reference's literal state machine

CASES = {
    "from 0": Setup(phi=(0.0, 0.1, 0.2)),
    "through 0": Setup(phi=THROUGH_ZERO),
    "ends at 0": Setup(phi=(-0.2, -0.1, 0.0)),
    "two zeros": Setup(phi=(0.0, 0.0, 0.1)),
    "domains": Setup(phi=(0.0, 0.1), domains=3),
    "domains, lab": Setup(phi=(0.0, 0.1), domains=3, mosaic_frame="lab"),
    "sources": Setup(phi=(0.0, 0.1), sources=3),
    "sub-pixels": Setup(phi=(0.0, 0.1), options={"oversample": 2}),
    "layers": Setup(phi=(0.0, 0.1), layers=3),
    "all of them": Setup(
        phi=(0.0, 0.1), domains=2, sources=2, layers=2, options={"oversample": 2}, image_size=(3, 2)
    ),
    "mask": Setup(phi=(0.0, 0.1), masked=True),
    "scan-varying": Setup(phi=THROUGH_ZERO, varying=("crystal", "setting", "beam")),
    # the first pixels are wholly cut, of the next the first samples are
    "d_min": Setup(phi=(0.0, 0.1), sources=2, options={"oversample": 2, "d_min": 7.5}),
    "d_min, all of it": Setup(
        phi=THROUGH_ZERO,
        domains=2,
        sources=2,
        layers=2,
        masked=True,
        varying=("beam",),
        options={"oversample": 2, "d_min": 14.0},
    ),
    "d_min, nothing left": Setup(phi=(0.0, 0.1), options={"d_min": 1e3}),
}


@pytest.mark.parametrize("batch", (1, 3, 999))
@pytest.mark.parametrize("name", CASES)
def test_dense_is_the_literal_state_machine(name, batch):
    setup = replace(CASES[name], seed=3, options={**CASES[name].options, **PARITY})
    model = build(setup, parameters(setup))
    expected = sums(reference, model)
    # measured worst 5.5e-14 of the brightest
    assert (sums(dense, model, batch=batch) - expected).abs().max() <= 1e-12 * expected.max()


@pytest.mark.parametrize("name", CASES)
def test_the_modes_differ_where_a_step_is_at_zero(name):
    setup = replace(CASES[name], seed=3)
    spec = build(setup, parameters(setup))
    parity = (*spec[:3], replace(spec[3], **PARITY))
    lit = sums(dense, spec) > 0
    assert lit.all() == ("d_min" not in name) and lit.any() == ("nothing" not in name)
    different = (sums(dense, spec) - sums(dense, parity)).abs() > 1e-6 * sums(dense, spec)
    different = different[lit]
    # the first sample of the image alone has no predecessor (unless phi passes through 0)
    only_sample = name in ("from 0", "domains", "domains, lab", "mask")
    assert different[1:].all()
    if lit.any():
        assert bool(different[0]) == (not only_sample and name != "two zeros")


def expected_by_hand(model, steps: list[int]) -> Tensor:
    """The sums if the steps' vectors were those of `steps`: a spec run with these phi."""
    experiment, exposure, amplitudes, options = model
    exposure = replace(exposure, phi=tuple(exposure.phi[k] for k in steps))
    options = replace(options, phi_carryover_mode="spec")
    return sums(reference, (experiment, exposure, amplitudes, options))


@pytest.mark.parametrize("masked", (False, True))
def test_the_predecessor_is_the_sample_before(masked):
    """phi (0, 0.1, 0.2): all pixels but the first see (0.2, 0.1, 0.2), across row ends, batches
    and masked pixels; the first sees (0, 0.1, 0.2)."""
    setup = Setup(seed=4, phi=(0.0, 0.1, 0.2), masked=masked, options=PARITY)
    model = build(setup, parameters(setup))
    stale, fresh = (expected_by_hand(model, steps) for steps in ([2, 1, 2], [0, 1, 2]))
    expected = torch.cat([fresh[:1], stale[1:]])
    for batch in (1, 4, 999):
        found = sums(dense, model, batch=batch)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)


def test_samples_cut_by_d_min_are_no_predecessors():
    """Pixels before the first that d_min leaves in leave nothing behind; that one sees the
    unrotated cell, all others the last vectors. Of one sample a pixel, in batches that are
    wholly cut, in part, and not at all, and as `simulate` goes through them."""
    options = {**PARITY, "d_min": 7.5, "batch_steps": 9}
    setup = Setup(seed=3, phi=(0.0, 0.1, 0.2), options=options)
    model = build(setup, parameters(setup))
    stale, fresh = (expected_by_hand(model, steps) for steps in ([2, 1, 2], [0, 1, 2]))
    first = int((stale > 0).int().argmax())
    assert 3 < first < 19 and not stale[:first].any()
    expected = torch.cat([stale[:first], fresh[first : first + 1], stale[first + 1 :]])
    assert not torch.allclose(stale, expected)
    for batch in (1, 3, first, first + 1, 999):
        found = sums(dense, model, batch=batch)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)
    scale = 7.94079248018965e-30 * model[0].beam.fluence
    torch.testing.assert_close(simulate(*model)[0].flatten(), scale * expected, rtol=1e-9, atol=0)


def test_the_cache_stays_empty_until_a_sample_is_evaluated():
    setup = Setup(seed=3, phi=(0.0, 0.1), options={**PARITY, "d_min": 7.5})
    kernel = dense.Kernel(*build(setup, parameters(setup)))
    cache = carryover.initialize_phi_cache((4, 5), 1)
    photons, cache = kernel(0, torch.tensor([[0, 0], [0, 1]]), cache)
    assert not photons.any() and not cache.valid
    photons, cache = kernel(0, torch.tensor([[1, 0], [1, 2], [1, 3]]), cache)
    assert photons.tolist()[0] == 0 and photons[1:].all()
    assert cache.valid and cache.first == 1 * 5 + 2


def test_phi_through_zero_keeps_the_step_before():
    """phi (-0.1, 0, 0.1): every pixel, the first too, sees (-0.1, -0.1, 0.1)."""
    setup = Setup(seed=4, phi=THROUGH_ZERO, options=PARITY)
    model = build(setup, parameters(setup))
    expected = expected_by_hand(model, [0, 0, 2])
    torch.testing.assert_close(sums(dense, model), expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("options", ({}, {"oversample": 2}))
def test_a_single_phi_of_zero_is_never_affected(options):
    setup = Setup(seed=5, phi=(0.0,), sources=2, options=options)
    spec = build(setup, parameters(setup))
    parity = (*spec[:3], replace(spec[3], **PARITY))
    for batch in (3, 999):
        assert torch.equal(sums(dense, spec, batch=batch), sums(dense, parity, batch=batch))


def test_without_a_zero_the_modes_agree():
    setup = Setup(seed=5, phi=(0.1, 0.2), sources=2)
    spec = build(setup, parameters(setup))
    parity = (*spec[:3], replace(spec[3], **PARITY))
    torch.testing.assert_close(sums(dense, spec), sums(dense, parity), rtol=1e-10, atol=0)


def test_an_image_is_a_run_of_its_own_and_so_is_a_panel():
    """Each panel's first sample sees the unrotated cell, however often one simulates."""
    setup = Setup(seed=6, phi=(0.0, 0.1), panels=2, options=PARITY)
    model = build(setup, parameters(setup))
    spec = simulate(*model[:3], replace(model[3], phi_carryover_mode="spec"))
    for _ in range(2):
        for image, other in zip(simulate(*model), spec):
            # the first pixel is a batch of its own here: equal but for rounding
            torch.testing.assert_close(image[0, 0], other[0, 0], rtol=1e-9, atol=0)
            assert (image.flatten()[1:] != other.flatten()[1:]).all()


def test_a_region_of_interest_has_its_own_first_pixel():
    setup = Setup(seed=6, phi=(0.0, 0.1), options=PARITY)
    model = build(setup, parameters(setup))
    mask = torch.zeros(4, 5, dtype=torch.bool)
    mask[1:3, 2:4] = True
    panel = replace(model[0].panels[0], mask=mask)
    experiment = replace(model[0], panels=(panel,))
    spec = simulate(experiment, *model[1:3], replace(model[3], phi_carryover_mode="spec"))[0]
    parity = simulate(experiment, *model[1:])[0]
    torch.testing.assert_close(parity[1, 2], spec[1, 2], rtol=1e-9, atol=0)
    assert ((parity != spec) == mask).flatten().sum() >= 19
    assert (parity[1, 3], parity[2, 2], parity[2, 3]) != (spec[1, 3], spec[2, 2], spec[2, 3])
    assert not parity[~mask].any()


@pytest.mark.parametrize("precision", ("double", "mixed", "single"))
def test_the_kernels_dtypes_and_gradients(precision):
    """The vectors are kept in the type of the indices, and the gradient goes through them."""
    setup = Setup(seed=6, phi=(0.0, 0.1), options={**PARITY, "precision": precision})
    values = {name: value.requires_grad_() for name, value in parameters(setup).items()}
    experiment, exposure, amplitudes, options = build(setup, values)
    kernel = dense.Kernel(experiment, exposure, amplitudes, options)
    cache = carryover.initialize_phi_cache((4, 5), 1)
    _, cache = kernel(0, torch.tensor([[0, 0]]), cache)
    assert cache.vectors.dtype == (torch.float32 if precision == "single" else torch.float64)
    (gradient,) = torch.autograd.grad(cache.vectors.sum(), values["cell"], retain_graph=True)
    assert gradient.any()
    # and from a second batch alone
    second, _ = kernel(0, torch.tensor([[0, 1], [0, 2]]), cache)
    (gradient,) = torch.autograd.grad(second.sum(), values["axis_tilt"])
    assert gradient.any() and torch.isfinite(gradient).all()


def test_spec_never_touches_the_cache(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("spec touched the phi cache")

    setup = Setup(seed=6, phi=(0.0, 0.1), domains=2, panels=2)
    model = build(setup, parameters(setup))
    before = simulate(*model)
    for name in ("initialize", "invalidate"):
        monkeypatch.setattr(carryover, f"{name}_phi_cache", refuse)
    for name in ("apply_phi_carryover", "store_phi_final", "stale_steps", "PhiCache"):
        monkeypatch.setattr(carryover, name, refuse)
    assert all(torch.equal(one, other) for one, other in zip(before, simulate(*model)))
    parity = replace(model[3], **PARITY)
    with pytest.raises(AssertionError, match="touched"):
        simulate(*model[:3], parity)


# The original work's acceptance test


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


#: The Pilatus 6M frame of the original work as nanoBragg.c was run on it, twice: with the
#: detector's vectors as given, and with fast and slow made orthogonal. Geometry, F and results
#: are facts of the C program's trace at slow 685, fast 1039 (`trace_685_1039.txt` and
#: `orthogonal_trace_685_1039.txt` of the reference data of this project), A is `A.mat` over
#: the wavelength. All ten steps are nearest to (-7, -1, -14).
TRACES = {
    "as given": {
        "origin": (-216.475836204836, 216.343050492215, -230.192414300537),
        "slow": (-0.0059979996566955, -0.999969942765222, -0.0049129997187971),
        "hkl": (-6.8795206024501, -0.607255839576692, -13.766298525469),
        "F_latt": -2.38319665299058,
        "I_before_scaling": 943654.80923755,
    },
    "orthogonal": {
        "origin": (-216.475727593765, 216.343049840782, -230.192414313354),
        "slow": (-0.00599850740553252, -0.999969939719819, -0.00491299965888229),
        "hkl": (-6.87952343918447, -0.607257240965799, -13.7662944600134),
        "F_latt": -2.38167796533754,
        "I_before_scaling": 942485.857930117,
    },
}
FAST = (0.999982004873912, -0.00599800002923425, -0.000118000000575132)
INCIDENT = (0.000513879494092498, 0.0, -0.999999867963924)
WAVELENGTH, F_CELL = 0.9768, 190.27
A_MAT = ((-0.02837711, -0.00305386, 0.02535816), (-0.02871390, 0.01019549, -0.01400049),
         (0.01050048, -0.03209440, -0.01036054))  # fmt: skip


def seed_model(trace: dict, mode: str):
    """That frame: 36 x 47 x 29 cells, ten phi steps of 0.01 degrees from 0 about -x."""
    zero, one = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
    mask = torch.zeros(2527, 2463, dtype=torch.bool)
    mask[685, 1038:1040] = True  # the pixel and one before it
    panel = Panel(vector(*trace["origin"]), vector(*FAST), vector(*trace["slow"]),
                  vector(0.172, 0.172), (2463, 2527), zero, zero, mask)  # fmt: skip
    beam = Beam(
        vector(*INCIDENT)[None, None], vector(WAVELENGTH)[None], vector(1.0), zero,
        vector(0.0, 1.0, 0.0), 1e24 * one,
    )  # fmt: skip
    identity = torch.eye(3, dtype=torch.float64)
    crystal = Crystal(
        (torch.tensor(A_MAT, dtype=torch.float64) / WAVELENGTH)[None], vector(36, 47, 29),
        "square", one, one, identity[None],
    )  # fmt: skip
    goniometer = Goniometer(vector(-1.0, 0.0, 0.0), identity, identity[None])
    exposure = Exposure(phi_steps(0.0, 0.1, 10, "start"), tuple(k / 10 for k in range(10)))
    amplitudes = structure_factors.table(torch.tensor([[-7, -1, -14]]), vector(F_CELL))
    once = dict.fromkeys(("oversample_omega", "oversample_polar", "oversample_thick"), False)
    options = SimulationOptions(precision="double", phi_carryover_mode=mode, **once)
    return Experiment((panel,), beam, goniometer, crystal), exposure, amplitudes, options


def at_the_traced_pixel(trace: dict, mode: str) -> tuple[Tensor, Tensor]:
    """F_cell and F_latt, with nanoBragg.c's sign, of the ten steps."""
    seen = {}  # what the kernel computed with last
    kernel = dense.Kernel(*seed_model(trace, mode))
    kernel.watch = seen.__setitem__
    cache = None
    if mode == "c-parity":
        cache = carryover.initialize_phi_cache((2527, 2463), 1)
    for fast in (1038, 1039):
        _, cache = kernel(0, torch.tensor([[685, fast]]), cache)
    last = seen["amplitudes"]
    signs = [square_sign(h0, n) for h0, n in zip(last["nearest"], vector(36, 47, 29))]
    return last["F_cell"][0], (last["F_latt"] * signs[0] * signs[1] * signs[2])[0]


@pytest.mark.parametrize("name", TRACES)
def test_I_before_scaling_matches_c(name):
    """F_cell, F_latt of step 0 and their squares summed over the steps; measured: F_latt
    6e-12, I_before_scaling 1.3e-11."""
    trace = TRACES[name]
    f_cell, f_latt = at_the_traced_pixel(trace, "c-parity")
    assert f_cell[0].item() == pytest.approx(F_CELL, rel=1e-6)
    assert f_latt[0].item() == pytest.approx(trace["F_latt"], rel=1e-6)
    before_scaling = (f_cell * f_latt).square().sum().item()
    assert before_scaling == pytest.approx(trace["I_before_scaling"], rel=1e-6)


@pytest.mark.parametrize("name", TRACES)
def test_spec_rotates_freshly_at_the_traced_pixel(name):
    """F_latt of the unrotated cell by sums over its cells."""
    experiment, *_ = seed_model(TRACES[name], "spec")
    _, f_latt = at_the_traced_pixel(TRACES[name], "spec")
    panel = experiment.panels[0]
    point = panel.origin + 0.172 * (1039.5 * panel.fast + 685.5 * panel.slow)
    q = (point / point.norm() - vector(*INCIDENT)) / WAVELENGTH
    hkl = torch.linalg.solve(experiment.crystal.A[0], q)
    size = 1.0
    for index, n in zip(hkl.tolist(), (36, 47, 29)):
        size *= abs(torch.exp(2j * math.pi * index * torch.arange(n, dtype=torch.float64)).sum())
    assert f_latt[0].abs().item() == pytest.approx(float(size), rel=1e-9)
    assert abs(f_latt[0].item() - TRACES[name]["F_latt"]) > 0.5


def test_photons_at_the_traced_pixel():
    """`I_pixel_final` of the orthogonal trace: polarization 0.9146, solid angle 4.204e-7 sr and
    a fluence of 1e24 photons/m^2 in it; measured 1.0e-11."""
    experiment, *rest = seed_model(TRACES["orthogonal"], "c-parity")
    image = simulate_panel(experiment, 0, *rest)
    assert image[685, 1039].item() == pytest.approx(2.87782643430239e-07, rel=1e-6)
