"""Functions of tensors compiled ahead of time: machine code in a file, which any process loads in
milliseconds (torch.compile takes seconds in each, to find what it has on disk already).

The files are libraries made by torch's AOTInductor, in a folder of the user's own beside what
torch.compile keeps. Their C functions are called by ctypes, which lets other threads of Python run
meanwhile; torch's own way to call them does not. A library takes tensors as they lie in memory,
unchecked: `Loaded` gives it none of another kind or layout than those it was made of.
"""

from __future__ import annotations

import ctypes
import fcntl
import getpass
import hashlib
import logging
import os
import platform
import re
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

PACKAGE = __name__.partition(".")[0]
#: Where torch's compiler keeps what it has made.
CACHE = "TORCHINDUCTOR_CACHE_DIR"
#: Calls of a library that may run side by side, for each core.
CALLS = 2

logger = logging.getLogger("dials.nanobragg_plugin.kernels.ahead")

Function = Callable[..., Any]
#: Dimensions that may have any size of two and more, by the number of the argument.
Dynamic = dict[int, tuple[int, ...]]


def load(
    function: Function,
    examples: Sequence[Tensor],
    dynamic: Dynamic,
    options: Callable[[], dict[str, Any]],
    single: bool,
) -> Loaded:
    """The function for tensors on a CPU, compiled if it never was; options: those of torch's
    compiler, asked for only then; single: whether it gives a tensor, not a tuple. Raises whatever
    torch and its compilers do."""
    path = _folder() / f"{function.__name__}-{_key(examples)}.so"
    with open(path.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another process may be at it
        if not _is_whole(path):  # a part of a library, loaded, would end the process
            logger.info("Compiling %s for this machine: 20 to 60 s, once", function.__name__)
            _make(function, examples, dynamic, options(), path)
        return Loaded(path, examples, dynamic, single)


def _make(
    function: Function,
    examples: Sequence[Tensor],
    dynamic: Dynamic,
    options: dict[str, Any],
    path: Path,
) -> None:
    class Module(torch.nn.Module):
        def forward(self, *tensors: Tensor) -> Any:
            return function(*tensors)

    shapes = [
        {dimension: torch.export.Dim.DYNAMIC for dimension in dynamic.get(number, ())}
        for number in range(len(examples))
    ]
    with tempfile.TemporaryDirectory(dir=path.parent) as made, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about itself
        program = torch.export.export(Module(), tuple(examples), dynamic_shapes=(tuple(shapes),))
        from torch._inductor import aoti_compile_and_package  # takes seconds

        package = aoti_compile_and_package(
            program, package_path=str(Path(made) / "code.pt2"), inductor_configs=options
        )
        with zipfile.ZipFile(package) as parts:
            (name,) = (name for name in parts.namelist() if name.endswith(".so"))
            library = parts.read(name)
        whole = Path(made, "library.so")
        whole.write_bytes(library + _digest(library))  # loaders do not look beyond the end
        os.replace(whole, path)


def _digest(code: bytes) -> bytes:
    return hashlib.sha256(code).digest()


def _is_whole(path: Path) -> bool:
    """Whether a library is there, as it was written."""
    try:
        found = path.read_bytes()
    except FileNotFoundError:
        return False
    size = hashlib.sha256().digest_size
    return _digest(found[:-size]) == found[-size:]


def _folder() -> Path:
    """Where libraries are kept. PermissionError where others could put theirs."""
    base = os.environ.get(CACHE)
    if not base:  # as torch has it, which sets the variable sooner or later
        user = re.sub(r'[\\/:*?"<>|]', "_", getpass.getuser())
        base = os.path.join(tempfile.gettempdir(), f"torchinductor_{user}")
    folder = Path(base, PACKAGE)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.stat()
    if found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise PermissionError(f"others can write to {folder}")
    return folder


def _key(examples: Sequence[Tensor]) -> str:
    """Another for whatever would be compiled otherwise."""
    kinds = [(one.dtype, one.shape) for one in examples]
    known = (torch.__version__, torch.version.git_version, sys.version, _processor(), kinds)
    return hashlib.sha256(repr((known, _sources())).encode()).hexdigest()[:32]


@cache
def _processor() -> str:
    """What it can: code is compiled for this one."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        wanted = ("model name", "flags", "Features", "CPU part")
        found = sorted({line for line in lines if line.startswith(wanted)})
    except OSError:
        found = [platform.processor()]
    return repr((platform.machine(), found))


@cache
def _sources() -> list[str]:
    """Digests of the code that may be compiled."""
    return sorted(hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in _files())


def _files() -> set[str]:
    """Of all modules of this package that `compiled` makes use of, itself or by others."""
    waiting, files = [sys.modules[f"{PACKAGE}.kernels.compiled"]], set()
    while waiting:
        module = waiting.pop()
        if module.__file__ not in files:
            files.add(module.__file__)
            waiting += _used(module)
    return files


def _used(module: ModuleType) -> list[ModuleType]:
    """The modules of this package of which one has something."""
    found = []
    for value in vars(module).values():
        name = getattr(value, "__name__" if isinstance(value, ModuleType) else "__module__", None)
        if isinstance(name, str) and name.startswith(f"{PACKAGE}.") and name in sys.modules:
            found.append(sys.modules[name])
    return found


class Loaded:
    """The function of a library. Arguments as its examples, but for the sizes of dynamic
    dimensions, of which those that are equal in the examples are equal; ValueError if they are
    not."""

    def __init__(
        self, path: Path, examples: Sequence[Tensor], dynamic: Dynamic, single: bool
    ) -> None:
        """OSError where the file is no library for this machine and torch."""
        self._single, self._dynamic = single, dynamic
        self._examples = [(tensor.dtype, tensor.shape) for tensor in examples]
        self._library = ctypes.CDLL(str(path))
        self._model = ctypes.c_void_p()
        calls = ctypes.c_size_t(CALLS * (os.cpu_count() or 1))
        self._call("CreateWithDevice", ctypes.byref(self._model), calls, b"cpu", None)
        count = ctypes.c_size_t()
        self._call("GetNumOutputs", self._model, ctypes.byref(count))
        self._outputs = count.value

    def _call(self, name: str, *arguments: Any) -> None:
        try:
            function = getattr(self._library, f"AOTInductorModelContainer{name}")
        except AttributeError as error:
            raise OSError(f"the library has no function {name}") from error
        if function(*arguments) != 0:
            raise RuntimeError(f"compiled code failed ({name})")

    def __call__(self, *tensors: Tensor) -> Tensor | tuple[Tensor, ...]:
        tensors = [tensor.contiguous() for tensor in tensors]
        if not self._fits(tensors):
            given = [(tensor.dtype, tensor.shape, tensor.device) for tensor in tensors]
            raise ValueError(f"compiled for tensors like {self._examples}, not for {given}")
        # each side hands over what it has made: the library frees the inputs, torch the outputs
        inputs = torch._C._aoti.unsafe_alloc_void_ptrs_from_tensors(tensors)
        given = (ctypes.c_void_p * len(inputs))(*(_address(one, None) for one in inputs))
        found = (ctypes.c_void_p * self._outputs)()
        sizes = ctypes.c_size_t(len(inputs)), ctypes.c_size_t(self._outputs)
        self._call("Run", self._model, given, sizes[0], found, sizes[1], None, None)
        made = torch._C._aoti.alloc_tensors_by_stealing_from_void_ptrs(list(map(_capsule, found)))
        return made[0] if self._single else tuple(made)

    def _fits(self, tensors: Sequence[Tensor]) -> bool:
        """Whether these are tensors that the library may be given."""
        sizes: dict[int, int] = {}
        if len(tensors) != len(self._examples):
            return False
        for number, (tensor, (dtype, shape)) in enumerate(zip(tensors, self._examples)):
            if tensor.dtype != dtype or tensor.dim() != len(shape) or not tensor.is_cpu:
                return False
            dynamic = self._dynamic.get(number, ())
            for dimension, (size, example) in enumerate(zip(tensor.shape, shape)):
                if dimension not in dynamic:
                    if size != example:
                        return False
                elif size < 2 or sizes.setdefault(example, size) != size:
                    return False
        return True


_address = ctypes.pythonapi.PyCapsule_GetPointer
_address.restype, _address.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype = ctypes.py_object
_new_capsule.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)


def _capsule(address: int) -> Any:
    return _new_capsule(address, None, None)
