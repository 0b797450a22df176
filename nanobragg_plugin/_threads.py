"""torch on all cores, whichever of torch, dxtbx and this package is imported first.

cctbx loads `libomptbx`, a stub of the OpenMP runtime that knows one thread only, for every library
loaded after it. A torch imported later asks the stub how many threads there are, and stays on one
without a word. `prepare`, called when `nanobragg_plugin` is imported, prevents that:

* before the stub it loads torch's OpenMP runtime (some milliseconds, torch itself is not imported):
  the first of two libraries that know a name answers for it;
* after the stub it can do nothing until torch is imported, and then loads torch's library so that
  it asks its own runtime first (RTLD_DEEPBIND, glibc only). The code that torch.compile makes is
  not helped by this and would run whole in every thread, wrong where it adds in place: it is held
  to one thread, except inside `compiling()`;
* after the stub and after torch it is too late: it warns.

Measured with torch 2.13 and Debian's DIALS 3.12. Nothing here imports torch.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import sys
import warnings
from collections.abc import Iterator
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

STUB = "libomptbx"
TOO_LATE = (
    "PyTorch will compute on one thread: dxtbx or cctbx was imported before torch. "
    "Import nanobragg_plugin or torch before them."
)


class _SymbolOwner(ctypes.Structure):
    """Dl_info of <dlfcn.h>."""

    _fields_ = [
        ("dli_fname", ctypes.c_char_p),
        ("dli_fbase", ctypes.c_void_p),
        ("dli_sname", ctypes.c_char_p),
        ("dli_saddr", ctypes.c_void_p),
    ]


def openmp_library() -> str | None:
    """The file that answers OpenMP's questions for libraries loaded from now on; None: no file."""
    everything = ctypes.CDLL(None)
    try:
        function = ctypes.cast(everything.omp_get_max_threads, ctypes.c_void_p)
    except AttributeError:
        return None
    owner = _SymbolOwner()
    if not everything.dladdr(function, ctypes.byref(owner)) or owner.dli_fname is None:
        return None
    return os.fsdecode(owner.dli_fname)


def is_stubbed() -> bool:
    """Whether cctbx's stub answers OpenMP's questions for libraries loaded from now on."""
    return STUB in Path(openmp_library() or "").name


def prepare() -> None:
    """See to it that torch, imported or not, uses all cores; harmless where nothing is to do."""
    if not sys.platform.startswith("linux"):
        return
    if is_stubbed():
        if "torch" not in sys.modules:
            sys.meta_path.insert(0, _BeforeTorch())
        elif _AfterInductorConfig.active is None:
            warnings.warn(TOO_LATE, RuntimeWarning, stacklevel=3)
    elif "torch" not in sys.modules:
        runtime = _torch_runtime()
        if runtime is not None:
            with contextlib.suppress(OSError):  # torch then looks for its runtime by itself
                ctypes.CDLL(str(runtime), mode=ctypes.RTLD_GLOBAL)


@contextlib.contextmanager
def compiling() -> Iterator[None]:
    """Let torch.compile use all cores, for code compiled and first called in this context."""
    if _AfterInductorConfig.active is None:
        yield
        return
    import torch
    import torch._inductor.config as inductor

    flags = sys.getdlopenflags()
    sys.setdlopenflags(flags | os.RTLD_DEEPBIND)
    try:
        with inductor.patch({"cpp.threads": torch.get_num_threads()}):
            yield
    finally:
        sys.setdlopenflags(flags)


def _torch_folder() -> Path | None:
    """The folder of the torch that would be imported."""
    spec = importlib.util.find_spec("torch")
    return None if spec is None or spec.origin is None else Path(spec.origin).parent


def _torch_runtime() -> Path | None:
    """The library that brings the OpenMP runtime torch was built with, no other one.

    A wheel of PyPI carries its libgomp; for other builds (conda's, with LLVM's runtime) it is
    what torch itself loads first, a library that only depends on the right ones.
    """
    folder = _torch_folder()
    if folder is None:
        return None
    candidates = [
        *sorted((folder / "lib").glob("libgomp*.so*")),
        *sorted((folder.parent / "torch.libs").glob("libgomp*.so*")),
        folder / "lib" / "libtorch_global_deps.so",
    ]
    return next((path for path in candidates if path.is_file()), None)


class _BeforeTorch(MetaPathFinder):
    """Binds torch's library to its own runtime at the moment torch is imported."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Never finds anything: the import goes on as it would have."""
        if name != "torch":
            return None
        sys.meta_path.remove(self)
        folder = _torch_folder()
        # With an allocator preloaded, two allocators would free each other's memory.
        if folder is None or "LD_PRELOAD" in os.environ or not hasattr(os, "RTLD_DEEPBIND"):
            warnings.warn(TOO_LATE, RuntimeWarning, stacklevel=2)
            return None
        try:
            ctypes.CDLL(
                str(folder / "lib" / "libtorch_cpu.so"), mode=os.RTLD_NOW | os.RTLD_DEEPBIND
            )
        except OSError:
            warnings.warn(TOO_LATE, RuntimeWarning, stacklevel=2)
        else:
            _AfterInductorConfig.active = _AfterInductorConfig()
            sys.meta_path.insert(0, _AfterInductorConfig.active)
        return None


class _AfterInductorConfig(MetaPathFinder):
    """Holds torch.compile's C++ code to one thread as soon as its settings are imported."""

    active: _AfterInductorConfig | None = None

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """The spec of torch's settings with one more step in its loader."""
        if name != "torch._inductor.config":
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name, path)
        load = spec.loader.exec_module

        def load_and_set(module: object) -> None:
            load(module)
            module.cpp.threads = 1

        spec.loader.exec_module = load_and_set
        return spec
