# ruff: noqa: E402
"""output.format=live: nanobragg.simulate writes a live file in place of images, and its images are
those that output.format=nxmx writes."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("dials")

import image_file_helpers as ifh
import live_helpers as lh
import miller_files as mf
import simulate_helpers as sim
from dials.array_family import flex
from test_simulate_parameters import small_cell

from nanobragg_plugin.format.FormatNanoBraggLive import FormatNanoBraggLive
from nanobragg_plugin.format.FormatNXmxNanoBragg import FormatNXmxNanoBragg
from nanobragg_plugin.run import live_cost, live_process

LIVE = ("output.format=live", "output.prefix=live")


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_process, "_process", None)


def both(*args: str) -> None:
    """A run that writes live.nbexpt, the same that writes simulated.nxs."""
    sim.simulate(*args, *LIVE)
    sim.simulate(*args)


def assert_same(live: str = "live.nbexpt", written: str = "simulated.nxs") -> None:
    ours, theirs = FormatNanoBraggLive(live), FormatNXmxNanoBragg(written)
    images = theirs.get_num_images()
    assert ours.get_num_images() == images
    lh.assert_same_images(ours, theirs, [images - 1, 0])
    assert ours.get_detector() == theirs.get_detector() and ours.get_beam() == theirs.get_beam()


def test_of_a_list(tmp_cwd: Path) -> None:
    """What is written; live.expt points at it, and is the list of images that were written."""
    expt = sim.write_expt("models.expt", sim.sweep(), images=True)
    both(expt, *sim.QUICK)
    made = {"live.nbexpt", "live_models.expt", "live.expt", "live.provenance.json"}
    assert {name for name in os.listdir() if name.startswith("live")} == made
    assert_same()
    text = Path("live.nbexpt").read_text() + Path("live_models.expt").read_text()
    assert str(tmp_cwd) not in text  # strangers need not know
    with ifh.registry(True):
        (ours,), (theirs,) = (sim.load(f"{n}.expt", True) for n in ("live", "simulated"))
        for name in ("beam", "detector", "goniometer", "scan", "crystal", "identifier"):
            assert getattr(ours, name) == getattr(theirs, name)
        one, other = (e.imageset.get_raw_data(1)[0].as_numpy_array() for e in (ours, theirs))
    np.testing.assert_array_equal(one, other)


def test_it_moves(tmp_cwd: Path) -> None:
    """All that it needs lies beside it: F, a mask and a background from elsewhere too."""
    for name in ("in", "out", "moved"):
        Path(name).mkdir()
    model = "in/my model (1).pdb"
    Path(model).write_text(mf.structure("P 1").as_pdb_file())
    shutil.copy(model, "in/.hidden")
    np.save("in/flat.npy", np.full((18, 24), 5.0))
    mask = np.ones((18, 24), bool)
    mask[3:9, 5:7] = False
    with open("in/mask.pickle", "wb") as stream:
        pickle.dump((flex.bool(mask),), stream)
    os.symlink(tmp_cwd / "in" / "flat.npy", "out/flat.npy")
    expt = sim.write_expt("in/models.expt", sim.sweep(crystal=small_cell()), images=True)
    sim.edit_expt(expt, "imageset", 0, "mask", str(tmp_cwd / "in" / "mask.pickle"))
    lines = [line for line in sim.QUICK if "default_F" not in line]
    for file in (model, "in/.hidden"):
        args = (expt, *lines, file, "background.image_file=out/flat.npy")
        sim.simulate(*args, "output.format=live", "output.prefix=out/live", "output.overwrite=True")
        sim.simulate(*args, "output.prefix=written", "output.overwrite=True")
        shutil.rmtree("moved")
        shutil.copytree("out", "moved", symlinks=True)
        os.rename("in", "gone")
        assert_same("moved/live.nbexpt", "written.nxs")
        os.rename("gone", "in")
    assert {"live_my_model__1_.pdb", "live_flat.npy", "live_mask.pickle"} <= set(
        os.listdir("moved")
    )


def test_files_below_stay(tmp_cwd: Path) -> None:
    """A file below the folder is named where it is, not copied."""
    Path("data").mkdir()
    Path("data/model.pdb").write_text(mf.structure("P 1").as_pdb_file())
    expt = sim.write_expt("models.expt", sim.sweep(crystal=small_cell()))
    lines = [line for line in sim.QUICK if "default_F" not in line]
    both(expt, *lines, "structure_factors.file=data/model.pdb")
    assert_same()
    assert 'file = "data/model.pdb"' in Path("live.nbexpt").read_text()
    assert not list(Path().glob("live*.pdb"))


def test_without_a_list(tmp_cwd: Path) -> None:
    """dxtbx's own parameters, several panels by a preset: the preset's values stand in the file."""
    both(*sim.GEOMETRY, *sim.QUICK)
    assert_same()
    args = ("preset=jungfrau_4m", "structure_factors.default_F=100", "sampling.roi=1,4,1,3,2",
            "sampling.oversample=1", "sampling.thicksteps=1", "crystal.mosaic.domains=1",
            "output.overwrite=True")  # fmt: skip
    both(*args)
    assert_same()
    assert "preset" not in Path("live.nbexpt").read_text()


def test_every_digit(tmp_cwd: Path) -> None:
    """PHIL by itself writes 10 digits: expected photons in float64 would differ."""
    digits = ("geometry.crystal.misset_deg=10.12345678901234,20,30",
              "beam.fluence=1.2345678901234e24",
              "noise.poisson=False", "compute.precision=double")  # fmt: skip
    given = [arg for arg in (*sim.GEOMETRY, *sim.QUICK) if "misset" not in arg and "flu" not in arg]
    both(*given, *digits)
    assert_same()
    text = Path("live.nbexpt").read_text()
    assert "10.12345678901234 20.0 30.0" in text and "1.2345678901234e+24" in text


def test_several_sweeps(tmp_cwd: Path) -> None:
    """A live file for each, with the noise of each; crystals of the same images in one."""
    one, two = sim.lattices()
    other = sim.sweep(identifier="other", scan=sim.scan(1, 2))
    expt = sim.write_expt("models.expt", one, two, other)
    both(expt, *sim.QUICK)
    for number in (1, 2):
        assert_same(f"live_{number}.nbexpt", f"simulated_{number}.nxs")
    with ifh.registry(True):
        listed = sim.load("live.expt", True)
    assert list(listed.identifiers()) == list(sim.load("simulated.expt").identifiers())


def test_stills(tmp_cwd: Path) -> None:
    expt = sim.write_expt("models.expt", sim.still())
    both(expt, *sim.STILL, "stills.count=3", "stills.cell_sigma_percent=1")
    assert_same()
    with ifh.registry(True):
        ours, theirs = (sim.load(f"{name}.expt") for name in ("live", "simulated"))
    assert [e.crystal for e in ours] == [e.crystal for e in theirs]


def test_truth_and_preview(tmp_cwd: Path) -> None:
    """As of images that are written."""
    expt = sim.write_expt("models.expt", sim.sweep())
    sim.simulate(expt, *sim.QUICK, *LIVE, "output.truth=True", "output.preview=live.png")
    sim.simulate(expt, *sim.QUICK, "output.truth=True", "output.preview=simulated.png")
    assert Path("live.png").read_bytes() == Path("simulated.png").read_bytes()
    ours, theirs = (
        flex.reflection_table.from_file(f"{name}.truth.refl") for name in ("live", "simulated")
    )
    assert len(ours) > 10
    assert list(ours["miller_index"]) == list(theirs["miller_index"])
    assert list(ours["xyzcal.px"]) == list(theirs["xyzcal.px"])


def test_refused(tmp_cwd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What could not be read is not written; nothing is left behind."""
    expt = sim.write_expt(
        "models.expt", sim.sweep(), sim.sweep(identifier="b", scan=sim.scan(1, 2))
    )
    assert "at most" in sim.refused(expt, *sim.QUICK, *LIVE, "compute.batch_steps=99999999")
    said = sim.refused(expt, *sim.QUICK, *LIVE, "output.expected=True")
    assert "output.expected=True needs output.format=nxmx" in said
    monkeypatch.setenv(live_cost.LIMIT, "1000")
    assert "steps" in sim.refused(expt, *sim.QUICK, *LIVE)
    monkeypatch.delenv(live_cost.LIMIT)
    sim.simulate(expt, *sim.QUICK, *LIVE)
    os.remove("live.expt")
    os.remove("live.provenance.json")
    assert "live_1.nbexpt exists" in sim.refused(expt, *sim.QUICK, *LIVE)
    os.remove("live_1.nbexpt")
    os.remove("live_2.nbexpt")
    assert "live_1_models.expt exists" in sim.refused(expt, *sim.QUICK, *LIVE)
