"""Masks and maps as DIALS pickles them, read without Python's unpickler and without their classes.

A pickle can call anything, fill the memory with a few bytes, and flex reads what it is given
without a look at its end. Files that an experiment list names may come from strangers, so the few
opcodes of binary pickles (protocols 2 to 5, https://peps.python.org/pep-3154 and Python's
`pickletools`) that these files have are executed here, and their few kinds of object are decoded,
by the formats of cctbx's `scitbx/serialization/single_buffered.h` and `base_256.h`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

#: Opcodes; a panel needs some twenty.
MAX_OPCODES = 100_000
#: Pixels along an edge.
MAX_EDGE = 1 << 31


def read(data: bytes, kind: str) -> list[np.ndarray]:
    """The arrays of a pickled flex, or tuple of flex, of `kind` bool or double.

    ValueError if that is not what the bytes hold. Takes time and memory in proportion to them.
    """
    found = _Machine(data, kind).run()
    found = [found] if isinstance(found, _Flex) else found
    if not isinstance(found, (tuple, list)) or not all(isinstance(f, _Flex) for f in found):
        raise ValueError(f"it holds no arrays but a {type(found).__name__}")
    if not found or any(flex.values is None for flex in found):
        raise ValueError("it holds no array, or one without values")
    return [flex.values for flex in found]


class _Grid:
    """flex.grid: the shape of an array that begins at 0."""

    def __init__(self, origin: Any = (), last: Any = (), is_open: Any = True) -> None:
        if not (_whole_numbers(origin) and _whole_numbers(last) and isinstance(is_open, bool)):
            raise ValueError("its array has no shape")
        self.shape = tuple(end + (not is_open) for end in last)
        smallest, largest = min(self.shape, default=0), max(self.shape, default=0)
        if any(origin) or len(origin) != len(last) or smallest < 0 or largest > MAX_EDGE:
            raise ValueError(f"its array is from {origin} to {last}"[:200])

    def set_state(self, focus: Any) -> None:
        if not _whole_numbers(focus) or focus != self.shape:
            raise ValueError(f"its array of {self.shape} is padded"[:200])


class _Flex:
    values: np.ndarray | None = None

    def set_state(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 2:
            raise ValueError("it holds no array")
        grid, data = state
        if not isinstance(grid, _Grid) or not isinstance(data, bytes):
            raise ValueError("it holds no array")
        number, begin = _integer(data, 0)
        if number != math.prod(grid.shape):
            raise ValueError(f"it has {number} values for an array of {grid.shape}"[:200])
        self.values = self._decoded(data[begin:], number).reshape(grid.shape)

    @staticmethod
    def _decoded(data: bytes, number: int) -> np.ndarray:
        raise NotImplementedError


class _Bools(_Flex):
    @staticmethod
    def _decoded(data: bytes, number: int) -> np.ndarray:
        """A character 0 or 1 for each."""
        characters = np.frombuffer(data, dtype=np.uint8)
        if len(characters) != number or not np.isin(characters, (48, 49)).all():
            raise ValueError("its values are not 0 and 1")
        return characters == 49


class _Doubles(_Flex):
    @staticmethod
    def _decoded(data: bytes, number: int) -> np.ndarray:
        """For each the bytes of a mantissa, most significant first, and a power of 2."""
        if number > len(data):
            raise ValueError("it ends early")
        values, at = np.empty(number), 0
        for i in range(number):
            length = data[at] & 127 if at < len(data) else 1
            if length == 0:
                values[i], at = 0.0, at + 1
                continue
            end = at + length
            if end >= len(data):
                raise ValueError("it ends early")
            mantissa = int.from_bytes(data[at + 1 : end], "big")
            power, after = _integer(data, end)
            try:
                value = math.ldexp(mantissa, power - 8 * (length - 1))
            except OverflowError:
                raise ValueError("it has a value that is too large") from None
            values[i], at = -value if data[at] & 128 else value, after
        if at != len(data):
            raise ValueError("it does not end where its values do")
        return values


def _whole_numbers(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) < 9 and all(type(one) is int for one in value)


def _integer(data: bytes, at: int) -> tuple[int, int]:
    """An integer, and where it ends: the number of its bytes (128 more if it is negative), itself
    counted, and they, least significant first."""
    if at >= len(data):
        raise ValueError("it ends early")
    length = data[at] & 127
    end = at + max(length, 1)
    if end > len(data):
        raise ValueError("it ends early")
    value = int.from_bytes(data[at + 1 : end], "little")
    return -value if data[at] & 128 else value, end


class _Mark:
    """Where a tuple or list of any length begins on the stack."""


class _Machine:
    """The stack, the memory and the place in the bytes of a pickle."""

    def __init__(self, data: bytes, kind: str) -> None:
        self.data, self.at = data, 0
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.classes = {"grid": _Grid, kind: {"bool": _Bools, "double": _Doubles}[kind]}

    def run(self) -> Any:
        """The object that is pickled."""
        done = 0
        while True:
            opcode = self.take(1)
            if opcode == b".":
                if len(self.stack) != 1:
                    raise ValueError("it is no whole pickle")
                return self.stack[0]
            if opcode not in _OPCODES:
                raise ValueError(f"it is no pickle of an array: it has {opcode!r} at {self.at - 1}")
            _OPCODES[opcode](self)
            done += 1
            if done > MAX_OPCODES:
                raise ValueError("it holds too many objects")

    def take(self, number: int) -> bytes:
        if self.at + number > len(self.data):
            raise ValueError("it ends early")
        self.at += number
        return self.data[self.at - number : self.at]

    def number(self, n_bytes: int, signed: bool = False) -> int:
        return int.from_bytes(self.take(n_bytes), "little", signed=signed)

    def pop(self) -> Any:
        if not self.stack:
            raise ValueError("it is no whole pickle")
        return self.stack.pop()

    def pop_to_mark(self) -> list[Any]:
        found = []
        while not isinstance(one := self.pop(), _Mark):
            found.append(one)
        return found[::-1]

    def line(self) -> str:
        end = self.data.find(b"\n", self.at, self.at + 200)
        if end < 0:
            raise ValueError("it ends early")
        text = self.take(end + 1 - self.at)[:-1]
        return text.decode("latin-1")

    def class_of(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("it holds a class without a name")
        if name in self.classes and module.endswith("array_family_flex_ext"):
            self.stack.append(self.classes[name])
            return
        raise ValueError(f"it holds a {ascii(module + '.' + name)[1:-1]}"[:200])

    def call(self) -> None:
        arguments, made = self.pop(), self.pop()
        if made not in self.classes.values() or not isinstance(arguments, tuple):
            raise ValueError("it calls what is no array")
        if len(arguments) > (3 if made is _Grid else 0):
            raise ValueError("it holds no array")
        self.stack.append(made(*arguments))

    def build(self) -> None:
        state, target = self.pop(), self.pop()
        if not isinstance(target, (_Grid, _Flex)):
            raise ValueError("it holds no array")
        target.set_state(state)
        self.stack.append(target)

    def tuple_of(self, number: int) -> None:
        self.stack.append(tuple(self.pop() for _ in range(number))[::-1])

    def append(self, items: list[Any]) -> None:
        target = self.pop()
        if not isinstance(target, list):
            raise ValueError("it is no pickle of an array")
        target.extend(items)
        self.stack.append(target)

    def remember(self, place: int) -> None:
        if not self.stack:
            raise ValueError("it is no whole pickle")
        self.memo[place] = self.stack[-1]

    def recall(self, place: int) -> None:
        if place not in self.memo:
            raise ValueError("it is no whole pickle")
        self.stack.append(self.memo[place])


def _push(value: Callable[[_Machine], Any]) -> Callable[[_Machine], None]:
    return lambda machine: machine.stack.append(value(machine))


def _text(n_bytes: int) -> Callable[[_Machine], None]:
    return _push(lambda m: m.take(m.number(n_bytes)).decode("utf-8", "replace"))


def _bytes(n_bytes: int) -> Callable[[_Machine], None]:
    return _push(lambda m: m.take(m.number(n_bytes)))


def _stack_global(machine: _Machine) -> None:
    name = machine.pop()
    machine.class_of(machine.pop(), name)


#: The opcodes that may occur; PROTO and FRAME say nothing that is needed.
_OPCODES: dict[bytes, Callable[[_Machine], Any]] = {
    b"\x80": lambda m: m.take(1),
    b"\x95": lambda m: m.take(8),
    b"(": _push(lambda m: _Mark()),
    b")": _push(lambda m: ()),
    b"]": _push(lambda m: []),
    b"t": lambda m: m.stack.append(tuple(m.pop_to_mark())),
    b"\x85": lambda m: m.tuple_of(1),
    b"\x86": lambda m: m.tuple_of(2),
    b"\x87": lambda m: m.tuple_of(3),
    b"a": lambda m: m.append([m.pop()]),
    b"e": lambda m: m.append(m.pop_to_mark()),
    b"\x88": _push(lambda m: True),
    b"\x89": _push(lambda m: False),
    b"K": _push(lambda m: m.number(1)),
    b"M": _push(lambda m: m.number(2)),
    b"J": _push(lambda m: m.number(4, signed=True)),
    b"\x8a": _push(lambda m: m.number(m.number(1), signed=True)),
    b"X": _text(4),
    b"\x8c": _text(1),
    b"C": _bytes(1),
    b"U": _bytes(1),
    b"B": _bytes(4),
    b"T": _bytes(4),
    b"\x8e": _bytes(8),
    b"c": lambda m: m.class_of(m.line(), m.line()),
    b"\x93": _stack_global,
    b"R": lambda m: m.call(),
    b"b": lambda m: m.build(),
    b"q": lambda m: m.remember(m.number(1)),
    b"r": lambda m: m.remember(m.number(4)),
    b"\x94": lambda m: m.remember(len(m.memo)),
    b"h": lambda m: m.recall(m.number(1)),
    b"j": lambda m: m.recall(m.number(4)),
}
