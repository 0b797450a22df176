"""Fixtures of the whole suite. torch comes before dxtbx: see nanobragg_plugin/_threads.py."""

from __future__ import annotations

import importlib.util
import os
import random
import runpy
import shutil
from collections.abc import Callable, Iterator
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


@pytest.fixture(scope="module")
def compiled_slopes() -> Iterator[None]:
    """The slopes of all parameters are compiled, of the `square` and the `gauss` crystal."""
    from derivative_models import on_peaks

    from nanobragg_plugin.kernels import compiled
    from nanobragg_plugin.kernels.dense import Kernel

    if shutil.which(os.environ.get("CXX", "g++")) is None:
        pytest.skip("there is no C++ compiler")
    functions = compiled.lattice_sum_of, compiled.exceeds_of, compiled.channels_of
    for function in functions:
        function.cache_clear()
    for shape in ("square", "gauss"):
        kernel = Kernel(*on_peaks(30, shape, precision="mixed"))
        assert kernel.compile(for_sparse=shape == "square", slopes=(True, True))
    yield
    for function in functions:
        function.cache_clear()


@pytest.fixture
def same_threads() -> Iterator[None]:
    """Their number is what it was, afterwards."""
    count = torch.get_num_threads()
    yield
    torch.set_num_threads(count)


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch, tmp_cwd: Path) -> Callable[[str], dict]:
    """Loads an example as a module's dictionary."""
    examples = Path(__file__).resolve().parents[1] / "examples"
    monkeypatch.syspath_prepend(str(examples))
    return lambda name: runpy.run_path(str(examples / f"{name}.py"), run_name=name)
