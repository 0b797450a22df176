"""Functions of tensors compiled by torch.compile, where that pays and where it can be done.

Compiled code runs in one thread: callers share out batches among threads, each of which must
have one thread within torch (torch compiles again for another number). Shapes are dynamic, so
that a function is compiled once for all sizes. What is compiled is kept on disk
(TORCHINDUCTOR_CACHE_DIR): on a CPU (`ahead`) it takes some 20 seconds once on a machine and
milliseconds in each process after that; elsewhere torch.compile takes seconds in each.
"""

from __future__ import annotations

import contextlib
import math
import threading
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from nanobragg_plugin.kernels import ahead, channels, lattice_sum, reach

CONTRACT = "cpp.enable_floating_point_contract_flag"
OPTIONS = {
    "cpp.threads": 1,
    CONTRACT: "fast",
    # indices are clamped before they are used
    "assert_indirect_indexing": False,
    # one loop over all that a function does, without intermediate arrays; it follows each use of a
    # value to its beginning, so what a function uses again and again takes minutes to compile
    "realize_opcount_threshold": 1_000_000,
    "realize_reads_threshold": 1_000_000,
    "realize_acc_reads_threshold": 1_000_000,
}
#: The same, of torch.compile on CPUs: only code called from C++ lets other threads of Python run
#: meanwhile.
OPTIONS_CPU = {"cpp_wrapper": True}
#: More of them for slopes on CPUs, by the shape: what they use again stays a value, which takes a
#: third of the time to compile and runs as fast (other shapes' would run slower; measured).
SLOPES_CPU = {"gauss": {"realize_opcount_threshold": 100}}

_LOCK = threading.Lock()
_warned = False


@dataclass
class Compiled:
    """A function of tensors, run as it is until `want` has compiled it.

    example: small arguments on a device; dynamic: the dimensions that may have any size of two
    and more, {number of the argument: dimensions}; on_cpu: more options of the compiler.
    """

    function: Callable[..., Any]
    example: Callable[[torch.device], Sequence[Tensor]]
    dynamic: dict[int, tuple[int, ...]]
    on_cpu: dict[str, Any] = field(default_factory=dict)
    ready: dict[str, Callable[..., Any] | None] = field(default_factory=dict)

    def on(self, device: torch.device) -> Callable[..., Any] | None:
        """The compiled function, None unless it was wanted and could be made. To be called without
        gradients, with one thread within torch."""
        return self.ready.get(device.type)

    def want(self, device: torch.device) -> bool:
        """Compile it, once in a process; False, with one warning, where that fails."""
        with _LOCK:
            if device.type not in self.ready:
                self.ready[device.type] = self._compile(device)
        return self.ready[device.type] is not None

    def _compile(self, device: torch.device) -> Callable[..., Any] | None:
        try:
            with torch.no_grad(), one_thread():
                return self._compiled(device)
        except Exception as error:  # torch raises whatever its compilers do
            _warn(error)
            return None

    def _compiled(self, device: torch.device) -> Callable[..., Any]:
        tensors = self.example(device)
        expected = self.function(*tensors)
        if device.type == "cpu":
            with contextlib.suppress(Exception):  # what torch.compile cannot do either, it says
                return self._checked(self._ahead(tensors, expected), tensors, expected)
        return self._checked(self._in_process(device, tensors), tensors, expected)

    def _ahead(self, tensors: Sequence[Tensor], expected: Any) -> Callable[..., Any]:
        single = isinstance(expected, Tensor)
        options = partial(_options, **self.on_cpu)
        return ahead.load(self.function, tensors, self.dynamic, options, single)

    def _in_process(self, device: torch.device, tensors: Sequence[Tensor]) -> Callable[..., Any]:
        import torch._dynamo  # takes a second

        for number, dimensions in self.dynamic.items():
            for dimension in dimensions:
                torch._dynamo.mark_dynamic(tensors[number], dimension)
        # torch counts, and limits, what it compiles of one code: a device has its own
        function = own_code(self.function, f"{self.function.__name__}_{device.type}")
        more = {**OPTIONS_CPU, **self.on_cpu} if device.type == "cpu" else {}
        return torch.compile(function, options=_options(**more))

    @staticmethod
    def _checked(
        run: Callable[..., Any], tensors: Sequence[Tensor], expected: Any
    ) -> Callable[..., Any]:
        """A function, if it gives what is expected of tensors."""
        found = run(*tensors)
        kinds = type(found) is type(expected)
        if not (kinds and all(map(_alike, _tuple(found), _tuple(expected)))):
            raise RuntimeError("compiled code gives other results")
        return run


def _tuple(found: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return found if isinstance(found, tuple) else (found,)


def _alike(found: Tensor, expected: Tensor) -> bool:
    found, expected = found.double(), expected.double()
    return torch.allclose(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """With one thread within torch, which compiles again for another number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _options(**more: Any) -> dict[str, Any]:
    """Those that this torch knows; torch 2.5 has True for "fast"."""
    import torch._inductor.config as inductor

    known = inductor.get_config_copy()
    options = {**OPTIONS, **more}
    if isinstance(known.get(CONTRACT), bool):
        options[CONTRACT] = options[CONTRACT] == "fast"
    return {name: value for name, value in options.items() if name in known}


def _warn(error: Exception) -> None:
    global _warned
    if not _warned:
        _warned = True
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        warnings.warn(
            "torch.compile does not work here, so the simulation will be about 20 times slower "
            f"(is a C++ compiler installed?): {reason}",
            RuntimeWarning,
            stacklevel=2,
        )


@cache
def lattice_sum_of(xtal_shape: str, index: torch.dtype, value: torch.dtype) -> Compiled:
    """`lattice_sum` (nearest amplitudes) of s1_unit, Terms and Scatterer laid out as tensors."""

    def run(s1_unit: Tensor, maps: Tensor, weight: Tensor, *scatterer: Tensor) -> Tensor:
        terms = lattice_sum.Terms(maps, weight)
        made = lattice_sum.Scatterer(*scatterer, xtal_shape=xtal_shape)
        return lattice_sum.lattice_sum(s1_unit, terms, made)

    def example(device: torch.device) -> Sequence[Tensor]:
        return [
            _ramp(3, 40, dtype=index, device=device),
            _ramp(5, 3, 4, dtype=index, device=device),
            _ramp(5, dtype=value, device=device),
            *example_scatterer(value, device, index),
        ]

    return Compiled(
        own_code(run, f"lattice_sum_{xtal_shape}"), example, {0: (1,), 1: (0,), 2: (0,), 3: (0,)}
    )


@cache
def channels_of(
    xtal_shape: str, index: torch.dtype, value: torch.dtype, everything: bool, placed: bool
) -> Compiled:
    """`channels` of s1_unit, maps and a Scatterer laid out as tensors."""

    def run(s1_unit: Tensor, maps: Tensor, *scatterer: Tensor) -> tuple[Tensor, ...]:
        made = lattice_sum.Scatterer(*scatterer, xtal_shape=xtal_shape)
        return channels.channels(s1_unit, maps, made, everything, placed)

    def example(device: torch.device) -> Sequence[Tensor]:
        return [
            _ramp(3, 40, dtype=index, device=device),
            _ramp(5, 3, 4, dtype=index, device=device),
            *example_scatterer(value, device, index),
        ]

    name = f"channels_{xtal_shape}_{everything}_{placed}"
    more = SLOPES_CPU.get(xtal_shape, {})
    return Compiled(own_code(run, name), example, {0: (1,), 1: (0,), 2: (0,)}, more)


def exceeds(
    points: tuple[Tensor, ...],
    node: tuple[Tensor, ...],
    scatterer: tuple[Tensor, ...],
    s0_unit: Tensor,
    xtal_shape: str,
) -> Tensor:
    """`reach.exceeds`, compiled where it was wanted."""
    nodes, n = len(node[2]), points[0].shape[1]
    run = exceeds_of(xtal_shape, nodes == 1).on(points[0].device)
    if run is None or n < 2:
        return reach.exceeds(points, node, scatterer, s0_unit, xtal_shape)
    return run(*points, *node, *scatterer, s0_unit)


@cache
def exceeds_of(xtal_shape: str, single: bool) -> Compiled:
    """`reach.exceeds` of points, node, scatterer and s0_unit one after the other; single: of
    one node, of which torch makes code of its own."""

    def run(*tensors: Tensor) -> Tensor:
        return reach.exceeds(tensors[:3], tensors[3:6], tensors[6:12], tensors[12], xtal_shape)

    def example(device: torch.device) -> Sequence[Tensor]:
        of = {"dtype": torch.float32, "device": device}
        squares, box, ncells, fudge, _ = example_scatterer(**of)
        nodes = 1 if single else 5
        return [
            _ramp(3, 40, **of),
            *(_ramp(40, **of) for _ in range(2)),
            _ramp(nodes, 3, 4, **of),
            _ramp(nodes, 3, 3, **of) * 0.1,
            _ramp(nodes, **of),
            torch.cat([squares, squares * 2]),
            torch.tensor(len(squares), dtype=torch.int32, device=device),
            squares.amax(),
            box,
            ncells,
            fudge,
            _ramp(3, **of),
        ]

    dynamic = {0: (1,), 1: (0,), 2: (0,), 6: (0,)}
    if not single:
        dynamic.update({3: (0,), 4: (0,), 5: (0,)})
    return Compiled(own_code(run, f"exceeds_{xtal_shape}_{single}"), example, dynamic)


def example_scatterer(
    dtype: torch.dtype, device: torch.device, index: torch.dtype | None = None
) -> list[Tensor]:
    """The tensors of a Scatterer; index: the type of those that have it, if it is another."""
    index = index or dtype
    box = torch.tensor([[-2, -1, -2], [3, 3, 4], [35, 7, 1]], dtype=torch.int32, device=device)
    return [
        _ramp(6 * 35, dtype=dtype, device=device),
        box,
        torch.tensor([5.0, 4.0, 3.0], dtype=index, device=device),
        torch.ones((), dtype=dtype, device=device),
        torch.eye(3, dtype=index, device=device) * 1e-3,
    ]


def _ramp(*shape: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Numbers between 0 and 1, all different."""
    count = math.prod(shape)
    return ((torch.arange(count, device=device) * 0.6180339887 + 0.1) % 1).to(dtype).reshape(shape)


def own_code(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """The function with a code object of its own: torch counts, and limits, the versions that it
    compiles of one."""
    code = function.__code__.replace(co_name=name)
    made = types.FunctionType(code, function.__globals__, name, None, function.__closure__)
    return made
