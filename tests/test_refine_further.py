# ruff: noqa: F811
"""nanobragg.refine: amplitudes, L-BFGS, goniometer, divergence, backgrounds, the page, failures."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from xml.etree import ElementTree

import nanobragg_plugin  # noqa: F401  isort: skip  before dxtbx

import h5py
import numpy as np
import pytest
import torch

pytest.importorskip("dials")

from cctbx import miller  # noqa: E402
from dials.array_family import flex  # noqa: E402
from dxtbx.model import ExperimentList  # noqa: E402
from iotbx import mtz  # noqa: E402
from libtbx.utils import Sorry  # noqa: E402
from refine_models import experiment as core_experiment  # noqa: E402
from refine_models import vector  # noqa: E402
from simulate_helpers import load, simulate  # noqa: E402
from test_refine_command import START, STILL, refine, still, still_data, sweep, sweep_data  # noqa: E402, F401, E501

from nanobragg_plugin.refine import backgrounds, parametrisations  # noqa: E402

TRUE = (
    *("structure_factors.default_F=100", "crystal.Ncells_abc=9,9,9", "sampling.oversample=2"),
    *("crystal.mosaic.spread_deg=0.3", "crystal.mosaic.domains=60", "refine.positions=False"),
)


def rows_of(name: str = "refined.json") -> dict[str, dict]:
    return {row["name"]: row for row in json.loads(Path(name).read_text())["parameters"]}


def test_lbfgs_is_lm(still: Path) -> None:
    """The same parameters by both, from orientation and shifts that are off."""
    chosen = "refine.parameters=orientation+scale+detector_shift", "output.pictures=False", *TRUE
    refine("start.expt", "start.refl", *chosen, "refine.method=lm", "output.prefix=lm")
    refine("start.expt", "start.refl", *chosen, "refine.method=lbfgs", "output.prefix=lbfgs")
    one, two = rows_of("lm.json"), rows_of("lbfgs.json")
    for name, row in one.items():
        if row["refined"]:
            assert two[name]["value"] == pytest.approx(row["value"], abs=0.05 * row["sigma"])


def test_amplitudes(still: Path) -> None:
    """All true amplitudes are 100 electrons; from there with restraints, those of strong spots stay
    within their sigmas; the MTZ file has them in the crystal's symmetry. (The model's domains are
    not the data's, which is why pulls are wide.)"""
    chosen = "refine.parameters=scale+amplitudes", "refine.amplitudes.sigma=0.3", *TRUE
    (data,) = load("data.expt")
    refine("data.expt", "start.refl", *chosen, "output.pictures=False")
    (array,) = mtz.object("refined.mtz").as_miller_arrays()
    assert array.info().labels == ["F", "SIGF"] and array.is_xray_amplitude_array()
    assert str(array.space_group_info()) == "P 4" and array.is_unique_set_under_symmetry()
    hkl = flex.reflection_table.from_file("start.refl")["miller_index"]
    unique = miller.set(array, hkl, anomalous_flag=False).map_to_asu().unique_under_symmetry()
    # all that are listed, and neighbours that light their shoeboxes
    assert set(unique.indices()) < set(array.indices())
    content = json.loads(Path("refined.json").read_text())
    assert content["amplitudes"] == array.size()
    assert not [row for row in content["parameters"] if row["name"].startswith("F(")]
    good = np.array(array.sigmas()) < 10
    errors = np.array(array.data())[good] - 100
    assert good.sum() > 20 and np.sqrt((errors**2).mean()) < 15
    # anomalous: of a still hardly any has its mate
    refine(
        "data.expt",
        "start.refl",
        *chosen,
        "output.pictures=False",
        "output.prefix=anomalous",
        "refine.amplitudes.anomalous=True",
        "refine.amplitudes.d_min=3",
    )
    (array,) = mtz.object("anomalous.mtz").as_miller_arrays()
    assert array.info().labels[::2] == ["F(+)", "F(-)"] and array.d_min() >= 3
    tight = "refine.amplitudes.sigma=0.001", "output.prefix=tight", "output.pictures=False"
    refine("data.expt", "start.refl", *chosen, *tight, "refine.amplitudes.neighbours=False")
    (array,) = mtz.object("tight.mtz").as_miller_arrays()
    assert set(array.indices()) == set(unique.indices())
    assert np.abs(np.array(array.data()) - 100).max() < 0.5
    assert max(array.sigmas()) <= 0.1  # the restraint's
    # without a restraint sigmas are what photons alone leave; measured: up to 4.2
    loose = "refine.amplitudes.sigma=None", "output.prefix=loose", "output.pictures=False"
    refine("data.expt", "start.refl", *chosen[:1], *TRUE, *loose)
    (array,) = mtz.object("loose.mtz").as_miller_arrays()
    assert max(array.sigmas()) > 1


def test_setting(sweep: Path) -> None:
    """A setting rotation 0.1 degrees off, across the rotation axis: back, of a crystal that is
    known; and written."""
    (experiment,) = load("data.expt", True)
    c, s = np.cos(np.radians(0.1)), np.sin(np.radians(0.1))
    experiment.goniometer.set_setting_rotation((c, 0, s, 0, 1, 0, -s, 0, c))
    ExperimentList([experiment]).as_file("turned.expt")
    chosen = "refine.parameters=setting+scale", "output.pictures=False", *TRUE
    refine("turned.expt", "start.refl", *chosen)
    (found,) = load("refined.expt")
    setting = np.array(found.goniometer.get_setting_rotation()).reshape(3, 3)
    # about the rotation axis, x, nothing is refined
    assert np.degrees(np.abs(setting - np.eye(3))[:, 0]).max() < 0.02


def test_setting_turns_the_axis() -> None:
    """By scipy: S of a rotation about the first of the axes, 0.3 degrees."""
    from scipy.spatial.transform import Rotation

    true = core_experiment()
    axes = parametrisations.across(true.goniometer.axis)
    part = parametrisations.GoniometerSetting(axes)
    turned, _ = part.apply((true, None), vector(0.3, 0))
    expected = Rotation.from_rotvec(0.3 * axes[0].numpy(), degrees=True).as_matrix()
    np.testing.assert_allclose(turned.goniometer.setting[0], expected, atol=1e-14)
    assert abs(float(axes[0] @ true.goniometer.axis)) < 1e-15


def test_divergence(tmp_cwd: Path) -> None:
    """2 mrad full width, from 3: by 5 directions across, each way. The root mean square of points
    evenly spaced along a line of that width, cut to an ellipse, is what sources say."""
    wide = (
        "beam.hdivrange_mrad={0}",
        "beam.vdivrange_mrad={0}",
        "beam.hdivsteps=3",
        "beam.vdivsteps=3",
    )
    given = [one.format(6) for one in wide]
    data = [one for one in STILL if "mosaic" not in one]
    simulate(*data, *given, "beam.fluence=2e28")
    table = flex.reflection_table.from_file("data.truth.refl")
    table.select(table["intensity.sum.value"] > 300).as_file("strong.refl")
    true = "structure_factors.default_F=100", "crystal.Ncells_abc=9,9,9", "sampling.oversample=2"
    chosen = "refine.parameters=divergence+scale", "output.pictures=False", "refine.positions=False"
    refine("data.expt", "strong.refl", *true, *[one.format(9) for one in wide], *chosen)
    row = rows_of()["divergence"]
    assert row["value"] / row["start"] == pytest.approx(6 / 9, abs=max(0.01, 4 * row["sigma"]))
    words = dict(line.split("=") for line in Path("refined.phil").read_text().split())
    assert float(words["beam.hdivrange_mrad"]) == pytest.approx(6, rel=0.02)
    with pytest.raises(Sorry, match="none to begin with"):
        refine("data.expt", "strong.refl", *true, *chosen, "output.prefix=nothing")


@pytest.mark.parametrize("kind", ["image", "global"])
def test_background_of_all(sweep: Path, kind: str) -> None:
    """2 photons everywhere are found by a background of all shoeboxes; measured within 1 %."""
    chosen = "refine.parameters=scale", f"refine.shoeboxes.background={kind}", *TRUE
    (data,) = load("data.expt", True)
    refine(
        "data.expt", "start.refl", *chosen, "output.pictures=False", "crystal.mosaic.domains=150"
    )
    content = json.loads(Path("refined.json").read_text())
    assert content["backgrounds"] == (3 if kind == "image" else 1)
    table = flex.reflection_table.from_file("refined.refl")
    level = np.array(table["photons.background"]) / np.array(table["photons.pixels"])
    assert level == pytest.approx(2, rel=0.15)


def test_hats_add_up() -> None:
    """A level and hats are any straight line between knots: they give back a function of the angle
    that is one, of pixels of whatever order."""
    true = core_experiment()
    mask = torch.zeros(true.panels[0].shape, dtype=torch.bool)
    mask[10:40, 5:60] = True
    from refine_models import exposures

    from nanobragg_plugin.refine.data import picture

    label = torch.where(mask, 0, -1)
    (shot,) = exposures()
    one = picture([torch.ones(mask.shape)], [label], 0, shot, 1.0)
    (made,) = backgrounds.in_one([one], true, True).pictures
    design = torch.cat([torch.ones(len(made.counts), 1).double(), made.place], 1)
    sine = backgrounds.sin_theta(one, true)
    residual = torch.linalg.lstsq(design, sine[:, None]).solution
    torch.testing.assert_close((design @ residual)[:, 0], sine, atol=1e-12, rtol=0)
    # sin(theta) by hand of the first pixel
    x, y, z = (-19 + 5.5 * 0.3, 17 - 10.5 * 0.3, -80.0)
    two_theta = np.arccos(-z / np.sqrt(x * x + y * y + z * z))
    assert float(sine[0]) == pytest.approx(np.sin(two_theta / 2), rel=1e-12)


def test_page(still: Path) -> None:
    """One file, well-formed, nothing from elsewhere, both pictures in it; how it was made."""
    given = "start.expt", "start.refl", "refine.parameters=orientation+scale", *TRUE
    refine(*given)
    text = Path("refined.html").read_text()
    root = ElementTree.fromstring(text.removeprefix("<!DOCTYPE html>"))
    images = [one.get("src") for one in root.iter("img")]
    assert len(images) == 2 and all(one.startswith("data:image/png;base64,") for one in images)
    assert "http" not in text.replace("http://www.w3.org", "")
    cells = [cell.text for cell in root.iter("td")]
    assert "rotation_x" in cells and "It converged." in text
    content = json.loads(Path("refined.json").read_text())
    assert content["arguments"] == list(given)
    assert re.fullmatch(r"nanobragg.refine \d+\.\d+\S*, torch \d+\.\d+\S*", content["program"])
    (said,) = (one.text for one in root.iter("p") if one.text.startswith(content["program"]))
    assert shlex.split(said.partition(": ")[2]) == list(given)


def test_nan_in_data(tmp_cwd: Path) -> None:
    """Pixels of photons that are no numbers are left out, and counted in the log."""
    simulate(*STILL, "noise.poisson=False")
    table = flex.reflection_table.from_file("data.truth.refl")
    table.select(table["intensity.sum.value"] > 150).as_file("start.refl")
    x, y, _ = table.select(table["intensity.sum.value"] > 1000)["xyzobs.px.value"][0]
    with h5py.File("data.nxs", "r+") as file:
        pixels = file["entry/data/data"]
        assert pixels.dtype.kind == "f"
        pixels[0, int(y) - 1 : int(y) + 2, int(x) - 1 : int(x) + 2] = np.nan
    chosen = "refine.parameters=orientation+scale", *TRUE
    refine("data.expt", "start.refl", *chosen, "output.pictures=False")
    content = json.loads(Path("refined.json").read_text())
    assert np.isfinite(content["loss"])
    assert "9 bad ones left out" in Path("nanobragg.refine.log").read_text()


def test_overloads_and_masks(still: Path) -> None:
    """Pixels at the trusted range's end are left out; where all are, it says so."""
    (experiment,) = load("data.expt", True)
    chosen = "refine.parameters=scale", "output.pictures=False", *TRUE
    for top, name in ((40, "low"), (0, "none")):
        experiment.detector[0].set_trusted_range((-1, top))
        ExperimentList([experiment]).as_file(f"{name}.expt")
    refine("low.expt", "start.refl", *chosen)
    log = Path("nanobragg.refine.log").read_text()
    bad = int(log.split(" bad ones")[0].split()[-1])
    counts = experiment.imageset.get_raw_data(0)[0].as_numpy_array()
    assert 0 < bad <= (counts >= 40).sum()
    table = flex.reflection_table.from_file("start.refl")
    bright = [
        i for i, (x, y, _) in enumerate(table["xyzobs.px.value"]) if counts[int(y), int(x)] > 40
    ]
    table.select(flex.size_t(bright[:1])).as_file("one.refl")
    with pytest.raises(Sorry, match="no pixel is left"):
        refine("none.expt", "one.refl", *chosen, "output.prefix=x", "refine.shoeboxes.border_px=0")


def test_refused(still: Path) -> None:
    for args, words in {
        ("refine.amplitudes.sigma=0", "refine.parameters=amplitudes+scale"): "must be above 0",
        ("refine.amplitudes.d_min=100", "refine.parameters=amplitudes+scale"): "no reflection is",
        ("refine.parameters=setting",): "a still has no rotation axis",
        ("refine.parameters=divergence",): "none to begin with",
    }.items():
        with pytest.raises(Sorry, match=words):
            refine("start.expt", "start.refl", *TRUE, *args)


def test_correlations_are_named(still: Path) -> None:
    """Wavelength and distance of a still do the same to its spots, but for a cell that is free."""
    chosen = "refine.parameters=cell+scale+wavelength+distance", *TRUE
    with pytest.raises(
        Sorry, match=r"do not determine .*correlation of the first two -?0\.\d+|1\.0"
    ):
        refine("start.expt", "start.refl", *chosen, "output.pictures=False")
