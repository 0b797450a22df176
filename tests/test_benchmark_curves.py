# ruff: noqa: E402
"""nanobragg.benchmark's curves: one quantity varies, and the work with it; what is said of them."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("dials")

import numpy as np
from libtbx.utils import Sorry

from nanobragg_plugin.command_line import benchmark as command
from nanobragg_plugin.run import benchmark_cases as cases
from nanobragg_plugin.run import benchmark_curves as curves

NAMES = ("pixels", "phisteps", "domains", "sources", "ncells", "cell_volume")
BASE = 512 * 512 * 10 * 10


def work_of(folder: Path, name: str, value: float) -> cases.Work:
    (folder / cases.HKL).write_text("1 2 3 40.0\n")
    return cases.work(curves.CURVES[name].case(value), folder, 1.0, {})


def test_curves_span_two_decades() -> None:
    assert tuple(curves.CURVES) == NAMES
    for name, curve in curves.CURVES.items():
        ratios = [value / curve.values[0] for value in curve.values]
        # the edges of squares are whole numbers
        assert ratios == pytest.approx([1, 3, 10, 30, 100], rel=5e-3), name
        base = getattr(curves.Point(), name)
        assert any(value == pytest.approx(base, rel=1e-12) for value in curve.values), name


@pytest.mark.parametrize("name", NAMES)
def test_work_varies_with_the_value(tmp_cwd: Path, name: str) -> None:
    """Of the steps as many as the value says, or none; the rest stays."""
    grows = name in ("pixels", "phisteps", "domains", "sources")
    values = curves.CURVES[name].values
    works = [work_of(tmp_cwd, name, value) for value in (values[0], values[-1])]
    steps = [work.steps for work in works]
    assert steps[1] / steps[0] == pytest.approx(values[-1] / values[0] if grows else 1, rel=1e-12)
    middle = work_of(tmp_cwd, name, getattr(curves.Point(), name))
    assert middle.steps == BASE
    for work in works:
        (panel,) = work.experiment.panels
        area = panel.pixel_size * torch.tensor(panel.image_size)
        assert area.tolist() == pytest.approx([512 * 0.172] * 2, rel=1e-8)  # mm
        assert abs(float((panel.origin * panel.normal).sum())) == pytest.approx(150, rel=1e-9)
        assert work.experiment.crystal.xtal_shape == "gauss"


def test_each_quantity_is_the_models(tmp_cwd: Path) -> None:
    most = {name: work_of(tmp_cwd, name, curves.CURVES[name].values[-1]) for name in NAMES}
    assert math.prod(most["pixels"].experiment.panels[0].shape) == 1619**2
    phi = np.rad2deg(most["phisteps"].exposure.phi)
    assert phi == pytest.approx(np.arange(100) * 0.005, abs=1e-9)  # of the same 0.5 degrees
    assert most["domains"].experiment.crystal.umats.shape == (100, 3, 3)
    wavelengths = most["sources"].experiment.beam.wavelength.flatten()
    assert len(wavelengths) == 100
    assert float(wavelengths.max() / wavelengths.min()) == pytest.approx(1.005, abs=2e-5)
    assert most["ncells"].experiment.crystal.Ncells_abc.tolist() == [1000] * 3
    # a*, b*, c* as columns: their determinant is 1/V; the base's V is 79.1 x 79.1 x 38.4
    volume = 1 / float(torch.linalg.det(most["cell_volume"].experiment.crystal.A[0]).abs())
    assert volume == pytest.approx(10 * 79.1 * 79.1 * 38.4, rel=1e-7)


def test_amplitudes_reach_the_corner_of_every_cell() -> None:
    """As many as the sphere holds cells of the reciprocal lattice, to beyond the corner's d."""
    corner = math.atan(math.hypot(256, 256) * 0.172 / 150)
    assert curves.D_MIN < 0.9795 / (2 * math.sin(corner / 2))
    for volume in curves.CURVES["cell_volume"].values:
        cell = replace(curves.Point(), cell_volume=volume).cell
        assert math.prod(cell) == pytest.approx(volume, rel=1e-12)
        if volume > curves.VOLUME:  # few reflections follow a sphere's volume badly
            indices, _ = cases.amplitudes(cell, curves.D_MIN)
            sphere = 4 / 3 * math.pi / curves.D_MIN**3 * volume
            assert len(indices) == pytest.approx(sphere, rel=5e-3)


# ---- the figures


def test_slopes() -> None:
    assert curves.slope([1, 10, 100], [2.0, 20.0, 200.0]) == pytest.approx(1, abs=1e-12)
    assert curves.slope([4, 16], [3.0, 6.0]) == pytest.approx(0.5, abs=1e-12)
    assert curves.slope([4, 4], [3.0, 6.0]) is None


def test_slopes_are_of_the_upper_decade() -> None:
    points = [
        {"value": value, "runs": [{"kernel": "dense", "threads": 2, "best_s": max(10, value)}]}
        for value in (1, 3, 10, 30, 100)
    ]
    (found,) = curves.slopes(points)
    assert (found["kernel"], found["threads"]) == ("dense", 2)
    assert found["slope"] == pytest.approx(1, abs=1e-12)


def test_table() -> None:
    def run(kernel: str, threads: int, seconds: float, mb: float | None) -> dict:
        return {"kernel": kernel, "threads": threads, "best_s": seconds, "peak_mb": mb}

    runs = [run("dense", 1, 0.5, 30.0), run("dense", 2, 0.25, 31.0)]
    runs += [run("sparse", 1, 0.125, 8.0), run("sparse", 2, 0.0625, None)]
    points = [{"value": value, "steps": 1000 * value, "runs": runs} for value in (1, 2, 4)]
    record = {"curve": "sources", "what": "wavelengths", "points": points}
    lines = curves.block({**record, "slopes": curves.slopes(points)}).splitlines()
    assert lines[:3] == ["", "sources: wavelengths", "1 thread"]
    headings = [line[i : i + 10].strip() for line in lines[3:4] for i in range(0, 66, 11)]
    assert headings == ["value", "steps", "dense s", "sparse s", "dense MB", "sparse MB"]
    assert lines[4].split() == ["1", "1000", "0.5", "0.125", "30", "8"]
    assert [float(text) for text in lines[7].split()[1:]] == [0, 0]
    assert lines[8] == "2 threads" and lines[10].split() == [
        "1",
        "1000",
        "0.25",
        "0.0625",
        "31",
        "-",
    ]


# ---- the command


def test_command(
    tmp_cwd: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A curve of two points, for a test's sake."""
    few = replace(curves.CURVES["phisteps"], values=(2, 8))
    monkeypatch.setitem(curves.CURVES, "phisteps", few)
    args = ["curves=phisteps", "threads=1", "repeats=1", "small=0.02", "cold=False"]
    command.run([*args, "compile=never", "--json", "curves.json"])
    lines = capsys.readouterr().out.splitlines()
    found = json.loads(Path("curves.json").read_text())
    assert found["cases"] == []
    (curve,) = found["curves"]
    assert curve["curve"] == "phisteps"
    assert [point["value"] for point in curve["points"]] == [2, 8]
    # sqrt(0.02) x 512 = 72.4 pixels along an edge, 10 domains
    assert [point["steps"] for point in curve["points"]] == [72 * 72 * 10 * n for n in (2, 8)]
    for point in curve["points"]:
        dense, sparse = point["runs"]
        assert (dense["kernel"], sparse["kernel"]) == ("dense", "sparse")
        for run in (dense, sparse):
            assert run["threads"] == 1 and run["best_s"] > 0 and run["peak_mb"] >= 0
        assert sparse["from_dense_of_max"] <= 1.05e-6
    assert [run["kernel"] for run in curve["slopes"]] == ["dense", "sparse"]
    assert all(math.isfinite(run["slope"]) for run in curve["slopes"])
    head = lines.index("phisteps: phi steps in the same 0.5 degrees")
    table = [line.split() for line in lines[head + 3 :]]
    assert [row[0] for row in table] == ["2", "8", "slope"]
    assert all(len(row) == 6 for row in table[:2]) and len(table[2]) == 3


def test_what_is_refused(tmp_cwd: Path) -> None:
    for args, why in (
        (["curves=phistep"], "curves=phistep: choose from pixels, phisteps, "),
        (["curves=,"], "curves names nothing: choose from pixels, "),
        (["curves=all", "cases=B9"], "cases=B9: choose from B1, "),
        (["curves=all", "nanobragg_c=x"], "nanobragg_c: it is timed beside cases alone"),
        (
            ["curves=pixels", "small=1e-6", "threads=1", "compile=never"],
            "pixels=26244: no photon falls on the part of the detector that small=1e-06 leaves",
        ),
    ):
        with pytest.raises(Sorry) as caught:
            command.run(args)
        message = str(caught.value)
        assert why in message and "\n" not in message
    assert list(tmp_cwd.iterdir()) == []


def test_names() -> None:
    assert curves.check_names(["sources,pixels"], "curves") == ("pixels", "sources")
    assert curves.check_names(["ncells", "all"], "curves") == NAMES
