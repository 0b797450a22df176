# ruff: noqa: E402
"""The relative fluence of each image (`beam.image_scale_file`)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("dials")

import simulate_helpers as sim
from libtbx.phil import parse
from libtbx.utils import Sorry

from nanobragg_plugin.adapters import params as adapt
from nanobragg_plugin.command_line import trace


def test_scales_of_images(tmp_cwd):
    """Photons of an image are its scale times those without; others stay as they are."""
    sim.write_expt("models.expt", sim.sweep())
    arguments = [a for a in sim.QUICK if not a.startswith("background")]
    arguments += ["noise.poisson=False", "output.overwrite=True", "compute.tolerance=0"]

    def images(*more: str) -> np.ndarray:
        sim.simulate("models.expt", *arguments, *more)
        return sim.pixels().astype(float)

    plain = images()
    Path("scales.txt").write_text("1\n2 # twice\n0\n")
    found = images("beam.image_scale_file=scales.txt")
    assert plain[2].max() > 1 and found[2].max() == 0
    np.testing.assert_array_equal(found[0], plain[0])
    np.testing.assert_allclose(found[1], 2 * plain[1], rtol=2e-7)
    second = images("beam.image_scale_file=scales.txt", "sampling.image_range=12,12")
    np.testing.assert_allclose(second[0], 2 * plain[1], rtol=2e-7)
    record = json.loads(Path("simulated.provenance.json").read_text())
    assert "scales.txt" in [item["name"] for item in record["inputs"]]


def test_scales_of_several_experiments(tmp_cwd):
    """Stills: one number for each, in their order."""
    stills = [sim.still() for _ in range(3)]
    for number, still in enumerate(stills):
        still.identifier = str(number)
    sim.write_expt("models.expt", *stills)
    Path("scales.txt").write_text("3\n1\n0.5\n")
    arguments = [a for a in sim.STILL if not a.startswith("background")]
    arguments += ["noise.poisson=False", "compute.tolerance=0", "beam.image_scale_file=scales.txt"]
    sim.simulate("models.expt", *arguments)
    first, second, third = (sim.pixels(f"simulated_{i}.nxs")[0] for i in (1, 2, 3))
    assert second.max() > 1
    np.testing.assert_allclose(first, 3 * second, rtol=2e-7)
    np.testing.assert_allclose(third, second / 2, rtol=2e-7)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("1\n2\n", "scales.txt has 2 scales for 3 images: give one on a line for each image"),
        ("1\n2\n3\n4\n", "has 4 scales for 3 images"),
        ("1\n-2\n3\n", "scales.txt has the scale -2; none may be below 0"),
        ("1 2 3\n", "line 1 of scales.txt: give one scale"),
        ("1\nx\n3\n", "line 2 of scales.txt: 'x' are not numbers"),
        ("1\ninf\n3\n", "line 2 of scales.txt: give one scale, finite"),
        ("", "scales.txt is empty"),
        (None, "scales.txt, a list of the images' scales, cannot be read"),
    ],
)
def test_scales_that_are_refused(content, words, tmp_cwd):
    sim.write_expt("models.expt", sim.sweep())
    if content is not None:
        Path("scales.txt").write_text(content)
    found = sim.refused("models.expt", *sim.QUICK, "beam.image_scale_file=scales.txt")
    assert words in found or (content is None and "scales.txt" in found)


def test_a_traced_pixel_has_its_image_s_scale(tmp_cwd, capsys):
    stills = [sim.still(), sim.still()]
    for number, still in enumerate(stills):
        still.identifier = str(number)
    sim.write_expt("models.expt", *stills)
    Path("scales.txt").write_text("1\n2.5\n")
    photons = []
    for number in (0, 1):
        where = (f"experiment={number}", "pixel=9,11", "--json", "beam.image_scale_file=scales.txt")
        trace.run(["models.expt", *sim.STILL, *where])
        photons.append(json.loads(capsys.readouterr().out)["sums"]["photons"])
    assert photons[0] > 0 and photons[1] == pytest.approx(2.5 * photons[0], rel=1e-6)


def test_a_plan_alone_reads_the_scales_of_its_own_images(tmp_cwd):
    """From Python, without the command's list of experiments."""
    Path("scales.txt").write_text("1\n0.5\n2\n")
    text = "structure_factors.default_F=1\nbeam.fluence=8\nbeam.image_scale_file=scales.txt"
    params = adapt.master_scope().fetch(parse(text)).extract()
    plan = adapt.plan(params, sim.sweep())
    assert plan.fluences == (8, 4, 16)
    assert "each image times its scale in scales.txt, 0.5 to 2" in "\n".join(plan.notes)
    with pytest.raises(Sorry, match="scales.txt has 3 scales for 1 images"):
        adapt.plan(params, sim.still())
