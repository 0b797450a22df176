"""Imports follow the arrows of the architecture, and the core needs no DIALS."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from import_arrows import DIALS, PACKAGE, layer, read_package, violations

if sys.version_info < (3, 10):
    pytest.skip("sys.stdlib_module_names came with Python 3.10", allow_module_level=True)

ROOT = Path(__file__).resolve().parents[1]
HEAD = "from __future__ import annotations\nimport math\n"
# A package that breaks no rule; each bad case below changes one module of it.
GOOD = {
    "": "from nanobragg_plugin import _threads",
    "_threads": "import ctypes",
    "constants": "",
    "models": "import torch\nfrom nanobragg_plugin.constants import R_E_SQR",
    "lattice": "import torch\nfrom nanobragg_plugin.constants import R_E_SQR",
    "kernels": "",
    "kernels.reference": "import torch\nfrom nanobragg_plugin.models import Panel",
    "kernels.dense": "from nanobragg_plugin import lattice",
    "simulate": "from nanobragg_plugin.kernels import dense",
    "phil": "from importlib import resources",
    "adapters": "",
    "adapters.frames": "import numpy as np\nfrom dxtbx.model import Panel",
    "adapters.models": "import torch\nfrom nanobragg_plugin.models import Panel",
    "format": "",
    "format.FormatX": (
        "from dxtbx.format.FormatNXmx import FormatNXmx\nfrom ..adapters import frames\n"
        "def read():\n    from nanobragg_plugin import simulate\n"
        "    from nanobragg_plugin.run import sweep\n"
    ),
    "run": "",
    "run.sweep": "from nanobragg_plugin.simulate import simulate",
    "command_line": "",
    "command_line.simulate": "from dials.util import log\nfrom nanobragg_plugin.run import job",
}
BAD = {
    "the core imports dxtbx": ("models", "import dxtbx.model"),
    "… inside a function": ("models", "def f():\n    from dxtbx.model import Panel"),
    "… by its name in a string": ("models", "import importlib\nimportlib.import_module('dxtbx')"),
    "the core imports numpy": ("lattice", "import numpy as np"),
    "the core imports an adapter": ("lattice", "from nanobragg_plugin.adapters import models"),
    "… by a relative import": ("lattice", "from .adapters.models import panel"),
    "a kernel imports simulate": ("kernels.dense", "from nanobragg_plugin import simulate"),
    "… by a relative import of a sub-package": ("kernels.dense", "from ..simulate import simulate"),
    "the core imports a kernel": ("lattice", "from nanobragg_plugin.kernels.dense import Kernel"),
    "constants imports a step": ("constants", "from nanobragg_plugin import lattice"),
    "two modules import each other": ("models", "from nanobragg_plugin.kernels.dense import x"),
    "an adapter runs the simulation": (
        "adapters.models",
        "from nanobragg_plugin.simulate import simulate",
    ),
    "physics in a command": (
        "command_line.simulate",
        "from nanobragg_plugin.lattice import squared",
    ),
    "a command is imported": ("run.sweep", "from nanobragg_plugin.command_line import simulate"),
    "the reference is used": (
        "simulate",
        "from nanobragg_plugin.kernels.reference import Kernel",
    ),
    "the reference is used by a kernel": (
        "kernels.dense",
        "from nanobragg_plugin.kernels import reference",
    ),
    "the reference borrows a helper": (
        "kernels.reference",
        "from nanobragg_plugin.lattice import squared",
    ),
    "the reference borrows a module": (
        "kernels.reference",
        "from nanobragg_plugin import lattice",
    ),
    "a format class imports torch": ("format.FormatX", "import torch"),
    "… under a condition": ("format.FormatX", "try:\n    import torch\nexcept ImportError: pass"),
    "… through an adapter": ("format.FormatX", "from nanobragg_plugin.adapters import models"),
    "… through its own package": ("format", "from nanobragg_plugin.adapters.models import panel"),
    "a format class simulates": ("format.FormatX", "from nanobragg_plugin import simulate"),
    "a format class imports the run": ("format.FormatX", "from nanobragg_plugin.run import sweep"),
    "phil parses": ("phil", "from libtbx.phil import parse"),
    "a package nobody declared": ("run.sweep", "import pandas"),
}


def test_imports_follow_the_arrows() -> None:
    sources = read_package(ROOT)
    assert {"constants", "simulate", "kernels.reference", "phil", "format"} <= sources.keys()
    assert violations(sources) == []


def test_checker_passes_a_good_package() -> None:
    assert violations({name: HEAD + text for name, text in GOOD.items()}) == []


@pytest.mark.parametrize("case", BAD)
def test_checker_finds(case: str) -> None:
    module, line = BAD[case]
    sources = {name: HEAD + text for name, text in GOOD.items()}
    found = violations({**sources, module: HEAD + line})
    assert any(text.startswith(module) for text in found), found


def test_checker_finds_cycles() -> None:
    sources = {
        **GOOD,
        "cell": "from nanobragg_plugin.rotation import x",
        "rotation": "from nanobragg_plugin import cell",
    }
    assert violations(sources) == ["cell -> rotation: modules that import each other"]


def test_core_needs_no_dials() -> None:
    core = [
        f"{PACKAGE}.{name}".rstrip(".")
        for name in read_package(ROOT)
        if layer(name) in ("bottom", "core", "kernels", "simulate", "phil")
    ]
    assert len(core) > 10
    script = f"""
import importlib, sys
class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {sorted(DIALS)!r}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Nothing())
for name in {core!r}:
    importlib.import_module(name)
"""
    _run(script)


def test_format_class_does_not_load_torch() -> None:
    pytest.importorskip("dxtbx")
    modules = [name for name in read_package(ROOT) if layer(name) == "format"]
    _run(
        "import importlib, sys\n"
        f"for name in {modules!r}: importlib.import_module(f'{PACKAGE}.{{name}}')\n"
        "assert 'torch' not in sys.modules"
    )


def _run(script: str) -> None:
    """Run a script in a fresh interpreter; its traceback is the failure's message."""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
