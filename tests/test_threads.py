"""torch works on all cores in whatever order it, dxtbx and this package are imported.

Each order runs in a fresh interpreter. What is expected comes from an interpreter that imports
torch alone; whether threads really share the work is read from /proc/self/task, not from a clock.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="the threads of a process are read from /proc"
)

US = "import nanobragg_plugin"
MODELS = "import dxtbx.model.experiment_list"
FLEX = "import dials.array_family.flex"
REGISTRY = "import dxtbx.format.Registry"
TORCH = "import torch"
WARNING = "RuntimeWarning: PyTorch will compute on one thread"

# "default": torch's own number; "threads": how many more exist after it was asked to share a loop
# among five (an addition: MKL, which exp or a product would use, has threads of its own, and so
# has set_num_threads, for other things).
PROBE = """
import json, os
import torch
default = torch.get_num_threads()
torch.set_num_threads(5)
before = len(os.listdir("/proc/self/task"))
torch.ones(1 << 20).add_(1.0)
threads = len(os.listdir("/proc/self/task")) - before
print(json.dumps({"default": default, "set": torch.get_num_threads(), "threads": threads}))
"""
# In place: a loop that every thread runs whole adds more than once.
COMPILED = """
import contextlib
import nanobragg_plugin._threads as threads
def step(x, b):
    x.add_(b)
    return x.sum(1)
b = torch.arange(1e6, dtype=torch.float64).reshape(1000, 1000)
for context in (contextlib.nullcontext, threads.compiling):
    x = torch.zeros_like(b)
    torch.compiler.reset()
    with context():
        total = torch.compile(step)(x, b)
    assert torch.equal(x, b), (context, (x - b).abs().max())
    assert torch.allclose(total, b.sum(1), rtol=1e-14, atol=0), context
"""


def run(*lines: str, **environment: str) -> subprocess.CompletedProcess:
    """Run the lines in a fresh interpreter that may use every core."""
    inherited = {name: value for name, value in os.environ.items() if "_NUM_THREADS" not in name}
    return subprocess.run(
        [sys.executable, "-W", "always::RuntimeWarning", "-c", "\n".join(lines)],
        capture_output=True,
        text=True,
        env={**inherited, **environment},
    )


def probe(*lines: str) -> dict[str, int]:
    """What PROBE says after the lines."""
    done = run(*lines, PROBE)
    assert done.returncode == 0, done.stderr
    assert WARNING not in done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def torch_alone() -> dict[str, int]:
    """What a torch says that nobody interferes with."""
    return probe(TORCH)


@pytest.fixture(scope="module")
def stub() -> dict[str, int]:
    """What a torch says that came after dxtbx; skips where dxtbx brings no stub of OpenMP."""
    pytest.importorskip("dxtbx")
    found = probe(MODELS, TORCH)
    if found["set"] != 1:
        pytest.skip("this dxtbx leaves torch its threads")
    return found


def test_torch_alone_uses_all_cores(torch_alone: dict[str, int]) -> None:
    cores = len(os.sched_getaffinity(0))
    # On a machine with two hardware threads a core torch takes the cores.
    assert torch_alone["default"] in (cores, (cores + 1) // 2)
    assert torch_alone["set"] == 5
    assert torch_alone["threads"] == 4


def test_probe_sees_the_stub(stub: dict[str, int]) -> None:
    assert stub == {"default": 1, "set": 1, "threads": 0}


@pytest.mark.parametrize(
    "order",
    [
        (US, TORCH),
        (US, MODELS, TORCH),
        (TORCH, MODELS, US),
        (REGISTRY, US, MODELS, TORCH),
        (MODELS, US, TORCH),
        (FLEX, US, TORCH),
    ],
    ids=lambda order: ",".join(line.split()[1] for line in order),
)
def test_every_order_uses_all_cores(order: tuple[str, ...], torch_alone: dict[str, int]) -> None:
    for line in order:
        package = line.split()[1].split(".")[0]
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    assert probe(*order) == torch_alone


def test_warns_where_it_is_too_late(stub: dict[str, int]) -> None:
    done = run(MODELS, TORCH, US)
    assert done.returncode == 0
    assert WARNING in done.stderr


def test_gives_up_beside_another_allocator(stub: dict[str, int]) -> None:
    # Any library will do: what counts is that something is preloaded.
    done = run(MODELS, US, TORCH, "print(torch.get_num_threads())", LD_PRELOAD="libm.so.6")
    assert done.stdout.split() == ["1"]
    assert WARNING in done.stderr


def test_importing_loads_no_torch() -> None:
    done = run(US, "import sys", "assert 'torch' not in sys.modules")
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_code_adds_once(stub: dict[str, int], tmp_path: Path) -> None:
    # torch.compile's code asks the stub which thread it is, unless it is bound to torch's runtime.
    done = run(MODELS, US, TORCH, COMPILED, TORCHINDUCTOR_CACHE_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
