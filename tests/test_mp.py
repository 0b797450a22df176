# ruff: noqa: E402
"""mp.nproc: who simulates; the images do not depend on it. What may be taken of memory and disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("dials")

import simulate_helpers as sim
from dials.array_family import flex
from libtbx import Auto
from libtbx.utils import Sorry

from nanobragg_plugin.run import resources
from nanobragg_plugin.run.resources import Crew


@pytest.fixture
def expt(tmp_cwd: Path) -> str:
    """An experiment list of two sweeps of 30 images."""
    sweeps = (sim.sweep(scan=sim.scan(images=30), identifier=name) for name in "ab")
    return sim.write_expt("models.expt", *sweeps, images=True)


# ---- the same images


def everything(prefix: str) -> dict[str, object]:
    """All that a run has made, for comparison."""
    found: dict[str, object] = {}
    for number in (1, 2):
        with h5py.File(f"{prefix}_{number}.nxs") as handle:
            data = handle["/entry/data/data"]
            found[f"chunk {number}"] = data.id.read_direct_chunk((7, 0, 0))
            found[f"pixels {number}"] = data[()].tobytes()
            found[f"expected {number}"] = handle["/entry/nanobragg/expected"][()].tobytes()
            found[f"maps {number}"] = handle["/entry/nanobragg/maps/hkl"][()].tobytes()
    table = flex.reflection_table.from_file(f"{prefix}.truth.refl")
    for name in ("intensity.sum.value", "xyzobs.px.value", "partiality", "id", "panel"):
        found[name] = table[name].as_numpy_array().tobytes()
    return found


def test_processes_threads_and_parts_make_the_same(expt: str) -> None:
    """Bit by bit: pixels (as compressed too), expected photons, maps and true reflections."""
    more = (*sim.QUICK, "output.expected=True", "output.maps=True", "output.truth=True")
    sim.simulate(expt, *more, "mp.nproc=1", "output.prefix=one")
    one = everything("one")
    assert len(set(one["pixels 1"])) > 20 and one["pixels 1"] != one["pixels 2"]
    for prefix, *change in (
        ("two", "mp.nproc=2"),
        ("parts", "mp.nproc=1", "output.images_per_part=13"),
        ("threads", "mp.nproc=1", "compute.nthreads=2"),
        ("memory", "mp.memory_gb=2"),
    ):
        sim.simulate(expt, *more, *change, f"output.prefix={prefix}")
        assert everything(prefix) == one
    torch.set_num_threads(1)


def test_timings(expt: str) -> None:
    """Of every part: its times are within the run's, and the process is one that did it."""
    before = time.time()
    sim.simulate(expt, *sim.QUICK, "mp.nproc=2", "output.timings=t.json")
    found = json.loads(Path("t.json").read_text())
    assert before < found["began"] < found["ended"] < time.time()
    parts = found["parts"]
    images = [(one["file"], i) for one in parts for i in range(one["first"], one["last"] + 1)]
    assert images == [(file, i) for file in (1, 2) for i in range(1, 31)]
    assert len({one["process"] for one in parts}) == 3  # the first image is the command's own
    for one in parts:
        assert found["began"] < one["began"] < one["began"] + one["seconds"] < found["ended"]
        assert 0 < one["simulating"] < one["seconds"]
        assert 0 < one["resident"] <= one["peak"] and one["bytes"] > 0 and one["open_files"] > 0


def test_large_images_do_not_depend_on_threads(tmp_cwd: Path) -> None:
    """300 x 250 pixels, which both kernels share out among threads; mosaic domains, noise."""
    detector = sim.detector()
    detector[0].set_image_size((300, 250))
    detector[0].set_pixel_size((0.04, 0.05))
    path = sim.write_expt("models.expt", sim.sweep(detector=detector))
    more = ("crystal.mosaic.spread_deg=0.3", "crystal.mosaic.domains=5", "mp.nproc=1")
    for kernel in ("dense", "sparse"):
        for threads in (1, 2):
            of = f"compute.kernel={kernel}", f"compute.nthreads={threads}"
            sim.simulate(path, *sim.QUICK, *more, *of, f"output.prefix={kernel}{threads}")
        assert (sim.pixels(f"{kernel}1.nxs") == sim.pixels(f"{kernel}2.nxs")).all()
    torch.set_num_threads(1)


def test_stills_made_by_processes(tmp_cwd: Path) -> None:
    """The models of each are made in the process that simulates it."""
    path = sim.write_expt("models.expt", sim.still())
    more = (*sim.STILL, "stills.count=12", "stills.seed=5", "stills.fluence_sigma_percent=20")
    more += ("output.truth=True", "stills.domain_sigma_percent=10")
    sim.simulate(path, *more, "mp.nproc=1", "output.prefix=one")
    sim.simulate(path, *more, "mp.nproc=2", "output.prefix=two")
    assert (sim.pixels("one.nxs") == sim.pixels("two.nxs")).all()
    tables = [flex.reflection_table.from_file(f"{name}.truth.refl") for name in ("one", "two")]
    photons = [table["intensity.sum.value"].as_numpy_array() for table in tables]
    assert len(photons[0]) > 12 and np.array_equal(*photons)
    assert set(tables[0]["id"]) == set(range(12))


# ---- who simulates


class Of:
    """Parameters, extracted."""

    def __init__(self, nproc=Auto, memory_gb=Auto, nthreads=Auto, device="cpu") -> None:
        self.mp, self.compute = self, self
        self.nproc, self.memory_gb, self.nthreads, self.device = nproc, memory_gb, nthreads, device


CREWS = {
    "many images": (Of(), 1000, 1.0, Crew(8, 1)),
    "few images": (Of(), 15, 100.0, Crew()),
    "soon done": (Of(), 1000, 0.001, Crew()),
    "threads given": (Of(nthreads=4), 1000, 1.0, Crew(2, 4)),
    "all threads": (Of(nthreads=8), 1000, 1.0, Crew(1, 8)),
    "processes given": (Of(nproc=4), 1000, 0.001, Crew(4, 2)),
    "more than images": (Of(nproc=4), 2, 1.0, Crew(2, 4)),
    "both given": (Of(nproc=3, nthreads=5), 1000, 1.0, Crew(3, 5)),
    "one": (Of(nproc=1), 1000, 1.0, Crew()),
    "little memory": (Of(memory_gb=3.5), 1000, 1.0, Crew(3, 2)),
    "GPUs": (Of(device="cuda"), 1000, 1.0, Crew(4, None)),
    "a GPU": (Of(device="cuda:1"), 1000, 1.0, Crew()),
}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """8 cores, 4 GPUs, 100 GB; this process has 0.2 GB."""
    monkeypatch.setattr(resources, "cores", lambda: 8)
    monkeypatch.setattr(resources, "free_memory", lambda: 100e9)
    monkeypatch.setattr(resources, "resident", lambda: 0.2e9)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)


@pytest.mark.parametrize("name", CREWS)
def test_crews(name: str, machine: None) -> None:
    """Processes of 1 GB each: cores neither idle nor shared."""
    params, images, seconds, expected = CREWS[name]
    assert resources.crew(params, images, seconds, 1e9) == expected


def test_devices(machine: None) -> None:
    assert resources.devices_of("cuda") == ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]
    assert resources.devices_of("cuda:2") == ["cuda:2"] and resources.devices_of("cpu") == ["cpu"]


def test_too_many_processes_for_the_memory(machine: None) -> None:
    with pytest.raises(Sorry, match="mp.nproc=4 processes of about 1.00 GB .* give mp.nproc=3"):
        resources.crew(Of(nproc=4, memory_gb=3.5), 1000, 1.0, 1e9)


def test_cores_of_a_control_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """150 ms of CPU in 100 ms are two cores, if the process may use two."""
    mine = len(os.sched_getaffinity(0))
    for text, cores in (("max 100000", mine), ("150000 100000", min(2, mine)), ("garbage", mine)):
        monkeypatch.setattr(Path, "read_text", lambda self, text=text: text)
        assert resources.cores() == cores


# ---- memory and disk


def test_memory_that_may_not_be_taken(expt: str) -> None:
    said = sim.refused(expt, *sim.QUICK, "mp.memory_gb=0.01")
    assert "GB of memory, and may take 10 MB (mp.memory_gb=0.01): give more" in said


def test_memory_that_the_first_image_takes(expt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than was estimated: no second one is begun, the first is kept."""
    monkeypatch.setattr(resources, "memory_of", lambda *given: 1e6)
    said = "this needs about .* and may take 50 MB .mp.memory_gb=0.05"
    with pytest.raises(Sorry, match=said):
        sim.simulate(expt, *sim.QUICK, "mp.memory_gb=0.05", "mp.nproc=1")
    assert len(list(Path("simulated.parts").glob("part_*.json"))) == 1


def test_a_disk_that_is_too_small(expt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """60 images of 432 pixels of 4 bytes: 0.1 MB at least, known before anything is simulated; with
    compression after the first one, which is kept."""
    disk = resources.shutil.disk_usage(".")
    monkeypatch.setattr(resources.shutil, "disk_usage", lambda path: disk._replace(free=50_000))
    said = sim.refused(expt, *sim.QUICK, "output.format=raw")
    assert "the images need about 0.104 MB" in said and "has 0.05 MB free: make room" in said
    with pytest.raises(Sorry, match="59 images like the first need about .* make room"):
        sim.simulate(expt, *sim.QUICK)
    assert len(list(Path("simulated.parts").glob("part_*.json"))) == 1


MEASURE = """
import nanobragg_plugin, sys
from nanobragg_plugin.command_line import simulate
from nanobragg_plugin.run import resources, schedule
memory_of, estimates = resources.memory_of, []
resources.memory_of = lambda *args: estimates.append(memory_of(*args)) or estimates[-1]
resources.forget_peak()
simulate.run(sys.argv[1:])
print("MEMORY", estimates[0], resources.peak(), resources.resident())
"""


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no /proc")
@pytest.mark.parametrize(
    "pixels, more",
    [
        (24, ()),
        (1000, ()),
        (1000, ("output.truth=True",)),
        (1000, ("output.maps=True",)),
        (1000, ("detector.point_spread.shape=fiber", "detector.point_spread.fwhm_mm=0.12")),
    ],
)
def test_the_memory_is_what_was_estimated(pixels: int, more: tuple, tmp_cwd: Path) -> None:
    """Of a process of its own. Measured: 0.85 to 0.99 of the estimate; the estimate is not to be
    less than what is taken, nor far above."""
    path = sim.write_expt("models.expt", sim.sweep(), images=True)
    size = f"geometry.detector.panel.image_size={pixels},{pixels}"
    small = "geometry.detector.panel.pixel_size=0.02,0.02"
    process = subprocess.run(
        [sys.executable, "-c", MEASURE, path, *sim.QUICK, size, small, "mp.nproc=1", *more],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.returncode == 0, process.stderr
    (line,) = (line for line in process.stdout.splitlines() if line.startswith("MEMORY"))
    estimate, peak, _ = map(float, line.split()[1:])
    assert 0.7 < peak / estimate < 1.05
