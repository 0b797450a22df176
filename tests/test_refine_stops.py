# ruff: noqa: F811
"""Searches that do not end well: the best so far is what is given back and written, with a reason
in one sentence and an exit status that is not 0."""

from __future__ import annotations

import json
import math
import os
import re
import signal
from dataclasses import replace
from pathlib import Path

import nanobragg_plugin  # noqa: F401  isort: skip  before dxtbx

import numpy as np
import pytest
import torch

pytest.importorskip("dials")

from dxtbx.model import ExperimentList  # noqa: E402
from libtbx.utils import Sorry  # noqa: E402
from scipy.spatial.transform import Rotation  # noqa: E402
from simulate_helpers import load  # noqa: E402
from test_refine_command import START, refine, still, still_data  # noqa: E402, F401

from nanobragg_plugin.refine import lbfgs, minimise  # noqa: E402
from nanobragg_plugin.refine.parameters import Parameter, Parameters  # noqa: E402
from nanobragg_plugin.refine.target import Normal, State  # noqa: E402


class Valley:
    """Half the loss is (1 - x)^2 + 10 (y - x^2)^2, Rosenbrock's with 10, least at (1, 1); a target
    for the searches, `broken` where it says."""

    def __init__(self, broken: object = None) -> None:
        self.parameters = Parameters([Parameter(n, "", v, 10.0) for n, v in zip("xy", (-1.2, 1.0))])
        self.model, self.numbers, self.broken = self, torch.tensor([0, 1]), broken
        self.free = self.shared_names = ("x", "y")
        self.calls = 0

    def start(self) -> State:
        none = torch.zeros(0)
        return State(self.parameters.start.clone(), none, torch.zeros(0, 0).double(), none)

    def normal(self, state: State) -> Normal:
        self.calls += 1
        x, y = state.inner.tolist()
        slopes = torch.tensor([[-1.0, 0.0], [-2 * x * 10**0.5, 10**0.5]], dtype=torch.float64)
        away = torch.tensor([1 - x, 10**0.5 * (y - x * x)], dtype=torch.float64)
        empty = torch.zeros(0, 0, 0).double(), torch.zeros(0, 0).double()
        empty = *empty, torch.zeros(0, 0, 2).double()
        normal = Normal(slopes.T @ slopes, -slopes.T @ away, *empty, 0.0, 0.0, 2)
        normal = replace(normal, loss=float(away @ away), chi_sqr=float(away @ away))
        return normal if self.broken is None else self.broken(self, state, normal)

    def moved(self, state: State, step: torch.Tensor, backgrounds: torch.Tensor) -> State:
        return replace(state, inner=state.inner + step)

    def settled(self, state: State, rounds: int) -> tuple[State, float]:
        x, y = state.inner.tolist()
        return state, (1 - x) ** 2 + 10 * (y - x * x) ** 2

    def lowest(self, state: State) -> torch.Tensor:
        return torch.full_like(state.inner, -math.inf)

    def bent(self, state: State, step: torch.Tensor) -> torch.Tensor:
        return step


def test_to_the_valleys_end() -> None:
    """Without anything broken."""
    valley = Valley()
    found = minimise.minimise(valley, valley.start())
    assert found.converged and found.stopped == 0
    # the loss falls by less than CONVERGED: within 0.03 of a sigma, which is 1 along x
    assert found.state.inner.tolist() == pytest.approx([1, 1], abs=0.1)


def beyond(valley: Valley, state: State, normal: Normal) -> Normal:
    """No image where x is above 0.3."""
    return replace(normal, loss=math.nan) if float(state.inner[0]) > 0.3 else normal


def without_slopes(valley: Valley, state: State, normal: Normal) -> Normal:
    """The loss is a number there, its slopes are not."""
    far = float(state.inner[0]) > 0.3
    return replace(normal, gradient=normal.gradient * math.nan) if far else normal


def infinite(valley: Valley, state: State, normal: Normal) -> Normal:
    far = float(state.inner[0]) > 0.3
    return replace(normal, information=normal.information * math.inf) if far else normal


def refused(valley: Valley, state: State, normal: Normal) -> Normal:
    """No cell has such angles."""
    if float(state.inner[0]) > 0.3:
        raise ValueError("there is no such cell")
    return normal


@pytest.mark.parametrize("broken", [beyond, without_slopes, infinite, refused])
def test_no_numbers_on_the_way(broken: object) -> None:
    """It ends before where there are none, lower than it began, and says that it did not get
    there."""
    valley = Valley(broken)
    found = minimise.minimise(valley, valley.start())
    assert not found.converged and found.reason
    assert -1.2 < float(found.state.inner[0]) <= 0.3
    assert found.losses[-1] == found.normal.loss < found.losses[0]
    assert all(map(math.isfinite, found.losses))


def test_no_way_down() -> None:
    """Slopes that lead up: the damping grows until nothing moves."""
    valley = Valley(lambda valley, state, normal: replace(normal, gradient=-normal.gradient))
    found = minimise.minimise(valley, valley.start())
    assert not found.converged and "leads down" in found.reason
    assert found.state.inner.tolist() == [-1.2, 1.0]


@pytest.mark.parametrize(
    "stop, status, words",
    [(KeyboardInterrupt(), 130, "by Ctrl-C"), (SystemExit(143), 143, "by SIGTERM")],
)
def test_stopped(stop: BaseException, status: int, words: str) -> None:
    def stopping(valley: Valley, state: State, normal: Normal) -> Normal:
        if valley.calls == 6:
            raise stop
        return normal

    valley = Valley(stopping)
    found = minimise.minimise(valley, valley.start())
    assert found.stopped == status and words in found.reason and not found.converged
    assert len(found.losses) > 1 and found.normal.loss == min(found.losses) < found.losses[0]


STOPS = {signal.SIGINT: (130, "by Ctrl-C"), signal.SIGTERM: (143, "by SIGTERM")}


@pytest.mark.parametrize("number", STOPS, ids=lambda number: number.name)
@pytest.mark.parametrize("method", ["lm", "lbfgs"])
def test_signals(still: Path, monkeypatch, capsys, request, number: int, method: str) -> None:
    """A real signal in the ninth evaluation: what was found until then is written, all of it; the
    exit status is the shell's; one line says so."""
    status, words = STOPS[number]
    place, name = {
        "lm": (minimise, "_tried"),
        "lbfgs": (lbfgs, "loss_and_slopes"),
    }[method]
    old, calls = getattr(place, name), []

    def interrupted(*args: object) -> object:
        calls.append(args)
        if len(calls) == 9:
            os.kill(os.getpid(), number)
        return old(*args)

    monkeypatch.setattr(place, name, interrupted)
    # a shell's background job ignores Ctrl-C
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    chosen = "refine.parameters=orientation+scale", f"refine.method={method}", "refine.blur=1"
    with pytest.raises(SystemExit) as caught:
        refine("start.expt", "start.refl", *START, *chosen, "refine.positions=False")
    assert caught.value.code == status
    content = json.loads(Path("refined.json").read_text())
    assert not content["converged"] and words in content["reason"]
    losses = content["stages"][-1]["losses"]
    assert content["loss"] == pytest.approx(min(losses)) and min(losses) < losses[0]
    assert len(load("refined.expt")) == 1 and Path("refined.html").exists()
    (line,) = [one for one in capsys.readouterr().out.splitlines() if "it was stopped" in one]
    assert line.endswith(f"it was stopped, {words}; the best so far is written")


def test_what_a_stop_left_out(still: Path, monkeypatch, capsys) -> None:
    """Parameters of stages that were not reached are not called held, nor those that are held
    called so."""
    each = "stage { parameters = orientation scale } stage { parameters = cell mosaic }"
    Path("stages.phil").write_text(f"refine {{ {each} }}")

    def interrupted(*args: object) -> object:
        raise KeyboardInterrupt

    monkeypatch.setattr(minimise, "_tried", interrupted)
    given = "refine.blur=1", "refine.positions=False", "output.pictures=False", "stages.phil"
    with pytest.raises(SystemExit):
        refine("start.expt", "start.refl", *START, *given)
    rows = {row["name"]: row for row in json.loads(Path("refined.json").read_text())["parameters"]}
    left = {name for name, row in rows.items() if not row.get("reached", True)}
    cell = {"a", "b", "c", "alpha", "beta", "gamma"} & set(rows)
    assert cell and left == {*cell, "mosaic_spread"}
    said = capsys.readouterr().out
    assert re.search(r"mosaic_spread .* not reached", said)
    assert re.search(r"Ncells_a .* held", said)


def off_by(degrees: float) -> str:
    (experiment,) = load("data.expt", True)
    experiment.crystal.rotate_around_origin((0.6, 0.64, 0.48), degrees)
    ExperimentList([experiment]).as_file("far.expt")
    return "far.expt"


def test_models_that_miss_the_counts(still: Path) -> None:
    """1.2 degrees off, and only the scale is refined: it converges, and it is said that this is
    none of the counts' models."""
    chosen = "refine.parameters=scale", "refine.positions=False", "output.pictures=False"
    chosen = *chosen, "refine.shoeboxes.background=constant", "refine.coarse=False"
    sharp = "crystal.mosaic.spread_deg=0.2", "crystal.Ncells_abc=12,12,12"
    chosen = *chosen, *sharp, "refine.iterations=300", "refine.blur=1"
    with pytest.raises(Sorry, match="do not describe the counts .*written all the same"):
        refine(off_by(1.2), "start.refl", *START, *chosen)
    rows = json.loads(Path("refined.json").read_text())["parameters"]
    assert all(np.isfinite(row["value"]) for row in rows)


def test_a_start_too_far_off(still: Path) -> None:
    """40 degrees: refused, or said afterwards."""
    chosen = "refine.parameters=orientation+scale", "refine.positions=False", "refine.iterations=9"
    with pytest.raises(Sorry, match="put no photons where|did not converge|do not describe"):
        refine(off_by(40.0), "start.refl", *START, *chosen, "output.pictures=False")


def test_from_far_off(still: Path) -> None:
    """6 degrees, which are 20 times the spread: by blurred stages alone back to the truth, and not
    without them."""
    chosen = "refine.parameters=orientation+domains+mosaic+scale", "refine.positions=False"
    refine(off_by(6.0), "start.refl", *START, *chosen, "output.pictures=False")
    (true,), (found,) = load("data.expt"), load("refined.expt")
    turn = np.reshape(true.crystal.get_U(), (3, 3)).T @ np.reshape(found.crystal.get_U(), (3, 3))
    assert np.degrees(Rotation.from_matrix(turn).magnitude()) < 0.06  # other domains: see check()
    stages = [one["stage"] for one in json.loads(Path("refined.json").read_text())["stages"]]
    assert "blurred" in stages[0] and "blurred 2 times" in stages[-3] and "blur" not in stages[-1]
    chosen = "refine.parameters=orientation+scale", "refine.positions=False", "refine.blur=1"
    with pytest.raises(Sorry, match="put no photons where|did not converge|do not describe"):
        refine(off_by(6.0), "start.refl", *START, *chosen, "output.prefix=sharp")


def test_lbfgs_where_there_is_no_image(still: Path, monkeypatch) -> None:
    """From the third evaluation on the loss is no number: the best of the first two is written."""
    old, calls = lbfgs.loss_and_slopes, []

    def broken(*args: object) -> tuple:
        calls.append(args)
        found = old(*args)
        return (
            found
            if len(calls) < 3
            else (math.nan, math.nan, *(one * math.nan for one in found[2:]))
        )

    monkeypatch.setattr(lbfgs, "loss_and_slopes", broken)
    chosen = "refine.parameters=orientation+scale", "refine.method=lbfgs", "refine.coarse=False"
    with pytest.raises(
        Sorry, match="did not converge: .*L-BFGS is led.*; the best so far is written"
    ):
        refine(
            *("start.expt", "start.refl", *START, *chosen, "refine.positions=False"),
            *("refine.blur=1", "output.pictures=False"),
        )
    content = json.loads(Path("refined.json").read_text())
    assert math.isfinite(content["loss"]) and len(calls) < 80
