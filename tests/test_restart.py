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
    assert result["found"] == [] and result["killed"] >= kills and result["runs"] > 1
