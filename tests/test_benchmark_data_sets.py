# ruff: noqa: E402
"""nanobragg.benchmark data_set_images=: its figures follow from the timings of the parts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("dials")

from libtbx.utils import Sorry

from nanobragg_plugin.command_line import benchmark as command
from nanobragg_plugin.run import benchmark_data_sets as data_sets


def part(process: str, first: int, began: float, seconds: float, **more: Any) -> dict[str, Any]:
    """Two images, in whose time half a second each is simulated."""
    facts = {"bytes": 2000, "peak": 3e8, "resident": 2e8, "open_files": 9, "file": 1}
    where = {"process": process, "first": first, "last": first + 1}
    return {**facts, **where, "began": began, "seconds": seconds, "simulating": 1.0, **more}


def test_figures_of_two_processes() -> None:
    """By hand. One has 4 images in 3.5 s, of which it works 3, the other 4 in 4 s, working 3.2; in
    the end the file takes 1.6 s."""
    parts = [{**part("main", 1, 0.0, 2.0), "last": 1}]
    parts += [part("a", 2, 10.0, 1.5), part("b", 4, 10.0, 1.6)]
    parts += [part("a", 6, 12.0, 1.5), part("b", 8, 12.4, 1.6)]
    timings = {"began": -1.0, "ended": 15.6, "parts": parts}
    found = data_sets.run_of(2, timings, 20.0)
    assert found["images"] == 9 and found["processes"] == 2 and found["command_s"] == 20
    assert found["making_s"] == pytest.approx(16.6)
    assert found["images_per_s"] == pytest.approx(4 / 3.5 + 4 / 4)
    assert found["simulating_s"] == pytest.approx(4 / 8)
    assert found["writing_s"] == pytest.approx((6.2 - 4) / 8)
    assert found["rest_s"] == pytest.approx((7.5 - 6.2) / 8)
    assert found["ending_s"] == pytest.approx(1.6)
    assert found["bytes"] == pytest.approx(10000 / 9) and found["peak_mb"] == 300
    assert found["growth"] == []


def test_growth_of_a_process() -> None:
    """Of 200 parts: the second twenty and the last; 1 MB, a thousandth of a file and 0.1 % of the
    time more with each part."""
    parts = [
        part("a", 1 + 2 * i, 2.0 * i, 1 + i / 1000, resident=1e8 + 1e6 * i, open_files=7 + i / 1000)
        for i in range(200)
    ]
    (grown,) = data_sets.run_of(1, {"began": 0, "ended": 400, "parts": parts}, 400)["growth"]
    assert grown["images"] == 400 and grown["mb"] == pytest.approx(160)
    assert grown["open_files"] == pytest.approx(0.16)
    assert grown["time_ratio"] == pytest.approx(1.1895 / 1.0295)


def test_a_plan() -> None:
    """1000 images of 2 s each on 10 x 5 processes: 20 rounds."""
    record = {"simulating_s": 1.0, "writing_s": 0.75, "rest_s": 0.25, "bytes": 8e6, "peak_mb": 400}
    found = data_sets.plan(record, 1000, 10, 5)
    assert found["seconds"] == 40 and found["core_hours"] == pytest.approx(2000 / 3600)
    assert found["bytes"] == 8e9 and found["bytes_per_s"] == 2e8 and found["node_gb"] == 2


def test_data_sets_are_made(tmp_cwd: Path, capsys) -> None:
    arguments = ["data_set_images=6", "processes=1,2", "small=0.0005", "plan=100,2,3"]
    command.run([*arguments, "--json", "found.json"])
    shown = capsys.readouterr().out
    assert "extrapolated, not run: 100 such images on 2 nodes of 3 cores" in shown
    content = json.loads(Path("found.json").read_text())
    assert content["cases"] == [] and [one["processes"] for one in content["data_sets"]] == [1, 2]
    for one in content["data_sets"]:
        assert one["images"] == 6 and 0 < one["making_s"] < one["command_s"]
        assert 0 < one["simulating_s"] < 60 and one["writing_s"] > 0 and one["rest_s"] > 0
        assert one["bytes"] < 8 * 55 * 57  # of four bytes each, compressed
    assert sorted(path.name for path in Path().iterdir()) == ["found.json"]


def test_what_the_command_refuses_is_said(tmp_cwd: Path) -> None:
    with pytest.raises(Sorry, match="nanobragg.simulate failed: .*mp.nproc"):
        command.run(["data_set_images=2", "processes=4000", "small=0.0005"])
