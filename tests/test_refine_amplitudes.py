"""Amplitudes as parameters, and the search by L-BFGS."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from refine_models import (
    OPTIONS,
    amplitudes,
    data_of,
    experiment,
    exposures,
    tiles,
    vector,
)
from refine_models import parts as all_parts

from nanobragg_plugin.by_reflection import ByReflection
from nanobragg_plugin.refine import lbfgs
from nanobragg_plugin.refine.amplitudes import Amplitudes, AmplitudesTarget, name_of
from nanobragg_plugin.refine.joint import Joint
from nanobragg_plugin.refine.joint_model import joined
from nanobragg_plugin.refine.minimise import minimise
from nanobragg_plugin.refine.neighbours import _by_parity, lit_by
from nanobragg_plugin.refine.parametrisations import Model
from nanobragg_plugin.refine.sigmas import sigmas
from nanobragg_plugin.refine.slopes import loss_and_slopes
from nanobragg_plugin.refine.target import Target

FLUENCE = 6e27


def _friedel(factors) -> tuple[torch.Tensor, torch.Tensor]:
    """One index of each pair of mates, and of each element of the table which pair it is."""
    shape = factors.Fhkl.shape
    low = torch.tensor(factors.hkl_min) - 1
    places = torch.cartesian_prod(*[torch.arange(1, size - 1) for size in shape])
    hkl = places + low
    first = (hkl * torch.tensor([10_000, 100, 1])).sum(1) > 0
    which = torch.full(shape, -1)
    number = torch.arange(int(first.sum()))
    for sign in (1, -1):
        i, j, k = (sign * hkl[first] - low).T
        which[i, j, k] = number
    return hkl[first], which


def target_of(
    kinds=("orientation", "scale"), seed: int = 1, shots=None, with_f: bool = True
) -> Joint:
    """A still (or images) of an F that differs by mates as the parameters do not."""
    true, factors = experiment(), amplitudes()
    hkl, which = _friedel(factors)
    i, j, k = (hkl - torch.tensor(factors.hkl_min) + 1).T
    part = Amplitudes(hkl, factors.Fhkl[i, j, k].clone(), which)
    _, factors = part.apply((true, factors), part.start)
    shots = shots or exposures()
    images = [expected_of(true, factors, shot) for shot in shots]
    made = torch.Generator().manual_seed(seed)
    counts = [torch.poisson(one, generator=made) for one in images]
    data = data_of(counts, tiles(images, 300), shots, FLUENCE)
    chosen = [all_parts(true)[kind] for kind in kinds]
    model = Model((true, factors), [part, *chosen] if with_f else chosen)
    given = model, data, OPTIONS
    target = AmplitudesTarget(*given, amplitudes=part) if with_f else Target(*given)
    joint = joined([model], [dict.fromkeys(model.parameters.names, 0)], [0])
    seen = _seen(target, part) if with_f else []
    names = [name for one in chosen for name in [p.name for p in one.parameters]]
    mine = frozenset(name_of(h) for h in hkl.tolist())
    return Joint(joint, (target,), (0,), (*seen, *names), False, (("scale",),), mine)


def expected_of(true, factors, shot) -> torch.Tensor:
    from nanobragg_plugin.simulate import simulate

    lit = replace(true, beam=replace(true.beam, fluence=vector(FLUENCE)[0]))
    (image,) = simulate(lit, shot, factors, OPTIONS)
    return image.double() + 2


def _seen(target: AmplitudesTarget, part: Amplitudes) -> list[str]:
    """Amplitudes with photons enough in the pixels: by a backward pass over all of them."""
    every = replace(target, free=tuple(one.name for one in part.parameters))
    model = joined([target.model], [dict.fromkeys(target.model.parameters.names, 0)], [0])
    joint = Joint(model, (every,), (0,), every.free)
    state = joint.start()
    # with the counts of nothing the slope by F is -sum(dI/dF); I = F/2 dI/dF
    dark = tuple(replace(one, counts=torch.zeros_like(one.counts)) for one in target.data.pictures)
    joint = replace(joint, targets=(replace(every, data=replace(every.data, pictures=dark)),))
    _, _, slope, _ = loss_and_slopes(joint, state)
    photons = -slope * part.start / 2
    return [one.name for one, n in zip(part.parameters, photons.tolist()) if n > 50]


def test_columns_are_the_slopes() -> None:
    """The gradient of the normal equations is that of backward passes, which color nothing: of
    amplitudes and of what else is refined; measured: 1.2e-7 of the
    largest, of a still and of images of a degree."""
    for shots in (None, exposures(2, 1.0, 4)):
        target = target_of(("orientation", "scale", "Ncells"), shots=shots)
        state = target.start()
        state = replace(state, inner=state.inner + 0.01 * torch.cos(torch.arange(len(state.inner))))
        normal = target.normal(state)
        loss, chi_sqr, gradient, boxes = loss_and_slopes(target, state)
        assert normal.loss == pytest.approx(loss, rel=1e-9)
        assert normal.chi_sqr == pytest.approx(chi_sqr, rel=1e-9)
        for held in target.directions():  # of a mean of scales, which is no step's
            gradient = gradient - held * (held @ gradient) / (held @ held)
        size = normal.each[0].information.diagonal().sqrt()
        error = ((normal.gradient - gradient) / size).abs()
        assert float(error.max()) < 1e-5 * float((gradient / size).abs().max())
        torch.testing.assert_close(normal.box_gradient, boxes, rtol=1e-6, atol=1e-6)


def test_lbfgs_finds_what_lm_finds() -> None:
    """Of the usual parameters and planes of backgrounds, from 0.1 degrees off: within a
    twentieth of the sigmas, at the same loss; measured: 0.002."""
    kinds = "cell", "orientation", "Ncells", "mosaic", "scale"
    target = target_of(kinds, with_f=False)
    state = target.start()
    off = {"rotation_x": 0.08, "rotation_y": -0.06, "Ncells_a": 0.2, "mosaic_spread": 0.3}
    for name, change in off.items():
        state.inner[target.model.parameters.names.index(name)] += change
    one, two = minimise(target, state), lbfgs.minimise(target, state)
    assert one.converged and two.converged, two.reason
    known = sigmas(target, one.state, one.normal.reduced()[0])
    away = (one.state.inner - two.state.inner) / known.covariance.diagonal().sqrt()
    assert float(away.abs().max()) < 0.05
    assert two.normal.loss == pytest.approx(one.normal.loss, abs=0.05)
    assert list(two.losses) == sorted(two.losses, reverse=True)


def test_amplitudes_by_both() -> None:
    """F of a still from the start's F times 0.8 to 1.2, with restraints of 30 %: both ways find the
    same, and pulls that are of the sigmas' size."""
    target = target_of()
    names = [one for one in target.free if one in target.amplitudes]
    start = {p.name: p.value for p in target.model.parameters.all}
    made = torch.Generator().manual_seed(2)
    wrong = {
        n: start[n] * (1 + 0.2 * (2 * float(torch.rand(1, generator=made)) - 1)) for n in names
    }
    prior = {n: {"prior": (wrong[n], 0.3 * wrong[n])} for n in names}
    target = replace(target, model=target.model.changed(prior))
    state = target.start()
    for name in names:
        state.inner[target.model.parameters.names.index(name)] = wrong[name]
    one, two = minimise(target, state), lbfgs.minimise(target, state)
    assert one.converged and two.converged, (one.reason, two.reason)
    known = sigmas(target, one.state, one.normal.reduced()[0])
    size = known.covariance.diagonal().sqrt()
    numbers = target.numbers
    # the scale is held: its sigma is that of the hold, 1e-4, no photons'
    loose = torch.tensor([name != "scale" for name in target.free])
    change = (one.state.inner - two.state.inner)[numbers]
    assert float(change[~loose].abs().max()) < 1e-4
    away = (change / size)[loose]
    error = (one.state.inner - target.start().inner)[numbers]
    mine = torch.tensor([name in target.amplitudes for name in target.free])
    pulls = (error / size)[mine]
    assert float(away.abs().max()) < 0.05
    assert 0.8 < float(pulls.std()) < 1.2 and float(pulls.mean().abs()) < 0.3


def test_steps_of_amplitudes_are_of_intensities() -> None:
    """Pixels are linear in F^2: half a bent step along amplitudes changes them by half as much,
    however long it is; a short one is the step itself; none falls below a quarter."""
    target = target_of(("scale",))
    target = replace(target, free=tuple(n for n in target.free if n in target.amplitudes))
    state = target.start()
    amplitude = state.inner[target.numbers]
    step = amplitude * torch.linspace(-0.45, 3.0, len(amplitude), dtype=torch.float64)
    nothing = torch.zeros_like(state.background)
    before, half, far = (
        torch.cat([one.bragg for one in target.expected(target.moved(state, by, nothing))])
        for by in (0 * step, target.bent(state, step / 2), target.bent(state, step))
    )
    assert float((far - before).abs().max()) > 0.3 * float(before.max())
    torch.testing.assert_close(
        far - before, 2 * (half - before), rtol=0, atol=1e-4 * float(far.max())
    )
    small = 1e-4 * step
    torch.testing.assert_close(target.bent(state, small), small, rtol=1e-3, atol=0)
    down = target.bent(state, -5 * amplitude)
    torch.testing.assert_close(amplitude + down, amplitude / 4)


def test_from_one_amplitude_for_all() -> None:
    """The search comes to where it comes to from the true amplitudes, which straight steps do not
    within as many (strong reflections are overshot)."""
    target = target_of()
    names = [one for one in target.free if one in target.amplitudes]
    prior = {name: {"prior": (70.0, 35.0)} for name in names}
    target = replace(target, model=target.model.changed(prior))
    flat = target.start()
    for name in names:
        flat.inner[target.model.parameters.names.index(name)] = 70.0
    one, two = minimise(target, target.start()), minimise(target, flat)
    assert one.converged and two.converged and len(two.losses) < 15
    assert two.normal.loss == pytest.approx(one.normal.loss, abs=0.1)


def test_restraints_are_curved_along_squares() -> None:
    """The restraints' curvature, and so what sigmas have of it, is the second derivative by F^2 of
    ((F - m)/s)^2/2 in units of F, by finite differences: far below and above m; measured: 4e-6."""
    target = target_of(("scale",))
    names = [one for one in target.free if one in target.amplitudes][:3]
    prior = {name: {"prior": (70.0, 35.0)} for name in names}
    target = replace(target, model=target.model.changed(prior))
    state = target.start()
    places = [target.model.parameters.names.index(name) for name in names]
    values = torch.tensor([7.0, 70.0, 200.0], dtype=torch.float64)
    state.inner[places] = values
    squares, h = values.square(), values.square() / 1000
    loss = [((q.sqrt() - 70) / 35).square() / 2 for q in (squares - h, squares, squares + h)]
    second = (loss[0] - 2 * loss[1] + loss[2]) / h**2
    curvature = target.prior(state)[2][[target.free.index(name) for name in names]]
    torch.testing.assert_close(curvature, second * 4 * squares, rtol=1e-4, atol=0)


def test_who_lights_the_pixels() -> None:
    """Photons of all reflections in the shoeboxes by eight forward passes: those of a backward pass
    (ByReflection), which colors nothing; measured: 8e-8 of the most. The brightest reflections are
    the most noticed."""
    target = target_of(("scale",), with_f=False).targets[0]
    flat = target.data.pictures[0]
    experiment, factors = target.model.start
    total = torch.zeros(factors.Fhkl.numel(), dtype=torch.float64)
    for photons, place in _by_parity((experiment, factors), flat, target):
        total.index_add_(0, place, photons)
    masked = replace(
        experiment,
        panels=tuple(replace(p, mask=m) for p, m in zip(experiment.panels, flat.masks)),
        beam=replace(experiment.beam, fluence=experiment.beam.fluence * flat.fluence),
    )
    known = ByReflection(masked, factors, target.options).of(flat.exposure)
    places = (known.hkl - torch.tensor(factors.hkl_min) + 1).T
    found = total.reshape(factors.Fhkl.shape)[tuple(places)]
    torch.testing.assert_close(found, known.photons, rtol=0, atol=1e-5 * float(found.max()))
    assert float(total.sum()) == pytest.approx(float(known.photons.sum()), rel=1e-5)
    lit = lit_by(target, target.start())
    strongest = {tuple(h) for h in known.hkl[known.photons.argsort()[-10:]].tolist()}
    noticed = {tuple(h) for h in lit.hkl[lit.chi_sqr.argsort()[-40:]].tolist()}
    assert strongest <= noticed
