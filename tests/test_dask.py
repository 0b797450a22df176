# ruff: noqa: E402
"""mp.scheduler: a real scheduler of Dask and its workers, on this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("dials")
pytest.importorskip("distributed")

import simulate_helpers as sim
from distributed import Client

from nanobragg_plugin.run import cluster

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
DASK = [sys.executable, "-m", "distributed.cli.dask_scheduler"]
WORKER = [sys.executable, "-m", "distributed.cli.dask_worker"]
LOG = Path("nanobragg.simulate.log")
MORE = ("output.images_per_part=4", "output.truth=True")


class Cluster:
    """A scheduler, and workers that can be started and killed, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, folder / "scheduler.json"
        self.processes: list[subprocess.Popen] = []
        self._start(*DASK, "--port", "0", "--no-dashboard", "--scheduler-file", str(self.file))
        for _ in range(600):
            if self.file.exists():
                break
            time.sleep(0.1)

    def worker(self, *more: str) -> subprocess.Popen:
        """Without a nanny, which would start it again when it is killed."""
        more += ("--no-nanny", "--nthreads", "1", "--no-dashboard", "--memory-limit", "0")
        return self._start(*WORKER, "--scheduler-file", str(self.file), *more)

    def wait(self, workers: int) -> str:
        """Until so many workers have come; the scheduler's address."""
        with Client(scheduler_file=str(self.file), timeout=60, set_as_default=False) as client:
            client.wait_for_workers(workers, timeout=120)
            return client.scheduler.address

    def _start(self, *args: str) -> subprocess.Popen:
        with open(self.folder / "output", "a") as output:
            process = subprocess.Popen(
                args, cwd=self.folder, env=ENVIRONMENT, stdout=output, stderr=output
            )
        self.processes.append(process)
        return process

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.fixture
def dask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("dask"))
    try:
        yield made
    finally:
        made.end()


def test_workers_make_the_same_though_one_dies(dask: Cluster, tmp_cwd: Path) -> None:
    """Two workers, which see nothing but the output's folder and what they are sent; one is killed
    half-way, another comes. Amplitudes are from a file that is named relative to a folder that they
    do not share."""
    folder = tmp_cwd / "elsewhere"
    folder.mkdir()
    (tmp_cwd / "out").mkdir()
    os.chdir(folder)
    path = sim.write_expt("models.expt", sim.sweep(scan=sim.scan(images=800)), images=True)
    lines = [
        f"{h} {k} {l} {10 + h + 2 * k + l}" for h in range(5) for k in range(5) for l in range(5)
    ]
    Path("F.hkl").write_text("\n".join(lines) + "\n")
    arguments = (path, "F.hkl", *sim.QUICK, *MORE)
    sim.simulate(*arguments, "mp.nproc=1", "output.prefix=one")
    first = dask.worker()
    dask.worker()
    address = dask.wait(2)
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "nanobragg_plugin.command_line.simulate", *arguments),
            *(f"mp.scheduler={address}", f"output.prefix={tmp_cwd}/out/two"),
        ],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    parts = tmp_cwd / "out" / "two.parts"
    for _ in range(2400):
        if len(list(parts.glob("part_*.json"))) > 10 or process.poll() is not None:
            break
        time.sleep(0.05)
    assert process.poll() is None, process.communicate()
    first.send_signal(signal.SIGKILL)
    dask.worker()
    output, error = process.communicate(timeout=400)
    assert process.returncode == 0, error
    assert "has 2 workers" in output and "Traceback" not in error
    assert (sim.pixels("one.nxs") == sim.pixels(tmp_cwd / "out" / "two.nxs")).all()
    names = sorted(os.listdir(tmp_cwd / "out"))
    assert names == [
        f"two.{e}" for e in ("expt", "nxs", "provenance.json", "truth.mtz", "truth.refl")
    ]


BROKEN = """
from nanobragg_plugin.run.maker import Maker

def fail(self, part, *given):
    raise OSError(28, "No space left on device", "its own disk")

Maker.make = fail
"""


def test_a_task_that_fails_is_tried_elsewhere(dask: Cluster, tmp_cwd: Path, caplog) -> None:
    """One worker can write nothing: the other makes all. Alone it says why, in one sentence."""
    Path("broken.py").write_text(BROKEN)
    path = sim.write_expt("models.expt", sim.sweep(scan=sim.scan(1, 6)), images=True)
    dask.worker("--preload", str(tmp_cwd / "broken.py"))
    arguments = (path, *sim.QUICK, f"mp.scheduler={dask.file}")
    dask.wait(1)
    with pytest.raises(sim.Sorry, match="^its own disk: No space left on device$"):
        sim.simulate(*arguments)
    dask.worker()
    dask.wait(2)
    sim.simulate(*arguments)
    assert "its own disk" in LOG.read_text() and "; tried elsewhere" in LOG.read_text()
    sim.simulate(path, *sim.QUICK, "mp.nproc=1", "output.prefix=one")
    assert (sim.pixels() == sim.pixels("one.nxs")).all()


def test_a_scheduler_file_and_what_is_amiss(dask: Cluster, tmp_cwd: Path) -> None:
    """What a worker refuses is said in one sentence."""
    path = sim.write_expt("models.expt", sim.sweep(scan=sim.scan(1, 6)), images=True)
    Path("scales.txt").write_text("1\n1\n1e12\n1\n1\n1\n")
    dask.worker()
    dask.wait(1)
    arguments = (path, *sim.QUICK, f"mp.scheduler={dask.file}")
    with pytest.raises(sim.Sorry, match="image 3 would have .* photons in a pixel") as caught:
        sim.simulate(*arguments, "beam.image_scale_file=scales.txt", "output.prefix=bad")
    assert "\n" not in str(caught.value)
    sim.simulate(*arguments)
    sim.simulate(path, *sim.QUICK, "mp.nproc=1", "output.prefix=one")
    assert (sim.pixels() == sim.pixels("one.nxs")).all()


def test_schedulers_that_are_not_there(tmp_cwd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "TIMEOUT_S", 1)
    path = sim.write_expt("models.expt", sim.sweep())
    said = sim.refused(path, *sim.QUICK, "mp.scheduler=tcp://127.0.0.1:1")
    assert "mp.scheduler=tcp://127.0.0.1:1 cannot be reached" in said
    assert "there is no such file" in sim.refused(path, *sim.QUICK, "mp.scheduler=none.json")
    assert "cannot be reached" in sim.refused(path, *sim.QUICK, "mp.scheduler=nonsense://1")


def test_without_dask(tmp_cwd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    path = sim.write_expt("models.expt", sim.sweep())
    said = sim.refused(path, *sim.QUICK, "mp.scheduler=tcp://127.0.0.1:1")
    assert (
        "mp.scheduler needs dask.distributed, here and where the workers are: pip install" in said
    )


def test_processes_beside_a_scheduler(tmp_cwd: Path) -> None:
    path = sim.write_expt("models.expt", sim.sweep())
    said = sim.refused(path, *sim.QUICK, "mp.scheduler=none.json", "mp.nproc=2")
    assert "mp.nproc=2 does nothing with mp.scheduler" in said
