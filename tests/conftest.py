"""Fixtures of the whole suite. torch comes before dxtbx: see nanobragg_plugin/_threads.py."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch

# Same examples on every run, however slow the machine is.
hypothesis.settings.register_profile("suite", deadline=None, derandomize=True)
hypothesis.settings.load_profile("suite")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is marked `dials` where there is no DIALS (the core's tests run without)."""
    if importlib.util.find_spec("dials") is None or importlib.util.find_spec("dxtbx") is None:
        skip = pytest.mark.skip(reason="DIALS is not installed")
        for item in items:
            if item.get_closest_marker("dials"):
                item.add_marker(skip)


@pytest.fixture(autouse=True)
def seeds() -> None:
    """Every test starts from the same random state."""
    random.seed(20)
    np.random.seed(20)
    torch.manual_seed(20)


@pytest.fixture
def shared() -> Path:
    """The folder `shared` beside the repository, which holds the reference images."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("there is no folder `shared` beside the repository")
    return folder


@pytest.fixture
def tmp_cwd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is the working directory while the test runs."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
