# ruff: noqa: E402
"""mp.nproc: processes that die, runs that are killed, and files that vanish meanwhile."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("dials")

import simulate_helpers as sim
from libtbx.utils import Sorry

from nanobragg_plugin.run.images import Images

COMMAND = [sys.executable, "-m", "nanobragg_plugin.command_line.simulate"]
LOG = Path("nanobragg.simulate.log")


def start(*args: str) -> subprocess.Popen:
    """The command in a process group of its own, as a terminal has it."""
    return subprocess.Popen(
        [*COMMAND, *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
        # which a shell's job in the background ignores, and hands down
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def workers(parent: int) -> list[int]:
    """The processes that simulate for one."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            mother = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            if mother == parent and "spawn_main" in (folder / "cmdline").read_text():
                found.append(int(folder.name))
        except (OSError, IndexError):
            continue
    return found


def wait_for(condition, process: subprocess.Popen, seconds: float = 120) -> None:
    for _ in range(int(20 * seconds)):
        if condition() or process.poll() is not None:
            break
        time.sleep(0.05)
    assert process.poll() is None, process.communicate()


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


# ---- processes that die

LONG = (*sim.QUICK, "mp.nproc=2", "output.images_per_part=20", "output.prefix=long")
needs_proc = pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no /proc")


def done(folder: str = "long.parts") -> int:
    return len(list(Path(folder).glob("part_*.json")))


@pytest.fixture
def long(tmp_cwd: Path) -> str:
    """An experiment list of 1500 images."""
    return sim.write_expt("models.expt", sim.sweep(scan=sim.scan(images=1500)), images=True)


@needs_proc
def test_a_process_that_is_killed(long: str) -> None:
    """Another one does its work; nothing is lost, nothing is there twice."""
    process = start(long, *LONG)
    wait_for(lambda: done() > 3, process)
    os.kill(workers(process.pid)[0], signal.SIGKILL)
    output, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    assert "was killed by signal 9" in output and "another one goes on" in output
    assert not list(Path().glob("*.parts"))
    sim.simulate(long, *sim.QUICK, "mp.nproc=1")
    assert (sim.pixels() == sim.pixels("long.nxs")).all()


@needs_proc
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_the_run_is_killed(how: int, long: str) -> None:
    """By SIGKILL of the first process, or Ctrl-C in the terminal (SIGINT to all): the others end
    too; what is done is kept, whoever goes on with it."""
    process = start(long, *LONG)
    wait_for(lambda: done() > 3, process)
    others = workers(process.pid)
    assert len(others) == 2
    if how == signal.SIGINT:
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.kill()
    output, error = process.communicate(timeout=60)
    assert process.returncode == (130 if how == signal.SIGINT else -9)
    assert "Traceback" not in error
    assert how == signal.SIGKILL or "images are done, and kept in" in output
    for _ in range(200):
        if not any(map(alive, others)):
            break
        time.sleep(0.05)
    assert not any(map(alive, others))
    kept = done()
    assert kept > 3 and not Path("long.nxs").exists()
    sim.simulate(long, *sim.QUICK, "output.images_per_part=20", "output.prefix=long", "mp.nproc=1")
    assert "of 1500 images are there already" in LOG.read_text()
    sim.simulate(long, *sim.QUICK, "mp.nproc=1")
    assert (sim.pixels() == sim.pixels("long.nxs")).all()


def test_what_is_amiss_in_a_process_is_said_once(tmp_cwd: Path) -> None:
    """Image 3 has too many photons: one sentence, the first images are kept."""
    path = sim.write_expt("models.expt", sim.sweep(scan=sim.scan(1, 6)), images=True)
    Path("scales.txt").write_text("1\n1\n1e12\n1\n1\n1\n")
    arguments = (path, *sim.QUICK, "mp.nproc=2", "beam.image_scale_file=scales.txt")
    with pytest.raises(Sorry, match="image 3 would have .* photons in a pixel") as caught:
        sim.simulate(*arguments)
    assert "\n" not in str(caught.value) and done("simulated.parts") >= 1


# ---- what goes while it is needed


def after_the_first_image(patch: pytest.MonkeyPatch, action) -> None:
    """Do something when the first image is simulated, which this process does."""
    original, begun = Images.expected, []

    def expected(self, index: int) -> list:
        begun.append(index)
        result = original(self, index)
        if len(begun) == 1:
            action()
        return result

    patch.setattr(Images, "expected", expected)


@pytest.mark.parametrize("processes", [1, 2])
def test_inputs_that_vanish(processes: int, tmp_cwd: Path, monkeypatch) -> None:
    """All was read before the first image: the others are made as if nothing had happened."""
    path = sim.write_expt("models.expt", sim.sweep(scan=sim.scan(images=8)), images=True)
    Path("F.hkl").write_text("1 2 3 40\n1 1 1 50\n2 0 1 60\n")
    sim.simulate(path, "F.hkl", *sim.QUICK, "mp.nproc=1", "output.prefix=whole")

    def remove() -> None:
        for name in (path, "F.hkl"):
            os.unlink(name)

    with monkeypatch.context() as patch:
        after_the_first_image(patch, remove)
        sim.simulate(path, "F.hkl", *sim.QUICK, f"mp.nproc={processes}")
    assert not Path("F.hkl").exists()
    assert (sim.pixels() == sim.pixels("whole.nxs")).all()


def test_a_folder_that_vanishes(tmp_cwd: Path, monkeypatch) -> None:
    """One sentence, and the same command begins anew."""
    path = sim.write_expt("models.expt", sim.sweep(scan=sim.scan(images=8)), images=True)
    with monkeypatch.context() as patch:
        after_the_first_image(patch, lambda: shutil.rmtree("simulated.parts"))
        with pytest.raises(Sorry) as caught:
            sim.simulate(path, *sim.QUICK, "mp.nproc=1")
    assert "simulated.parts" in str(caught.value) and "\n" not in str(caught.value)
    sim.simulate(path, *sim.QUICK, "mp.nproc=1")
    assert len(sim.pixels()) == 8
