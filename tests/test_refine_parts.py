"""Parameters of a refinement, what they do to models, and how counts scatter."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from refine_models import CELL, FLOAT, OPTIONS, amplitudes, experiment, exposures, parts, vector
from scipy import stats
from scipy.spatial.transform import Rotation

from nanobragg_plugin import cell, models
from nanobragg_plugin.jacobian import jacobian
from nanobragg_plugin.refine import parametrisations
from nanobragg_plugin.refine.linear import linear
from nanobragg_plugin.refine.noise import FLOOR, Noise
from nanobragg_plugin.refine.parameters import LOG, Parameter, Parameters
from nanobragg_plugin.simulate import simulate


def test_parameters_row() -> None:
    row = Parameters(
        [
            Parameter("x", "mm", -2.0, 1.0, bounds=(-5.0, 3.0), prior=(1.0, 2.0)),
            Parameter("n", "cells", 8.0, 1.0, LOG, (1.0, math.inf), prior=(4.0, 0.5)),
        ]
    )
    assert row.start.tolist() == [-2.0, math.log(8.0)]
    torch.testing.assert_close(row.outer(row.start), vector(-2.0, 8.0))
    torch.testing.assert_close(row.slopes(row.start), vector(1.0, 8.0))
    assert row.clamped(vector(9.0, -1.0)).tolist() == [3.0, 0.0]
    # the slope of the restraint by torch's own backward pass
    inner = row.start.clone().requires_grad_()
    values = row.outer(inner)
    loss = ((values[0] - 1) / 2) ** 2 + ((values[1] - 4) / 0.5) ** 2
    loss.backward()
    found, half, curvature = row.prior(row.start)
    torch.testing.assert_close(found, loss.detach())
    torch.testing.assert_close(half, inner.grad / 2)
    torch.testing.assert_close(curvature, vector(1 / 4, (8 / 0.5) ** 2))


@pytest.mark.parametrize(
    "change, words",
    [
        ({"value": -1.0, "transform": LOG}, "above 0"),
        ({"transform": "cube"}, "neither identity nor log"),
        ({"bounds": (2.0, 3.0)}, "not from 2.0 to 3.0"),
        ({"value": math.nan}, "not from"),
        ({"reach": 0.0}, "must be above 0"),
        ({"prior": (1.0, 0.0)}, "must be above 0"),
    ],
)
def test_bad_parameters(change: dict, words: str) -> None:
    good = {"name": "x", "unit": "mm", "value": 1.0, "reach": 1.0}
    with pytest.raises(ValueError, match=words):
        Parameter(**{**good, **change})


def test_names_are_single() -> None:
    one = Parameter("x", "mm", 1.0, 1.0)
    with pytest.raises(ValueError, match="same name: x"):
        Parameters([one, one])


def test_parts_begin_where_the_models_are() -> None:
    """With the values of the start nothing changes; measured: 3e-16 of the largest."""
    true = experiment()
    for name, part in parts(true).items():
        values = vector(*(one.value for one in part.parameters))
        changed, factors = part.apply((true, amplitudes()), values)
        assert torch.equal(factors.Fhkl, amplitudes().Fhkl)
        for a, b in zip(models.tensors_of(changed), models.tensors_of(true)):
            torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-14, msg=name)


def test_orientation_is_scipys() -> None:
    true = experiment()
    turned, _ = parametrisations.Orientation().apply((true, None), vector(0.3, -0.2, 0.5))
    turn = Rotation.from_rotvec([0.3, -0.2, 0.5], degrees=True).as_matrix()
    np.testing.assert_allclose(turned.crystal.A[0], turn @ true.crystal.A[0].numpy(), rtol=1e-12)


def test_cell_keeps_the_orientation() -> None:
    """U of A = U B stays, B is that of the new cell."""
    true = experiment()
    values = vector(*CELL) + vector(0.1, -0.2, 0.05, 0.3, -0.1, 0.2)
    changed, _ = parts(true)["cell"].apply((true, None), values)
    before = true.crystal.A[0] @ torch.linalg.inv(cell.b_matrix(vector(*CELL)))
    after = changed.crystal.A[0] @ torch.linalg.inv(cell.b_matrix(values))
    torch.testing.assert_close(after, before, rtol=1e-12, atol=1e-13)


def test_domains_keep_the_volume() -> None:
    true = experiment()
    one, _ = parametrisations.Ncells((9.0, 9.0, 9.0)).apply((true, None), vector(18.0))
    assert one.crystal.Ncells_abc.tolist() == [18.0] * 3
    assert float(one.crystal.spot_scale) == pytest.approx(1 / 8)
    three, _ = parametrisations.Ncells((9.0, 9.0, 9.0), False).apply(
        (true, None), vector(9.0, 18.0, 27.0)
    )
    assert three.crystal.Ncells_abc.tolist() == [9.0, 18.0, 27.0]
    assert float(three.crystal.spot_scale) == pytest.approx(1 / 6)


def test_detector_moves_as_a_body() -> None:
    """The shifts are along its axes; a turn about the normal through the pivot leaves the pivot."""
    true = experiment()
    place = parts(true)["detector"]
    (moved,) = place.apply((true, None), vector(0.1, 0.2, 0.3, 0, 0, 0))[0].panels
    # fast is x, slow -y, the distance along -z
    torch.testing.assert_close(moved.origin - true.panels[0].origin, vector(0.1, -0.2, -0.3))
    (turned,) = place.apply((true, None), vector(0, 0, 0, 0, 0, 90))[0].panels
    torch.testing.assert_close(turned.fast.abs(), vector(0, 1, 0), atol=1e-14, rtol=0)
    away = true.panels[0].origin - place.pivot
    back = Rotation.from_rotvec([0, 0, -90], degrees=True).apply(away)
    torch.testing.assert_close(turned.origin - place.pivot, torch.from_numpy(back))


def test_b_factor_fades_by_resolution() -> None:
    """F times exp(-B/4 d^2), d by the metric of the cell."""
    true, factors = experiment(), amplitudes()
    _, faded = parametrisations.BFactor().apply((true, factors), vector(30.0))
    h = np.array([3, -5, 7])
    size = np.linalg.norm(true.crystal.A[0].numpy() @ h)
    at = tuple(h - np.array(factors.hkl_min) + 1)
    expected = math.exp(-30 * size**2 / 4)
    assert float(faded.Fhkl[at] / factors.Fhkl[at]) == pytest.approx(expected, rel=1e-12)


def test_linear_models_have_the_derivatives() -> None:
    """Of all parts: tangents are those of the models themselves by central differences."""
    true = experiment()
    model = parametrisations.Model((true, amplitudes()), list(parts(true).values()))

    def make(inner: torch.Tensor) -> tuple:
        return model.models(model.parameters.outer(inner))

    point, step = model.parameters.start, 1e-5
    near = linear(make, point)
    for number in range(len(point)):
        away = torch.zeros_like(point)
        away[number] = step
        ends = (list(models.tensors_of(*make(point + sign * away))) for sign in (1, -1))
        lines = (list(models.tensors_of(*near(point + sign * away))) for sign in (1, -1))
        for a, b, c, d in zip(*ends, *lines):
            torch.testing.assert_close(c - d, a - b, rtol=1e-4, atol=1e-12)


def test_flat_jacobian() -> None:
    """Of masked pixels alone, in raster order: those of the whole image."""
    true = experiment(domains=2)
    mask = torch.zeros(true.panels[0].shape, dtype=torch.bool)
    mask[20:31, 15:40] = True
    part = parametrisations.Orientation()
    lit = replace(true.beam, fluence=vector(6e27)[0])
    masked = replace(true, panels=(replace(true.panels[0], mask=mask),), beam=lit)
    (shot,) = exposures()

    def make(values: torch.Tensor) -> tuple:
        return part.apply((masked, amplitudes()), values)

    for kind in ("double", "mixed"):
        options = replace(OPTIONS, precision=kind)
        images, columns = jacobian(make, vector(0.1, 0.0, 0.0), shot, options)
        flat, flat_columns = jacobian(make, vector(0.1, 0.0, 0.0), shot, options, flat=True)
        assert torch.equal(flat[0], images[0][mask])
        assert torch.equal(flat_columns[0], columns[0][:, mask])
    assert float(flat[0].max()) > 0


def test_poisson_is_scipys() -> None:
    """Differences of the loss are those of twice scipy's log-likelihood; information is 1/mu."""
    counts, mu = vector(0, 3, 12, 1000), vector(0.3, 5, 10.5, 950)
    found = Noise().terms(counts, mu)
    logs = -2 * stats.poisson.logpmf(counts.numpy(), mu.numpy())
    best = -2 * stats.poisson.logpmf(counts.numpy(), counts.numpy())
    np.testing.assert_allclose(found.loss, logs - best, rtol=1e-10)
    torch.testing.assert_close(found.information, 1 / mu)
    torch.testing.assert_close(found.chi_sqr, (counts - mu) ** 2 / mu)


def test_gaussian_information() -> None:
    """That of a normal distribution whose variance grows with its mean is the variance of its
    score: a million draws; measured: 0.3 %."""
    mu, made = 20.0, np.random.default_rng(3)
    counts = torch.from_numpy(made.normal(mu, math.sqrt(mu + 9), 1_000_000))
    found = Noise(readout=3.0).terms(counts, torch.full_like(counts, mu))
    assert abs(float(found.score.mean())) < 4 * float(found.score.std()) / 1000
    assert float(found.score.var()) == pytest.approx(float(found.information[0]), rel=0.01)


@pytest.mark.parametrize("readout", [None, 2.0])
@pytest.mark.parametrize("robust", ["none", "huber", "tukey"])
def test_scores_are_slopes(readout: float | None, robust: str) -> None:
    """-1/2 of the slope of the loss, by central differences, below the floor too."""
    counts = vector(0, 0, 3, 5, 40, 4, 200)
    mu = vector(-0.2, 0.005, -0.1, 5.5, 12, 30, 20)
    noise = Noise(readout, robust, 3.0)
    step = 1e-7
    up, down = (noise.terms(counts, mu + sign * step).loss for sign in (1, -1))
    slope = (up - down) / (2 * step)
    score = noise.terms(counts, mu).score
    torch.testing.assert_close(score, -slope / 2, rtol=2e-5, atol=2e-5)


def test_losses_are_continuous_at_the_floor() -> None:
    for counts in (vector(0), vector(2)):
        above, below = (
            Noise().terms(counts, vector(FLOOR * (1 + sign * 1e-9))).loss for sign in (1, -1)
        )
        torch.testing.assert_close(above, below, rtol=1e-6, atol=1e-6)


def test_robust_limits_zingers() -> None:
    """Tukey's loss is k^2/3 of the furthest, Huber's grows with the deviation, not its square."""
    counts, mu = vector(10, 10_000, 40_000), vector(10, 10, 10)
    tukey = Noise(robust="tukey", threshold=4.0).terms(counts, mu)
    torch.testing.assert_close(tukey.loss, vector(0, 16 / 3, 16 / 3))
    assert tukey.score[1:].tolist() == [0, 0]
    huber, plain = Noise(robust="huber", threshold=4.0).terms(counts, mu), Noise().terms(counts, mu)
    size = plain.loss[1:].sqrt()
    torch.testing.assert_close(huber.loss[1:], 8 * size - 16)


@pytest.mark.parametrize(
    "given, words",
    [
        ({"robust": "median"}, "none of none, huber, tukey"),
        ({"threshold": 0.0}, "above 0"),
        ({"readout": -1.0}, "not below"),
    ],
)
def test_bad_noise(given: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Noise(**given)


def test_across() -> None:
    axes = parametrisations.across(vector(0.6, 0.0, 0.8))
    whole = torch.cat([vector(0.6, 0.0, 0.8)[None], axes])
    torch.testing.assert_close(whole @ whole.T, torch.eye(3, dtype=FLOAT), atol=1e-15, rtol=0)


def test_spread_and_beam_act() -> None:
    """A beam and a crystal that turn together, by a detector that turns with them, see the same."""
    true = experiment(domains=3)
    true = replace(true, beam=replace(true.beam, fluence=vector(6e27)[0]))
    beam = parts(true)["beam"]
    angles = vector(0.2, -0.1)
    (shot,) = exposures()
    turned, factors = beam.apply((true, amplitudes()), angles)
    turn = Rotation.from_rotvec(np.radians(angles.numpy()) @ beam.axes.numpy()).as_matrix()
    matrix = torch.from_numpy(turn)
    (panel,) = true.panels
    panel = replace(
        panel, origin=matrix @ panel.origin, fast=matrix @ panel.fast, slow=matrix @ panel.slow
    )
    crystal = replace(
        true.crystal,
        A=matrix @ true.crystal.A,
        umats=matrix @ true.crystal.umats @ matrix.T,
        mosaic_frame="lab",
    )
    lab = replace(true, crystal=replace(true.crystal, mosaic_frame="lab"))
    together = replace(turned, panels=(panel,), crystal=crystal)
    options = replace(OPTIONS, precision="double")
    (one,), (two,) = (simulate(e, shot, factors, options) for e in (lab, together))
    (alone,) = simulate(replace(lab, beam=turned.beam), shot, factors, options)
    torch.testing.assert_close(two, one, rtol=1e-8, atol=1e-9 * float(one.max()))
    assert float((alone - one).abs().max()) > 0.1 * float(one.max())
