# ruff: noqa: F811
"""What nanobragg.refine says of input that it cannot refine against, or not all of."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path

import nanobragg_plugin  # noqa: F401  isort: skip  before dxtbx

import h5py
import numpy as np
import pytest

pytest.importorskip("dials")

from cctbx import crystal, miller  # noqa: E402
from dials.array_family import flex  # noqa: E402
from dxtbx.model import ExperimentList  # noqa: E402
from libtbx.utils import Sorry  # noqa: E402
from simulate_helpers import load  # noqa: E402
from test_refine_command import START, refine, still, still_data  # noqa: E402, F401

#: The models that the data were simulated with: one stage of one parameter, quickly.
TRUE = (
    *("structure_factors.default_F=100", "crystal.Ncells_abc=9,9,9", "sampling.oversample=2"),
    *("crystal.mosaic.spread_deg=0.3", "crystal.mosaic.domains=20", "refine.positions=False"),
    *("refine.parameters=scale", "refine.coarse=False", "output.pictures=False"),
)


def refused(words: str, *args: str) -> None:
    """One sentence, with these words, and nothing is written."""
    with pytest.raises(Sorry, match=words) as caught:
        refine(*args)
    assert "\n" not in str(caught.value)
    assert not Path("refined.expt").exists()


def log() -> str:
    return Path("nanobragg.refine.log").read_text()


def table() -> flex.reflection_table:
    return flex.reflection_table.from_file("start.refl")


def changed_pixels(change: object) -> str:
    """A list of images some of whose pixels are others."""
    with h5py.File("data.nxs", "r+") as file:
        pixels = file["entry/data/data"]
        values = pixels[()]
        change(values[0])
        pixels[...] = values
    return "data.expt"


SINGLE = "crystal.mosaic.spread_deg=0", "crystal.mosaic.domains=1"
REFUSED = {
    ("refine.shoeboxes.d_min=200",): "no shoebox is left",
    ("refine.parameters=spindle",): "a still has no rotation axis",
    ("refine.parameters=mosaic", *SINGLE): "nothing is left to refine",
    ("refine.restraint=length,1",): "the parameters are .*rotation_x",
    ("refine.restraint=scale",): "give NAME,SIGMA",
    ("refine.restraint=scale,-1",): "must be above 0",
    ("refine.limits=scale,much,more",): "finite numbers",
    ("refine.limits=scale,9,2",): "the lowest, 9, is above the highest",
    ("refine.interval_deg=3",): "is of refine.scan_varying",
    ("refine.limits=scale,2,9",): "the start, 1, is not",
    ("refine.stage.parameters=size",): "refine.stage.parameters=size: choose from",
    ("refine.detector_panels=3", "refine.parameters=distance"): "there are 1 panels",
    ("refine.noise.readout_photons=2",): "is of refine.noise.model=gaussian",
    ("experiment=1",): "the list holds 1",
    ("preset=eiger_1m",): "leave it out",
    ("output.prefix=start",): "is an input",
    ("crystal.cell_spread_percent=1",): "are not refined",
}


@pytest.mark.parametrize("args", REFUSED, ids=lambda args: args[0])
def test_refused(still: Path, args: tuple[str, ...]) -> None:
    with pytest.raises(Sorry, match=REFUSED[args]) as caught:
        refine("start.expt", "start.refl", *START, *args)
    assert "\n" not in str(caught.value)
    assert not Path("refined.expt").exists()


def test_files_that_are_none(still: Path) -> None:
    with pytest.raises(Sorry, match=r"one table of its reflections \(.refl\): there are none"):
        refine("start.expt", *START)
    with pytest.raises(Sorry, match="one experiment list .*: there are none"):
        refine("start.refl", *START)
    text = Path("start.expt").read_text()
    Path("moved.expt").write_text(text.replace("data.nxs", "gone.nxs"))
    with pytest.raises(Sorry, match="an image file that moved.expt names is missing: .*gone.nxs"):
        refine("moved.expt", "start.refl", *START)
    with pytest.raises(Sorry, match="no file other.refl"):
        refine("start.expt", "other.refl", *START)
    Path("bad.refl").write_bytes(b"no table")
    with pytest.raises(Sorry, match="bad.refl"):
        refine("start.expt", "bad.refl", *START)
    table = flex.reflection_table.from_file("start.refl")
    table["miller_index"] = flex.miller_index(len(table), (0, 0, 0))
    table.as_file("bare.refl")
    with pytest.raises(Sorry, match="not indexed"):
        refine("start.expt", "bare.refl", *START)
    (experiment,) = load("start.expt")
    experiment.imageset = None
    ExperimentList([experiment]).as_file("models.expt")
    with pytest.raises(Sorry, match="points at no images"):
        refine("models.expt", "start.refl", *START)


def test_an_empty_table(still: Path) -> None:
    table().select(flex.size_t()).as_file("empty.refl")
    refused("empty.refl holds no reflections", "start.expt", "empty.refl", *START)


def test_reflections_of_no_experiment(still: Path) -> None:
    made = table()
    made["id"] = flex.int(len(made), 7)
    made.as_file("strange.refl")
    refused("no indexed reflection of this experiment", "start.expt", "strange.refl", *START)


def test_boxes_beyond_the_panel(still: Path) -> None:
    """Some are left out, and it is said; all: refused."""
    made = table()
    made["panel"][0] = 3
    made["bbox"] = flex.int6(len(made), (0, 0, 0, 0, 0, 0))  # none: made around the place
    made["bbox"][1] = (500, 510, 20, 30, 0, 1)
    made.as_file("some.refl")
    refine("data.expt", "some.refl", *TRUE)
    assert "Left out, beyond the panels and images: 2" in log()
    made["bbox"] = flex.int6(len(made), (500, 510, 20, 30, 0, 1))
    made.as_file("all.refl")
    for path in Path.cwd().glob("refined*"):
        path.unlink()
    refused("no shoebox is left", "data.expt", "all.refl", *TRUE)


def test_reflections_that_stand_there_twice(still: Path) -> None:
    """The same figures as without the second ones."""
    refine("data.expt", "start.refl", *TRUE, "output.prefix=once")
    made = table()
    made.extend(made.select(flex.size_t([0, 3, 5])))
    made.as_file("twice.refl")
    refine("data.expt", "twice.refl", *TRUE, "output.prefix=again")
    assert "Left out, as they stand there twice: 3" in log()
    one, two = (json.loads(Path(f"{name}.json").read_text()) for name in ("once", "again"))
    assert one["parameters"] == two["parameters"] and one["pixels"] == two["pixels"]


def test_places_that_are_no_numbers(still: Path) -> None:
    made = table()
    del made["bbox"]
    made["xyzobs.px.value"][0] = (float("nan"), 20.0, 0.5)
    made["xyzobs.px.value"][1] = (1e300, 20.0, 0.5)
    for name in [one for one in ("xyzcal.px",) if one in made]:
        del made[name]
    made.as_file("nowhere.refl")
    refine("data.expt", "nowhere.refl", *TRUE, "refine.positions=True")
    assert "Left out, as their places are no numbers: 2" in log()


def amplitudes(name: str, indices: list, cell: tuple = (47, 47, 61, 90, 90, 90)) -> str:
    symmetry = crystal.symmetry(unit_cell=cell, space_group_symbol="P4")
    chosen = miller.set(symmetry, flex.miller_index(indices), anomalous_flag=False)
    array = chosen.array(flex.double(len(indices), 100.0)).set_observation_type_xray_amplitude()
    array.as_mtz_dataset(column_root_label="F").mtz_object().write(name)
    return name


def test_amplitudes_of_other_indices(still: Path) -> None:
    """None of those in the table: refused. Some of them: counted."""
    rest = [one for one in TRUE if "default_F" not in one]
    far = amplitudes("far.mtz", [(40, 2, 1), (41, 2, 1)])
    refused("none of the .* has an amplitude above 0", "data.expt", "start.refl", far, *rest)
    unique = miller.set(
        crystal.symmetry(unit_cell=(47, 47, 61, 90, 90, 90), space_group_symbol="P4"),
        table()["miller_index"],
        anomalous_flag=False,
    )
    known = list(unique.map_to_asu().unique_under_symmetry().indices())
    some = amplitudes("some.mtz", [one for number, one in enumerate(known) if number % 8])
    # spots that the model does not have may keep it from converging
    with contextlib.suppress(Sorry):
        refine("data.expt", "start.refl", some, *rest, "refine.iterations=3")
    of_all = unique.map_to_asu().indices()
    dark = sum(one in set(known[::8]) for one in of_all)
    assert dark > 3
    assert f"Reflections without an amplitude, or of 0: {dark}" in log()


def test_negative_counts(still: Path) -> None:
    """What is left of a pedestal: the same scale within its sigma's tenth."""
    refine("data.expt", "start.refl", *TRUE, "output.prefix=good")
    (experiment,) = load("data.expt", True)
    experiment.detector[0].set_trusted_range((-10, 1e6))
    ExperimentList([experiment]).as_file("wide.expt")

    def change(pixels: np.ndarray) -> None:
        dark = np.argwhere(pixels == 0)[::7]
        assert len(dark) > 20
        pixels[dark[:, 0], dark[:, 1]] = -3

    with h5py.File("data.nxs", "r") as file:
        signed = np.issubdtype(file["entry/data/data"].dtype, np.signedinteger)
    if not signed:
        pytest.skip("the pixels of this file have no sign")
    changed_pixels(change)
    refine("wide.expt", "start.refl", *TRUE, "output.prefix=below")
    one, two = (json.loads(Path(f"{name}.json").read_text()) for name in ("good", "below"))
    rows = [next(r for r in c["parameters"] if r["name"] == "scale") for c in (one, two)]
    assert abs(rows[0]["value"] - rows[1]["value"]) < 0.1 * rows[0]["sigma"]


def test_huge_counts(still: Path) -> None:
    """A pixel of 1e9 in a shoebox, which the detector is said to count to, is left out of account
    by refine.noise.robust=tukey; without, the refinement ends all the same, with numbers."""
    (experiment,) = load("data.expt", True)
    experiment.detector[0].set_trusted_range((-1, 2e9))
    ExperimentList([experiment]).as_file("wide.expt")
    refine("wide.expt", "start.refl", *TRUE, "output.prefix=good")
    x, y, _ = table()["xyzobs.px.value"][0]
    changed_pixels(lambda pixels: pixels.__setitem__((int(y), int(x)), 1_000_000_000))
    refine("wide.expt", "start.refl", *TRUE, "refine.noise.robust=tukey", "output.prefix=robust")
    found = [json.loads(Path(f"{name}.json").read_text()) for name in ("good", "robust")]
    one, two = (next(r for r in c["parameters"] if r["name"] == "scale") for c in found)
    assert abs(one["value"] - two["value"]) < 3 * one["sigma"]
    try:
        refine("wide.expt", "start.refl", *TRUE, "output.prefix=plain")
    except Sorry as error:
        assert "is written" in str(error) or "do not describe" in str(error)
    rows = json.loads(Path("plain.json").read_text())["parameters"]
    assert all(np.isfinite(row["value"]) for row in rows)


def test_all_pixels_masked(still: Path) -> None:
    """A trusted range that nothing is in."""
    (experiment,) = load("data.expt", True)
    experiment.detector[0].set_trusted_range((1e6, 1e7))
    ExperimentList([experiment]).as_file("dark.expt")
    refused("no pixel is left", "dark.expt", "start.refl", *TRUE)


def test_models_that_fit_badly_are_warned_of(still: Path) -> None:
    """Domains and spread held at wrong values: chi^2 of 20; and what is not a stage is told."""
    refine("start.expt", "start.refl", *START, "refine.parameters=orientation+scale")
    said = Path("nanobragg.refine.log").read_text()
    assert re.search(r"WARNING: chi\^2 per degree of freedom is 2\d.*sigmas are too small", said)
    assert re.search(r"Places of spots: rms \S+ to \S+ sigma, in \d+ steps", said)
    assert "No blurred stages" in said
    assert re.search(r"Ncells_a .* held", said) and "set earlier" not in said
    page = Path("refined.html").read_text()
    assert page.count("Values and sigmas") == 1 and "The way there" in page


def test_a_table_of_other_experiments_is_warned_of(still: Path) -> None:
    """Of more experiments than the list has, or of others by their identifiers."""
    from nanobragg_plugin.adapters import shoeboxes

    listed = load("start.expt")
    table = flex.reflection_table.from_file("start.refl")
    assert shoeboxes.doubt(table, listed) == ""
    more = flex.reflection_table.from_file("start.refl")
    more["id"] = flex.int([n % 3 for n in range(len(more))])
    assert "are of 3 experiments, the list holds 1" in shoeboxes.doubt(more, listed)
    listed[0].identifier = "mine"
    table.experiment_identifiers()[0] = "theirs"
    assert "no experiment identifier" in shoeboxes.doubt(table, listed)
    table.as_file("theirs.refl")
    listed.as_file("mine.expt")
    refine("mine.expt", "theirs.refl", *START, "refine.parameters=scale", "output.pictures=False")
    assert "WARNING: no experiment identifier" in Path("nanobragg.refine.log").read_text()
