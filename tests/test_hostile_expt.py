# ruff: noqa: E402
"""Experiment lists with anything in any place: a run is planned, or refused in a sentence."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("dials")

import hostile
import simulate_helpers as sim

#: In the place of any value of an experiment list.
VALUES = [
    None, True, -1, 0, 7, 10**9, 10**30, 0.5, 1e308, float("nan"), float("inf"), "", "x" * 5000,
    "\u202e\x1b[31m\0", "/dev/zero", [], [[]], [1, 2], [10**9] * 2, [0.0] * 3, [1e308] * 3,
    [float("nan")] * 3, ["a"] * 3, [None] * 3, {}, {"a": 1}, [0] * 9, [0] * 1000,
]  # fmt: skip


def rich() -> dict[str, Any]:
    """A list with scan points, a mosaic crystal, several axes and an image set."""
    from nxmx_experiments import random_experiment

    experiment = random_experiment(5)
    experiment.imageset = sim.image_sequence(experiment)
    sim.write_expt("rich.expt", experiment)
    return json.loads(Path("rich.expt").read_text())


def places(content: Any, way: tuple = ()) -> list[tuple]:
    """Ways to every value; of long lists to the first one and the last."""
    found = [way] if way else []
    if isinstance(content, dict):
        for key, value in content.items():
            found += places(value, (*way, key))
    elif isinstance(content, list) and content:
        for i in sorted({0, len(content) - 1}):
            found += places(content[i], (*way, i))
    return found


def changed(content: dict, way: tuple, value: Any, delete: bool = False) -> dict:
    result = copy.deepcopy(content)
    place = result
    for step in way[:-1]:
        place = place[step]
    if delete:
        del place[way[-1]]
    else:
        place[way[-1]] = value
    return result


def write(cases: list[str]) -> list[list]:
    """A case for each text of an experiment list."""
    made = []
    for number, text in enumerate(cases):
        Path(f"{number}.expt").write_text(text)
        made.append(["plan", [f"{number}.expt", *hostile.PLAN]])
    return made


@pytest.mark.parametrize("kind", ["plain", "rich"])
def test_any_value_in_any_place(kind: str, tmp_cwd: Path) -> None:
    """Each place of the list loses its value and, in turn, gets some of VALUES."""
    if kind == "rich":
        content = rich()
    else:
        content = json.loads(Path(sim.write_expt("m.expt", sim.sweep(), images=True)).read_text())
    rng = np.random.default_rng(3)
    texts = []
    every = places(content)
    for way in every:
        texts.append(json.dumps(changed(content, way, None, delete=True)))
        for i in rng.permutation(len(VALUES))[:3]:
            texts.append(json.dumps(changed(content, way, VALUES[i])))
    assert len(every) > 60
    found = hostile.assert_well(write(hostile.some(texts, 70)), tmp_cwd)
    kinds = [one == "ok" for one, _ in found]
    assert any(kinds) and not all(kinds)


def test_lists_that_are_large_deep_or_endless(tmp_cwd: Path) -> None:
    content = json.loads(Path(sim.write_expt("m.expt", sim.sweep(), images=True)).read_text())
    os.mkfifo("pipe")

    def scan(**values: Any) -> str:
        return json.dumps({**content, "scan": [{**content["scan"][0], **values}]})

    def one(**values: Any) -> str:
        return json.dumps({**content, "experiment": [{**content["experiment"][0], **values}]})

    panel = content["detector"][0]["panels"][0]
    huge = changed(content, ("detector", 0, "panels", 0, "image_size"), [10**9, 10**9])
    many = changed(content, ("detector", 0, "panels"), [panel] * 3000)
    cycle = changed(
        content,
        ("detector", 0, "hierarchy", "children"),
        [{"panel": 10**6}, {"panel": -1}, {"panel": 0}, {"panel": 0}],
    )
    texts = {
        "a scan of 10^9 images": scan(image_range=[1, 10**9]),
        "of 10^18": scan(image_range=[1, 10**18]),
        "backwards": scan(image_range=[10**9, 1]),
        "not finite": scan(image_range=[float("nan"), float("inf")]),
        "10^4 images without epochs": scan(image_range=[1, 10**4]),
        "10^6 epochs": scan(epochs=[0.0] * 10**6),
        "10^6 scan points": json.dumps(
            changed(content, ("crystal", 0, "A_at_scan_points"), [[0.01] * 9] * 10**6)
        ),
        "a panel of 10^18 pixels": json.dumps(huge),
        "3000 panels": json.dumps(many),
        "panels that are not there": json.dumps(cycle),
        "a model in a pipe": one(beam="pipe"),
        "a model in a device": one(detector="/dev/zero"),
        "an index beyond": one(beam=10**9),
        "a negative index": one(crystal=-5),
        "deep": '{"__id__": "ExperimentList", "experiment": ' + "[" * 10**5,
        "deep and whole": '{"experiment": ' + "[" * 10**5 + "]" * 10**5 + "}",
        "1000 experiments": json.dumps({**content, "experiment": content["experiment"] * 1000}),
    }
    found = dict(zip(texts, hostile.assert_well(write(list(texts.values())), tmp_cwd)))
    assert "A_at_scan_points of crystal 0 has 1000000 points" in found["10^6 scan points"][0]
    for name in ("a scan of 10^9 images", "of 10^18", "a model in a pipe", "a model in a device"):
        assert found[name][0].startswith("Sorry: "), (name, found[name])
    assert max(seconds for _, seconds in found.values()) < hostile.SECONDS
