"""How finely models are sampled while they are refined, and how far steps may lead."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from refine_models import FLOAT, OPTIONS, experiment, exposures, vector
from test_refine_fit import OFF, moved, target_of, value

from nanobragg_plugin.models import Exposure, Layers
from nanobragg_plugin.refine import sampled
from nanobragg_plugin.refine.minimise import minimise
from nanobragg_plugin.refine.target import State, Target


def test_sub_pixels_are_as_wide_as_the_sharpest_spot_allows() -> None:
    """Of the panel 0.3 mm/80 mm/1 A; a domain of 9 x 61 A has a spot of sigma 0.397/549 1/A (of
    exp(-2 (N h)^2/0.63)): 5.2 sigma a pixel, so 4 of at most 1.5."""
    made = sampled.fine(OPTIONS, experiment())
    sigma = math.sqrt(0.63) / 2 / (9 * 61)
    assert made.oversample == math.ceil(0.3 / 80 / sigma / 1.5) == 4
    assert made.subpixels == "moments"
    far = replace(experiment().panels[0], origin=vector(-19.0, 17.0, -800.0))
    assert sampled.fine(OPTIONS, replace(experiment(), panels=(far,))).oversample == 2


def test_steps_of_phi_have_the_moments_of_the_exposure() -> None:
    """Of angles from 0.1 to 0.7 radians: the mean 0.4, the variance 0.6^2/12."""
    middles = tuple(0.1 + 0.15 * (k + 0.5) for k in range(4))
    made = sampled.spread_out(Exposure(middles, tuple((k + 0.5) / 4 for k in range(4))))
    assert np.mean(made.phi) == pytest.approx(0.4, rel=1e-14)
    assert np.var(made.phi) == pytest.approx(0.6**2 / 12, rel=1e-13)
    assert np.mean(made.position) == pytest.approx(0.5) and np.var(made.position) == pytest.approx(
        1 / 12
    )
    one = exposures()[0]
    assert sampled.spread_out(one) is one


def test_coarse_targets() -> None:
    """Less of everything, the same parameters; no choice of a kernel is taken over."""
    target = target_of(("orientation", "mosaic", "scale"))
    layers = (Layers(vector(0, 0.1, 0.2, 0.45)),)
    part = replace(target.model.parts[1], domains=300)
    model = type(target.model)(target.model.start, [target.model.parts[0], part], {})
    target = replace(target, model=model, options=replace(OPTIONS, oversample=4, layers=layers))
    target.choices["image"] = None
    made = sampled.coarse(replace(target, free=model.parameters.names))
    assert made.model.parts[1].domains == sampled.COARSE_DOMAINS
    assert made.model.parameters.names == model.parameters.names
    assert made.options.oversample == 2
    assert made.options.layers[0].edges.tolist() == [0, 0.45]
    assert made.choices == {}


def test_backgrounds_stay_above_0_in_a_step() -> None:
    """Box by box: what would lose more than nine tenths somewhere loses as much, others take their
    whole step."""
    target = target_of(("orientation", "scale"))
    state = target.start()
    step = torch.zeros_like(state.background)
    step[0, 0], step[1, 0] = -50.0, 1.5
    step[2, 1] = 100.0
    still = torch.zeros(len(target.free), dtype=FLOAT)
    after = target.moved(state, still, step).background
    assert float(after[0, 0]) == pytest.approx(0.1 * float(state.background[0, 0]), rel=1e-9)
    assert float(after[1, 0]) == float(state.background[1, 0]) + 1.5
    (picture,) = target.data.pictures
    mine = picture.box == 2
    plane = (target.design(picture)[mine] * after[2]).sum(1)
    assert 0.1 * float(state.background[2, 0]) <= float(plane.min()) + 1e-6
    assert float(after[2, 1]) > 0
    assert torch.equal(after[3:], state.background[3:])


def test_bright_spots_are_found_in_few_steps() -> None:
    """A hundred times the photons, from far off: measured 9 steps."""
    bright = target_of()
    (picture,) = bright.data.pictures
    made = replace(picture, counts=100 * picture.counts, fluence=100 * picture.fluence)
    bright = replace(bright, data=replace(bright.data, pictures=(made,)))
    found = minimise(bright, moved(bright, **OFF))
    assert found.converged and len(found.losses) < 20
    assert value(bright, found.state, "Ncells_a") == pytest.approx(9.0, rel=0.01)


class _Uphill(Target):
    """Whose slopes have the wrong sign."""

    def normal(self, state: State):
        found = super().normal(state)
        return replace(found, gradient=-found.gradient, box_gradient=-found.box_gradient)


def test_a_step_that_damping_made_small_is_no_end() -> None:
    """Where slopes promise a fall that no step brings, nothing has converged."""
    plain = target_of(("orientation", "Ncells", "scale"))
    target = _Uphill(**{**vars(plain)})
    found = minimise(target, moved(target, rotation_x=0.05, Ncells_a=10.0), iterations=60)
    assert not found.converged and "no step" in found.reason
