# ruff: noqa: E402
"""Runs that are killed at random moments end as those that are not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("dials")

import simulate_helpers as sim

DRIVER = Path(__file__).with_name("restart_driver.py")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize(
    "kills, more",
    [
        (20, ()),
        (15, ("output.joined=False", "output.images_per_part=3", "output.truth=True")),
        (15, ("output.format=smv",)),
    ],
)
def test_killed_at_random_moments(kills: int, more: tuple[str, ...], tmp_cwd: Path) -> None:
    """50 kills in all: nothing is lost, nothing is doubled, nothing is left."""
    path = sim.write_expt("models.expt", sim.sweep(scan=sim.scan(images=20)), images=True)
    done = subprocess.run(
        [sys.executable, DRIVER, "7", str(kills), path, *sim.QUICK, "mp.nproc=1", *more],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["found"] == [] and result["killed"] >= kills and result["runs"] >= 1


FULL_DISK = Path(__file__).with_name("full_disk_driver.py")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can mount")
def test_disks_that_are_full_sooner_or_later(tmp_cwd: Path) -> None:
    """4 images of 1.44 MB, and as much again when they are joined, on disks of 0 to 21 MB: one
    sentence, never a crash, and what is whole is kept. HDF5 writes the rest as it closes a file,
    for which some space is held."""
    path = sim.write_expt("models.expt", sim.sweep(scan=sim.scan(images=4)), images=True)
    folder = tmp_cwd / "disk"
    folder.mkdir()
    probe = ["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", str(folder)]
    if subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("this machine mounts no tmpfs")
    subprocess.run(["umount", str(folder)], check=True)
    sizes = [8, 4000, *range(8300, 21000, 610)]
    size = "geometry.detector.panel.image_size=600,600"
    words = ["output.compression=none", "mp.nproc=1", "output.log=None", size]
    given = [",".join(map(str, sizes)), str(tmp_cwd / path), *sim.QUICK, *words]
    done = subprocess.run(
        [sys.executable, FULL_DISK, str(folder), *given],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one[0] for one in found] == sizes
    kept = set()
    for kilobytes, status, said, names in found:
        if status == 0:
            assert "simulated.nxs" in names and "simulated.parts" not in names
            continue
        assert status == 1 and said.startswith("Sorry: ") and said.count("\n") == 1, (
            kilobytes,
            said,
        )
        assert "cannot be written: " in said and "make room" in said
        ledgers = [name for name in names if name.startswith("simulated.parts/part_")]
        parts = [name for name in names if name.endswith(".h5")]
        assert len(ledgers) == len(parts) and "simulated.nxs" not in names
        kept.add(len(parts))
    assert kept == {0, 1, 2, 3, 4} and found[-1][1] == 0
