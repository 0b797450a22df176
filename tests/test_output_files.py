# ruff: noqa: E402
"""output.format: what is refused, replaced, and left behind by runs that end early."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("dials")

import simulate_helpers as sim
from image_file_helpers import ENDINGS, names
from libtbx.utils import Sorry

from nanobragg_plugin.run import writers
from nanobragg_plugin.run.images import Images
from nanobragg_plugin.simulate import Simulator

LOG = "nanobragg.simulate.log"
FORMATS = list(ENDINGS)
IMAGES = ["cbf", "smv"]


@pytest.fixture
def expt(tmp_cwd: Path) -> str:
    """An experiment list of one sweep, images 11 to 13, in an otherwise empty working directory."""
    return sim.write_expt("models.expt", sim.sweep(), images=True)


# ---- what is refused


@pytest.mark.parametrize("form", IMAGES)
def test_fractions_of_photons(form: str, expt: str) -> None:
    said = sim.refused(expt, *sim.QUICK, f"output.format={form}", "noise.poisson=False")
    assert f"noise.poisson=False makes fractions of photons, {form} files hold whole" in said


@pytest.mark.parametrize("form", FORMATS)
def test_compression_of_others(form: str, expt: str) -> None:
    said = sim.refused(expt, *sim.QUICK, f"output.format={form}", "output.compression=none")
    assert f"output.compression=none does nothing for output.format={form}" in said


def test_unknown_format(expt: str) -> None:
    assert "tiff" in sim.refused(expt, *sim.QUICK, "output.format=tiff")


def test_panels_that_do_not_fit(tmp_cwd: Path) -> None:
    """Before anything is simulated: the first sweep could be written."""
    both = sim.detector(2)
    path = sim.write_expt("two.expt", sim.sweep(identifier="a"), sim.sweep(detector=both))
    assert "one panel, the detector has 2" in sim.refused(path, *sim.QUICK, "output.format=smv")
    both[1].set_image_size((20, 18))
    path = sim.write_expt("sizes.expt", sim.sweep(identifier="a"), sim.sweep(detector=both))
    assert "panels of different sizes" in sim.refused(path, *sim.QUICK, "output.format=cbf")


def test_values_that_do_not_fit(expt: str) -> None:
    said = sim.refused(expt, *sim.QUICK, "output.format=smv", "noise.readout_noise_adu=20")
    assert "is less than uint16 holds; give more detector.adc_offset_adu, or use" in said
    assert "Panel 0 of simulated_00011.img" in said
    sim.simulate(
        expt, *sim.QUICK, "output.format=smv", "noise.readout_noise_adu=20",
        "detector.adc_offset_adu=200",
    )  # fmt: skip


def test_trusted_range_outside_16_bits(expt: str) -> None:
    trusted = "geometry.detector.panel.trusted_range=70000,80000"
    said = sim.refused(expt, *sim.QUICK, "output.format=smv", trusted)
    assert "Panel 0 trusts values from 70000 to 80000, none of which SMV files hold" in said


@pytest.mark.parametrize("form", FORMATS)
def test_image_numbers_that_have_no_name(form: str, expt: str) -> None:
    said = sim.refused(
        expt, *sim.QUICK, f"output.format={form}", "geometry.scan.image_range=99998,100001"
    )
    assert "image number 100000 has no file name" in said


@pytest.mark.parametrize("form", IMAGES)
def test_a_beam_that_moves_is_warned_of(form: str, tmp_cwd: Path) -> None:
    experiment = sim.sweep(scan=sim.scan(1, 2))
    experiment.beam.set_s0_at_scan_points([(0, 0, -1.0), (0, 0.001, -1.0), (0, 0.002, -1.0)])
    path = sim.write_expt("models.expt", experiment)
    sim.simulate(path, *sim.QUICK, f"output.format={form}")
    assert f"The beam changes along the scan, which the headers of {form}" in Path(LOG).read_text()
    assert sim.load()[0].beam.num_scan_points == 3


# ---- overwriting


@pytest.mark.parametrize("form", FORMATS)
def test_files_that_exist(form: str, expt: str) -> None:
    """One of the images' names is taken; with overwrite=True it is replaced."""
    (*_, taken) = sorted(name for name in names(form, (12,)) if name.endswith(ENDINGS[form]))
    Path(taken).write_text("old")
    said = sim.refused(expt, *sim.QUICK, f"output.format={form}")
    assert f"{taken} exists: use output.overwrite=True" in said
    sim.simulate(expt, *sim.QUICK, f"output.format={form}", "output.overwrite=True")
    assert Path(taken).stat().st_size > 1000
    Path(taken).unlink()
    Path(taken).mkdir()
    arguments = (expt, *sim.QUICK, f"output.format={form}", "output.overwrite=True")
    assert "it is a folder" in sim.refused(*arguments)


@pytest.mark.parametrize("name", ["simulated_raw.json", "simulated_raw_mask.bin"])
def test_companions_that_exist(name: str, expt: str) -> None:
    Path(name).write_text("old")
    assert f"{name} exists" in sim.refused(expt, *sim.QUICK, "output.format=raw")


def test_images_of_other_runs(expt: str) -> None:
    """They stay, and a warning names them: their template is the same."""
    sim.simulate(expt, *sim.QUICK, "output.format=cbf", "sampling.image_range=11,12")
    assert "are not of this run" not in Path(LOG).read_text()
    more = ("sampling.image_range=13,13", "output.experiments=b.expt", "output.provenance=b.json")
    sim.simulate(expt, *sim.QUICK, "output.format=cbf", *more)
    assert names("cbf", (11, 12, 13)) <= set(os.listdir())
    assert "2 files named simulated_#####.cbf are not of this run" in Path(LOG).read_text()


@pytest.mark.parametrize("what", ["preview", "experiments", "provenance", "log"])
def test_two_outputs_of_one_name(what: str, expt: str) -> None:
    taken = f"output.{what}=simulated_00012.img"
    with pytest.raises(Sorry, match="two outputs would both be .*simulated_00012.img: rename one"):
        sim.simulate(expt, *sim.QUICK, "output.format=smv", taken, "output.overwrite=True")
    assert set(os.listdir()) <= {expt, LOG, "simulated_00012.img"}


def test_inputs_are_not_overwritten(tmp_cwd: Path) -> None:
    path = sim.write_expt("simulated_00012.cbf.expt", sim.sweep())
    os.rename(path, "simulated_00012.cbf")
    os.link("simulated_00012.cbf", "models.expt")
    Path("simulated_00012.cbf").unlink()
    Path("simulated_00012.cbf").symlink_to("models.expt")
    said = sim.refused("models.expt", *sim.QUICK, "output.format=cbf", "output.overwrite=True")
    assert "simulated_00012.cbf is an input" in said


# ---- failures and kills


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, OSError(28, "No space left")])
def test_stopped_in_the_second_sweep(form, stop, tmp_cwd: Path, monkeypatch) -> None:
    """The first sweep, though whole, does not appear either; what was there stays."""
    path = sim.write_expt("two.expt", sim.sweep(identifier="a"), sim.sweep(identifier="b"))
    Path(f"simulated_1_00011.{ENDINGS[form]}").write_text("precious")
    before = sim.contents(Path.cwd())
    images = []

    def image(*args: object) -> list:
        images.append(1)
        if len(images) == 5:
            raise stop
        return [torch.ones(18, 24)]

    monkeypatch.setattr(Simulator, "image", image)
    kind = Exception if isinstance(stop, OSError) else SystemExit
    with pytest.raises(kind):
        sim.simulate(path, *sim.QUICK, f"output.format={form}", "output.overwrite=True")
    after = sim.contents(Path.cwd())
    after.pop(LOG)
    kept = [name for name in after if name.endswith(f".{ENDINGS[form]}") and ".parts/" in name]
    assert len(images) == 5 and len(kept) == 4
    assert {n: c for n, c in after.items() if not n.startswith("simulated.parts")} == before


@pytest.mark.parametrize("form", FORMATS)
def test_a_disk_that_is_full_half_way(form, expt, monkeypatch) -> None:
    """The image that was whole is kept."""
    calls = []
    writer = writers.FILE_PER_IMAGE[form]
    original = writer._write_file

    def fail(self, path, *args: object) -> None:
        calls.append(path)
        if len(calls) == 2:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        original(self, path, *args)

    arguments = (expt, *sim.QUICK, f"output.format={form}")
    with monkeypatch.context() as patch:
        patch.setattr(writer, "_write_file", fail)
        with pytest.raises(Sorry) as caught:
            sim.simulate(*arguments)
    name = f"simulated_00012.{ENDINGS[form]}"
    assert (
        str(caught.value)
        == f"{name} cannot be written: No space left on device; make room, or write elsewhere"
    )
    there = {path.name for path in Path("simulated.parts").glob("simulated*")}
    assert there == {f"simulated_00011.{ENDINGS[form]}"}
    sim.simulate(*arguments)
    assert names(form, (11, 12, 13)) <= set(os.listdir())


COMMAND = [sys.executable, "-m", "nanobragg_plugin.command_line.simulate"]


@pytest.mark.parametrize("form", ["cbf", "raw"])
def test_a_full_disk(form: str, expt: str) -> None:
    """A limit on the size of files stands for the disk's."""
    done = subprocess.run(
        [*COMMAND, expt, *sim.QUICK, f"output.format={form}",
         "geometry.detector.panel.image_size=400,300"],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (80_000, 80_000)),
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith(f"Sorry: simulated_00011.{ENDINGS[form]} cannot be written: ")
    assert "Please report" not in done.stderr and "Traceback" not in done.stderr
    assert sorted(os.listdir()) == ["models.expt", LOG]


@pytest.mark.parametrize(
    "form, number",
    [("cbf", signal.SIGTERM), ("smv", signal.SIGKILL), ("raw", signal.SIGTERM)],
)
def test_killed_half_way(form: str, number: int, expt: str) -> None:
    """The signal comes when some images are written: none has its name. SIGTERM, which can be
    caught, leaves nothing but those that are kept."""
    arguments = [expt, *sim.QUICK, "geometry.scan.image_range=1,20000", f"output.format={form}"]
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    for _ in range(1200):
        if Path("simulated.parts/part_000001.json").exists() or process.poll() is not None:
            break
        time.sleep(0.1)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert set(os.listdir()) == {"models.expt", LOG, "simulated.parts"}
    there = {path.name for path in Path("simulated.parts").iterdir()}
    ledgers = [json.loads(p.read_text()) for p in Path("simulated.parts").glob("part_*.json")]
    kept = {name for ledger in ledgers for name in ledger["files"]}
    assert kept and kept <= there
    if number == signal.SIGTERM:
        assert {name for name in there if name.startswith("simulated")} == kept


def test_images_come_one_by_one(expt: str, monkeypatch) -> None:
    """Each is on the disk, whole, before the next is simulated."""
    seen = []
    original = Images.expected

    def watching(*args: object) -> list:
        seen.append(len(list(Path("simulated.parts").glob("simulated_*.cbf"))))
        return original(*args)

    monkeypatch.setattr(Images, "expected", watching)
    sim.simulate(expt, *sim.QUICK, "output.format=cbf")
    assert seen == [0, 1, 2]
