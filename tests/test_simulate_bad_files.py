# ruff: noqa: E402
"""Files that nanobragg.simulate cannot read or write, and runs that are stopped: one sentence, no
traceback, nothing half-written left behind."""

from __future__ import annotations

import os
import pickle
import resource
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("dials")

import simulate_helpers as sim
from libtbx.utils import Sorry
from scitbx.array_family import flex

from nanobragg_plugin.adapters import load
from nanobragg_plugin.run import writers
from nanobragg_plugin.simulate import Simulator

LOG = "nanobragg.simulate.log"
COMMAND = str(Path(sys.executable).with_name("nanobragg.simulate"))


@pytest.fixture
def expt(tmp_cwd: Path) -> str:
    """An experiment list of one sweep, in an otherwise empty working directory."""
    return sim.write_expt("models.expt", sim.sweep(), images=True)


# ---- files


def text_of(expt: str) -> str:
    return Path(expt).read_text()


BAD_FILES = {
    "empty.expt": ("", "empty.expt is empty"),
    "truncated.expt": (lambda text: text[: len(text) // 2], "truncated.expt is not an experiment"),
    "garbage.expt": (bytes(range(128, 256)), "garbage.expt is not an experiment list"),
    "object.expt": ('{"a": 1}', "object.expt is not an experiment list"),
    "list.expt": ("[1, 2]", "list.expt is not an experiment list"),
    "number.expt": ("3", "number.expt is not an experiment list"),
    "null.expt": ("null", "null.expt is not an experiment list"),
    "none.expt": ('{"__id__": "ExperimentList", "experiment": []}', "none.expt holds no exp"),
    "dangling.expt": (
        '{"__id__": "ExperimentList", "experiment": [{"beam": 7}], "beam": []}',
        "dangling.expt is not an experiment list",
    ),
    "syntax.phil": ("beam { fluence = ", "syntax.phil is not a PHIL file: .*line 1"),
    "quote.phil": ("beam.fluence = '1e24", "quote.phil is not a PHIL file"),
    "binary.phil": (bytes(range(128, 256)), "binary.phil is not a PHIL file"),
    "empty.phil": ("", "empty.phil is empty"),
    "unknown.phil": ("beam { fluenz = 3 }", "not recognised .*fluenz = 3"),
    "value.phil": ("beam.fluence = lots", 'beam.fluence="lots"'),
    "panel.phil": ("geometry.detector.panel { id=3; gain=2 }", "the detector has 1 panels"),
    "preset.phil": ("preset = nosuch", "there is no preset 'nosuch'"),
    "F.mtz": ("garbage", "F.mtz"),
    "strong.refl": (bytes(range(128, 256)), "strong.refl is binary"),
    "F.hkl": ("1 2 3 4\n1 2 x 4\n", "F.hkl"),
    "F.cif": ("data_x\n_cell_length_a 3\n", "F.cif"),
    "image.png": (b"\x89PNG\r\n\x1a\n" + bytes(50), "image.png"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files(name: str, expt: str) -> None:
    content, words = BAD_FILES[name]
    content = content(text_of(expt)) if callable(content) else content
    content = content.encode() if isinstance(content, str) else content
    Path(name).write_bytes(content)
    models = [] if name.endswith(".expt") else [expt]
    arguments = [a for a in sim.QUICK if not (name == "value.phil" and "fluence" in a)]
    with pytest.raises(Sorry, match=words):
        raise Sorry(sim.refused(*models, name, *arguments))
    if name.endswith(".expt"):
        with pytest.raises(Sorry, match=words):
            raise Sorry(sim.refused(f"input.experiments={name}", *arguments))


def test_two_files_of_structure_factors(expt: str) -> None:
    for name in ("a.hkl", "b.hkl"):
        Path(name).write_text("1 2 3 4\n")
    message = sim.refused(expt, "a.hkl", "b.hkl", *sim.QUICK)
    assert "given twice, as a.hkl and as b.hkl" in message


def test_phil_file_of_an_option(expt: str) -> None:
    assert "nowhere.phil" in sim.refused(expt, *sim.QUICK, "--phil", "nowhere.phil")


def test_unreadable_files(expt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As root every file is readable, so that the refusal is made up."""
    Path("F.mtz").write_text("x")
    opened = Path.open

    def deny(path: Path, *args: object, **named: object) -> object:
        if path.name == "F.mtz":
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *args, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", deny)
        with pytest.raises(Sorry, match="F.mtz cannot be read: Permission denied"):
            sim.simulate(expt, "F.mtz", *sim.QUICK)


# ---- masks


class Malicious:
    def __reduce__(self) -> tuple:
        return (os.mkdir, ("broken_into",))


def good(n_fast: int = 24, n_slow: int = 18, kind: type = flex.bool, value: float = 1) -> object:
    return kind(flex.grid(n_slow, n_fast), bool(value) if kind is flex.bool else value)


BAD_LOOKUPS = {
    "missing": ("mask", None, "cannot be read: No such file"),
    "garbage": ("mask", b"garbage", "is not a mask as DIALS writes it"),
    "empty": ("mask", b"", "is not a mask as DIALS writes it"),
    "truncated": ("mask", pickle.dumps((good(),))[:-20], "is not a mask"),
    "malicious": ("mask", pickle.dumps(Malicious()), "it holds a .*mkdir"),
    "of another kind": ("mask", pickle.dumps((good(kind=flex.double),)), "it holds a .*double"),
    "a number": ("mask", pickle.dumps(3), "is not a mask"),
    "strings": ("mask", pickle.dumps(("a", "b")), "is not a mask"),
    "of wrong shape": ("mask", pickle.dumps((good(18, 24),)), "24x18 pixels .* detector 18x24"),
    "of two panels": ("mask", pickle.dumps((good(), good())), "18x24, 18x24 pixels"),
    "flat": ("mask", pickle.dumps((flex.bool(18 * 24),)), "432 pixels"),
    "gain of 0": ("gain", pickle.dumps((good(kind=flex.double, value=0),)), "no gain"),
    "gain a mask": ("gain", pickle.dumps((good(),)), "it holds a .*bool"),
    "pedestal of wrong shape": (
        "pedestal",
        pickle.dumps((good(18, 24, flex.double),)),
        "the pedestal .* has 24x18 pixels",
    ),
}


@pytest.mark.parametrize("name", BAD_LOOKUPS)
def test_bad_masks_gains_and_pedestals(name: str, expt: str) -> None:
    what, content, words = BAD_LOOKUPS[name]
    if content is not None:
        Path("lookup.pickle").write_bytes(content)
    sim.edit_expt(expt, "imageset", 0, what, str(Path("lookup.pickle").resolve()))
    with pytest.raises(Sorry, match=words):
        raise Sorry(sim.refused(expt, *sim.QUICK))
    assert not Path("broken_into").exists()


def test_masks_of_random_bytes(expt: str) -> None:
    """Whatever a pickle machine makes of any bytes, it is a Sorry."""
    sim.edit_expt(expt, "imageset", 0, "mask", str(Path("lookup.pickle").resolve()))
    experiment = sim.load(expt)[0]
    whole = pickle.dumps((good(),))
    rng = np.random.default_rng(7)
    refusals = 0
    for _ in range(400):
        damaged = bytearray(whole)
        for place in rng.integers(0, len(whole), 3):
            damaged[place] = rng.integers(256)
        Path("lookup.pickle").write_bytes(damaged)
        try:
            mask = load.lookup(experiment).mask
        except Sorry:
            refusals += 1
        else:  # the damage was to the values
            assert [tile.shape for tile in mask] == [(18, 24)]
    assert refusals > 100


# ---- outputs

OUTPUTS = ["simulated.nxs", "simulated.expt", "simulated.provenance.json", "picture.png"]


@pytest.mark.parametrize("name", OUTPUTS)
def test_outputs_that_exist(name: str, expt: str) -> None:
    Path(name).write_text("precious")
    arguments = (expt, *sim.QUICK, "output.preview=picture.png")
    assert f"{name} exists: use output.overwrite=True" in sim.refused(*arguments)
    sim.simulate(*arguments, "output.overwrite=True")
    assert Path(name).read_bytes() != b"precious"


@pytest.mark.parametrize("name", OUTPUTS)
def test_outputs_that_are_folders(name: str, expt: str) -> None:
    Path(name).mkdir()
    arguments = (expt, *sim.QUICK, "output.preview=picture.png", "output.overwrite=True")
    assert f"cannot write {name}: it is a folder" in sim.refused(*arguments)


def test_outputs_that_are_no_files(expt: str) -> None:
    """As root, replacing a device by a file would succeed."""
    os.mkfifo("pipe")
    message = sim.refused(expt, *sim.QUICK, "output.provenance=pipe", "output.overwrite=True")
    assert "it is a device, not a file" in message and stat.S_ISFIFO(os.stat("pipe").st_mode)


def test_a_dangling_link_is_not_replaced(expt: str) -> None:
    Path("simulated.nxs").symlink_to("elsewhere.nxs")
    with pytest.raises(Sorry, match="simulated.nxs exists"):
        sim.simulate(expt, *sim.QUICK)
    assert Path("simulated.nxs").is_symlink()


@pytest.mark.parametrize(
    "assignment",
    [f"output.{name}={{}}" for name in ("experiments", "provenance", "preview", "log")],
)
def test_inputs_are_never_overwritten(assignment: str, expt: str) -> None:
    """Not even with output.overwrite=True, nor by the log, which replaces older ones."""
    Path("F.hkl").write_text("1 2 3 4\n")
    for name in (expt, "F.hkl"):
        arguments = [expt, "F.hkl", *sim.QUICK, "output.overwrite=True", assignment.format(name)]
        assert f"{name} is an input" in sim.refused(*arguments)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no /proc")
@pytest.mark.parametrize(
    "assignment",
    [
        "output.prefix=/proc/x",
        "output.experiments=/proc/x",
        "output.provenance=/proc/x",
        "output.preview=/proc/x",
        "output.log=/proc/x",
    ],
)
def test_folders_that_cannot_be_written_to(assignment: str, expt: str) -> None:
    """Nobody, not even root, can make a file in /proc."""
    assert "cannot write /proc/x" in sim.refused(expt, *sim.QUICK, assignment)


@pytest.mark.parametrize("writer, when", [("PartWriter", "write"), ("NXmxWriter", "close")])
@pytest.mark.parametrize(
    "failure, words",
    [
        (OSError(28, "No space left on device"), "No space left on device"),
        (MemoryError(), "not enough memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "not enough memory"),
    ],
)
def test_failures_while_writing(writer, when, failure, words, expt, monkeypatch) -> None:
    """What was there stays; images that are made are kept, and the same command goes on."""

    def fail(*args: object) -> None:
        raise failure

    Path("simulated.nxs").write_text("precious")
    arguments = (expt, *sim.QUICK, "output.overwrite=True")
    with monkeypatch.context() as patch:
        patch.setattr(getattr(writers, writer), when, fail)
        with pytest.raises(Sorry, match=words) as caught:
            sim.simulate(*arguments)
    assert "\n" not in str(caught.value)
    assert Path("simulated.nxs").read_text() == "precious"
    made = Path("simulated.parts").glob("*.h5")
    assert len(list(made)) == (0 if when == "write" else 3)
    sim.simulate(*arguments)
    assert not Path("simulated.parts").exists() and len(sim.pixels()) == 3


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_stopped_in_the_second_sweep(stop, tmp_cwd: Path, monkeypatch) -> None:
    """The first sweep, though whole, does not appear either; what was there stays."""
    path = sim.write_expt("two.expt", sim.sweep(identifier="a"), sim.sweep(identifier="b"))
    Path("simulated_1.nxs").write_text("precious")
    before = sim.contents(Path.cwd())
    images = []

    def image(*args: object) -> list:
        images.append(1)
        if len(images) == 5:
            raise stop
        return [torch.ones(18, 24)]

    monkeypatch.setattr(Simulator, "image", image)
    with pytest.raises(SystemExit):
        sim.simulate(path, *sim.QUICK, "output.overwrite=True")
    after = sim.contents(Path.cwd())
    assert b"Stopped: 4 of 6 images are done, and kept in" in after.pop(LOG)
    kept = [name for name in after if name.startswith("simulated.parts/") and name.endswith(".h5")]
    assert len(images) == 5 and len(kept) == 4
    assert {n: c for n, c in after.items() if not n.startswith("simulated.parts")} == before


# ---- through the real command


def run_command(*args: str, limit: int | None = None) -> subprocess.CompletedProcess:
    def lower() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.run(
        [COMMAND, *args],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=None if limit is None else lower,
    )


def test_exit_status_and_message(expt: str) -> None:
    """The message alone, though it is made of another error."""
    done = run_command(*sim.GEOMETRY, *sim.QUICK, "geometry.crystal.space_group=P17")
    assert done.returncode == 1
    assert done.stderr == "Sorry: geometry.crystal.space_group=P17 is no space group\n"
    assert sorted(os.listdir()) == ["models.expt", LOG]


def test_a_full_disk(expt: str) -> None:
    """A limit on the size of files stands for the disk's."""
    done = run_command(
        expt, *sim.QUICK, "geometry.detector.panel.image_size=300,300", "output.compression=none",
        limit=200_000,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("Sorry: simulated.nxs cannot be written: File too large")
    assert done.stderr.splitlines()[0].endswith("; make room, or write elsewhere")
    assert "Please report" not in done.stderr
    assert sorted(os.listdir()) == ["models.expt", LOG]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_killed_half_way(number: int, expt: str) -> None:
    """20000 images would take some time; the signal comes when the first ones are made. They are
    kept, nothing else is, and no traceback is printed."""
    arguments = [expt, *sim.QUICK, "geometry.scan.image_range=1,20000"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [COMMAND, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # which a shell's job in the background ignores, and hands down
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    for _ in range(1200):
        if Path("simulated.parts/part_000001.json").exists() or process.poll() is not None:
            break
        time.sleep(0.1)
    process.send_signal(number)
    output, error = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert b"Traceback" not in error and b"images are done, and kept in" in output
    assert sorted(os.listdir()) == ["models.expt", LOG, "simulated.parts"]
    assert not list(Path("simulated.parts").glob(".*"))
