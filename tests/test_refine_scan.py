"""What varies along a scan as parameters: curves, columns of few images, B of images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import test_refine_amplitudes
import torch
from refine_models import (
    CELL,
    FLOAT,
    OPTIONS,
    amplitudes,
    data_of,
    experiment,
    exposures,
    parts,
    tiles,
    vector,
)
from scipy.spatial.transform import Rotation

from nanobragg_plugin.cell import b_matrix
from nanobragg_plugin.refine import splines
from nanobragg_plugin.refine.joint import Joint
from nanobragg_plugin.refine.joint_model import joined
from nanobragg_plugin.refine.linear import Linear
from nanobragg_plugin.refine.minimise import minimise
from nanobragg_plugin.refine.normal import State
from nanobragg_plugin.refine.parametrisations import (
    BFactor,
    Cell,
    GoniometerSetting,
    Model,
    Orientation,
    Wavelength,
    across,
)
from nanobragg_plugin.refine.sigmas import sigmas
from nanobragg_plugin.refine.slopes import loss_and_slopes
from nanobragg_plugin.refine.target import Target
from nanobragg_plugin.rotation import from_vector
from nanobragg_plugin.simulate import simulate

FLUENCE = 6e27
IMAGES = 4


@pytest.mark.parametrize("intervals, points", [(1, 5), (2, 9), (3, 8), (7, 40)])
def test_curves(intervals: int, points: int) -> None:
    """Constant and straight where the numbers are (of a straight line those of B-splines are its
    values at Greville's abscissae: the means of `degree` knots in a row); the ends are the first
    and the last number; no number acts further than its own four intervals."""
    found = splines.design(points, intervals).numpy()
    degree = 1 if intervals < 3 else 3
    assert found.shape == (points, intervals + degree) and (found >= 0).all()
    np.testing.assert_allclose(found.sum(1), 1.0, atol=1e-14)
    knots = np.clip(np.arange(-degree, intervals + degree + 1), 0, intervals)
    greville = [knots[i + 1 : i + 1 + degree].mean() for i in range(intervals + degree)]
    places = np.linspace(0, intervals, points)
    np.testing.assert_allclose(found @ greville, places, atol=1e-13)
    assert found[0].argmax() == 0 and found[0, 0] == 1 and found[-1, -1] == pytest.approx(1)
    for number in range(intervals + degree):
        acts = places[found[:, number] > 0]
        assert len(acts) == 0 or acts.max() - acts.min() <= degree + 1


@pytest.mark.parametrize(
    "images, width, given, intervals",
    [
        (3600, 0.1, None, 10),  # as dials.refine: 36 degrees
        (900, 0.1, None, 4),  # 90 degrees: a quarter
        (12, 0.5, None, 2),  # five images at least
        (2, 0.5, None, 1),
        (1800, -0.1, 36.0, 5),
        (10, 1.0, 400.0, 1),
        (10, 1.0, 2.0, 5),
    ],
)
def test_intervals(images: int, width: float, given: float | None, intervals: int) -> None:
    found = splines.intervals_of(images, width, given)
    assert found == intervals
    assert given is not None or splines.knots_of(found) <= images


def design(intervals: int = 3) -> torch.Tensor:
    return splines.design(IMAGES + 1, intervals)


def test_turns_and_cells_at_the_points() -> None:
    """Of a curve of two numbers, halfway its mean: by scipy's rotations, and B of the mean cell,
    which dxtbx's convention has (test_cell)."""
    true = experiment()
    line = splines.design(3, 1)
    part = Orientation(line)
    assert [one.name for one in part.parameters][3:6] == [
        "rotation_x[0]",
        "rotation_x[1]",
        "rotation_y[0]",
    ]
    values = vector(0.1, 0, 0, 0.0, 0.4, -0.2, 0.2, 0.6, 0.6)
    turned, _ = part.apply((true, None), values)
    wanted = [[0.1, -0.2, 0.6], [0.3, 0.0, 0.6], [0.5, 0.2, 0.6]]
    for turn, found in zip(wanted, turned.crystal.A):
        matrix = Rotation.from_rotvec(turn, degrees=True).as_matrix()
        np.testing.assert_allclose(found, matrix @ true.crystal.A[0].numpy(), rtol=1e-12)
    names, identity = ("a", "b", "c", "alpha", "beta", "gamma"), torch.eye(6, dtype=FLOAT)
    cell = Cell(vector(*CELL)[None], names, CELL, identity, line)
    values = vector(*(one.value for one in cell.parameters))
    values[6:8] += vector(0.2, 0.4)  # a[0], a[1]
    changed, _ = cell.apply((true, None), values)
    turn = true.crystal.A[0] @ torch.linalg.inv(b_matrix(vector(*CELL)))
    for more, found in zip((0.2, 0.3, 0.4), changed.crystal.A):
        grown = turn @ b_matrix(vector(CELL[0] + more, *CELL[1:]))
        torch.testing.assert_close(found, grown, rtol=1e-12, atol=1e-14)


def target_of(
    truth: dict[str, float] | None = None,
    seed: int | None = 1,
    kinds: tuple[str, ...] = ("cell", "orientation", "scale"),
    intervals: int = 3,
    **options,
) -> Target:
    """Four images of half a degree; all curves free, and what has none; counts drawn by a seed from
    other values of some parameters, or (None) as they are."""
    true, shots, curve = experiment(), exposures(IMAGES, 0.5, 2), design(intervals)
    chosen = {**parts(true), "b": BFactor()}
    for kind in ("cell", "orientation"):
        chosen[kind] = replace(chosen[kind], design=curve)
    model = Model((true, amplitudes()), [chosen[kind] for kind in kinds])
    parameters = model.parameters
    values = parameters.outer(parameters.start)
    for name, value in (truth or {}).items():
        values[parameters.names.index(name)] = value
    models, factors = model.models(values)
    lit = replace(models, beam=replace(models.beam, fluence=vector(FLUENCE)[0]))
    images = [simulate(lit, shot, factors, OPTIONS)[0].double() + 2 for shot in shots]
    made = torch.Generator().manual_seed(seed or 0)
    counts = images if seed is None else [torch.poisson(one, generator=made) for one in images]
    data = data_of(counts, tiles(images, 300), shots, FLUENCE)
    curves = {name.partition("[")[0] for name in parameters.names if "[" in name}
    free = tuple(name for name in parameters.names if name not in curves)
    return Target(model, data, OPTIONS, **{"free": free, **options})


def test_an_image_has_few_columns(monkeypatch) -> None:
    """Of 6 numbers of each curve an image between two points has those that act at one of them,
    of which there are two combinations; the normal equations are those of all columns (measured:
    2e-7 of the largest: pixels are float32)."""
    target = target_of(seed=3)
    state = target.start()
    near = target._near(state)
    counts = [len(near.seen_in(one.exposure)) for one in target.data.pictures]
    acting = [int((design()[i : i + 2] > 0).any(0).sum()) for i in range(IMAGES)]
    assert counts == [9 * n + 1 for n in acting]  # 6 of the cell, 3 turns; the scale
    assert max(counts) < len(target.free)
    local = [near.seen_by(one.exposure) for one in target.data.pictures]
    assert [len(own.point) for own, _, _ in local] == [9 * 2 + 1] * IMAGES
    _same_as_all(target, state, monkeypatch)


def _same_as_all(target: Target, state: State, monkeypatch) -> None:
    """The normal equations, and those of all columns in each image."""
    few = target.normal(state)

    def every_one(self: Linear, exposure: object) -> tuple:
        count = len(self.point)
        return self, torch.arange(count), torch.eye(count, dtype=FLOAT)

    monkeypatch.setattr(Linear, "seen_by", every_one)
    every = target.normal(state)
    for name in ("information", "gradient", "mixed", "of_boxes"):
        one, two = getattr(few, name), getattr(every, name)
        torch.testing.assert_close(one, two, rtol=0, atol=1e-6 * float(two.abs().max()))
    assert few.loss == pytest.approx(every.loss, rel=1e-9)


def test_all_that_has_scan_points(monkeypatch) -> None:
    """Setting, wavelength and A at scan points, turned, stretched and a curve: each image has the
    combinations that it sees (measured: 1e-9)."""
    true = experiment()
    turns = torch.linspace(0.0, 0.01, IMAGES + 1, dtype=FLOAT)
    setting = from_vector(turns[:, None] * vector(0.2, 1.0, 0.3))
    goniometer = replace(true.goniometer, setting=setting)
    beam = replace(true.beam, wavelength=(1 + turns)[:, None])
    varying = replace(true, goniometer=goniometer, beam=beam)
    shots = exposures(IMAGES, 0.5, 2)
    part = GoniometerSetting(across(vector(1.0, 0, 0)))
    chosen = [Orientation(design()), part, Wavelength(1.0), parts(true)["scale"]]
    model = Model((varying, amplitudes()), chosen)
    lit = replace(varying, beam=replace(beam, fluence=vector(FLUENCE)[0]))
    images = [simulate(lit, shot, amplitudes(), OPTIONS)[0].double() + 2 for shot in shots]
    data = data_of(images, tiles(images, 300), shots, FLUENCE)
    target = Target(model, data, OPTIONS, free=model.parameters.names[3:])
    local = [target._near(target.start()).seen_by(one.exposure) for one in data.pictures]
    assert [len(own.point) for own, _, _ in local] == [6 + 2 + 1 + 1] * IMAGES
    _same_as_all(target, target.start(), monkeypatch)


def test_b_of_a_cell_that_does_not_vary() -> None:
    """Amplitudes that fade by the metric of the start leave an image's columns few."""
    target = target_of(kinds=("cell", "orientation", "scale", "b"))
    a_matrix = target.model.start[0].crystal.A[0]
    part = replace(target.model.parts[-1], metric=a_matrix.T @ a_matrix)
    model = Model(target.model.start, [*target.model.parts[:-1], part])
    last = target.data.pictures[-1].exposure
    state = target.start()
    state.inner[-1] = 10.0
    one, two = (replace(target, model=m)._near(state) for m in (target.model, model))
    assert len(two.seen_in(last)) < len(one.seen_in(last))
    values = model.parameters.outer(model.parameters.start)
    values[-1] = 10.0
    (_, one), (_, two) = target.model.models(values), model.models(values)
    torch.testing.assert_close(one.Fhkl, two.Fhkl, rtol=1e-12, atol=0)


def test_gradients_are_slopes() -> None:
    """Of curves and of B of images: by central differences of the loss, and by the backward pass
    (double precision; measured: 4e-8, 1e-16)."""
    target = target_of(seed=5, image_b=True, image_scales=True)
    target = replace(target, options=replace(OPTIONS, precision="double", tolerance=0.0))
    free = tuple(name for name in target.free if name != "scale")
    model = joined([target.model], [dict.fromkeys(target.model.parameters.names, 0)], [0])
    joint = Joint(model, (target,), (0,), free, True, image_b=True)
    state = joint.start()
    at = target.model.parameters.names.index
    state.inner[at("rotation_x[2]")], state.inner[at("a[1]")] = 0.05, 47.05
    state = replace(state, b=vector(1.0, -0.5, 0.0, 2.0), log_scale=vector(0.1, 0.0, -0.1, 0.0))
    normal = joint.normal(state)
    names = joint.shared_names
    assert names[-8:] == tuple(f"{kind}_{n}" for kind in ("scale", "B") for n in range(1, 5))
    nothing = torch.zeros_like(state.background)
    for name in ("rotation_x[2]", "beta[5]", "scale_2", "B_1"):
        step = 1e-5 * torch.eye(len(names), dtype=FLOAT)[names.index(name)]
        ends = [joint.normal(joint.moved(state, sign * step, nothing)).loss for sign in (1, -1)]
        slope = -(ends[0] - ends[1]) / 2e-5 / 2
        assert float(normal.gradient[names.index(name)]) == pytest.approx(slope, rel=1e-4, abs=0.5)
    loss, chi_sqr, gradient, boxes = loss_and_slopes(joint, state)
    assert loss == pytest.approx(normal.loss, rel=1e-10)
    assert chi_sqr == pytest.approx(normal.chi_sqr, rel=1e-10)
    size = float(normal.gradient.abs().max())
    torch.testing.assert_close(gradient, normal.gradient, rtol=1e-6, atol=1e-9 * size)
    torch.testing.assert_close(boxes, normal.box_gradient, rtol=1e-6, atol=1e-6)


def test_b_of_an_image() -> None:
    """Photons of an image whose amplitudes fade by B: exp(-2 B stol^2) of a pixel, of which the
    reflection's own stol^2 is within the spot's width (measured: 0.1 % of the photons)."""
    target = target_of(seed=None, kinds=("orientation", "scale", "b"))
    faded, state = target.start(), target.start()
    faded.inner[-1] = 10.0
    by_f = target.expected(faded)
    by_pixel = target.expected(replace(state, b=torch.full_like(state.b, 10.0)))
    whole = target.expected(state)
    for one, two, before in zip(by_f, by_pixel, whole):
        off = (one.bragg - two.bragg).abs().sum() / one.bragg.sum()
        assert float(off) < 0.01
        assert float(two.bragg.sum() / before.bragg.sum()) < 0.9


TRUTH = {
    "rotation_x[0]": 0.05,
    "rotation_x[1]": -0.05,
    "rotation_y[1]": 0.08,
    "rotation_z[0]": -0.1,
}


def test_sigmas_of_curves_are_true() -> None:
    """10 draws of 7 parameters (lines from one end of the scan to the other): the mean of the
    errors' squared length by the covariance is that of chi^2 with 7 degrees, within 4 sigma."""
    squares = []
    for seed in range(10):
        target = target_of(TRUTH, 50 + seed, ("orientation", "scale"), 1)
        found = minimise(target, target.start())
        assert found.converged
        names = target.model.parameters.names
        truth = target.model.parameters.start.clone()
        truth[[names.index(name) for name in TRUTH]] = vector(*TRUTH.values())
        error = (found.state.inner - truth)[target.numbers]
        known = sigmas(target, found.state, found.normal.reduced()[0])
        squares.append(float(error @ torch.linalg.solve(known.covariance, error)))
    mean = sum(squares) / len(squares)
    assert abs(mean - 7) < 4 * (2 * 7 / 10) ** 0.5


def test_a_gap_is_named() -> None:
    """Of images without pixels: only those curves' numbers that act nowhere else are
    undetermined."""
    target = target_of(kinds=("orientation", "scale"))
    two = replace(target.data, pictures=target.data.pictures[:2])
    target = replace(target, data=two)
    found = minimise(target, target.start())
    known = sigmas(target, found.state, found.normal.reduced()[0])
    lost = {name for name, sigma in zip(known.names, known.sigma) if not torch.isfinite(sigma)}
    assert {f"rotation_{axis}[5]" for axis in "xyz"} <= lost
    assert {f"rotation_{axis}[0]" for axis in "xyz"} & lost == set()
    assert torch.isfinite(found.state.inner).all()


def test_amplitudes_beside_curves(monkeypatch) -> None:
    """Their gradient, with that of a curve and of B of images, is the backward pass's (measured:
    4e-8 of the largest)."""
    some = {"orientation": Orientation(design())}
    monkeypatch.setattr(test_refine_amplitudes, "all_parts", lambda true: {**parts(true), **some})
    joint = test_refine_amplitudes.target_of(shots=exposures(IMAGES, 0.5, 2))
    same = {f"rotation_{axis}" for axis in "xyz"}
    free = tuple(name for name in joint.free if name not in same)
    joint = replace(joint, free=free, image_b=True)
    state = joint.start()
    state = replace(state, b=vector(1.0, 0.5, 0.0, 2.0))
    state.inner[joint.model.parameters.names.index("rotation_y[3]")] = 0.03
    (own,) = joint.normal(state).each
    _, _, gradient, _ = loss_and_slopes(joint, state)
    found = gradient[joint.places[0]]
    size = float(found.abs().max())
    torch.testing.assert_close(own.gradient, found, rtol=0, atol=1e-5 * size)
    assert len(free) > 100 and float(own.gradient[-4:].abs().min()) > 1e-3 * size
