"""nanobragg.benchmark gradients=True: what it times is what it says, and is printed."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

pytest.importorskip("dials")

from nanobragg_plugin.command_line import benchmark as command
from nanobragg_plugin.run import benchmark_cases as cases
from nanobragg_plugin.run import benchmark_gradients as gradients


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> cases.Work:
    folder = tmp_path_factory.mktemp("work")
    cases.write_amplitudes(folder)
    options = {"compile": "never", "kernel": "dense", "precision": "double"}
    return cases.work(cases.CASES["B1"], folder, 2e-4, options)


def test_the_gradients_are_those_of_the_derivatives(work):
    """The sum over pixels of each pixel's derivative is the gradient of the sum of pixels: with
    respect to N by both ways, and to an orientation through the gradient of A. Measured 1e-14."""
    names = gradients.SETS["these, Ncells_abc, Fhkl"]
    ones = torch.ones(work.experiment.panels[0].shape[1], dtype=torch.float64)
    of_ncells, of_a, *others = gradients.gradient(work, names, ones)
    assert len(others) == len(names) - 2
    assert all(bool(one.abs().max() > 0) for one in (of_ncells, of_a, *others))
    (image,), (columns,) = gradients.tangents(work, 7)
    torch.testing.assert_close(image, gradients.value(work), rtol=1e-12, atol=0)
    expected: Tensor = (of_ncells * work.experiment.crystal.Ncells_abc).sum()
    torch.testing.assert_close(columns[6].sum(), expected, rtol=1e-9, atol=0)
    a_matrix = work.experiment.crystal.A
    for axis in range(3):
        turned = torch.zeros(3, 3, dtype=torch.float64)
        i, j = (axis + 1) % 3, (axis + 2) % 3
        turned[i, j], turned[j, i] = -1, 1
        expected = (of_a * (turned @ a_matrix)).sum()
        torch.testing.assert_close(columns[axis].sum(), expected, rtol=1e-8, atol=0)


def test_the_command(tmp_path, capsys):
    path = tmp_path / "speed.json"
    command.run(
        "cases=B1 kernels=dense threads=1 repeats=1 cold=False compile=never small=2e-4 "
        f"gradients=True json={path}".split()
    )
    text = capsys.readouterr().out
    for name in gradients.SETS:
        assert f"image and gradient of a sum of its pixels ({name}): " in text
    for count in gradients.TANGENTS:
        assert f"derivatives of each pixel, {count} parameters: " in text
    ((run,),) = [case["runs"] for case in json.loads(path.read_text())["cases"]]
    found = run["derivatives"]
    assert set(found["gradients_s"]) == set(gradients.SETS) and found["value_s"] > 0
    assert all(seconds > 0 for seconds in found["tangents_s"].values())
