"""nanoBragg.c's random numbers, so that its mosaic domains can be made again.

The minimal standard generator of Park & Miller (1988), Comm. ACM 31, 1192, with the
Bays-Durham shuffle, as `ran1` of nanoBragg.c: deviates in single precision.
"""

from __future__ import annotations

import struct

_A, _M, _Q, _R, _TABLE = 16807, 2147483647, 127773, 2836, 32


def float32(x: float) -> float:
    """x rounded to single precision."""
    return struct.unpack("f", struct.pack("f", x))[0]


_LARGEST = float32(1.0 - 1.2e-7)


class Ran1:
    """Uniform float32 deviates in (0, 1) of a seed (its absolute value; 0 counts as 1)."""

    def __init__(self, seed: int) -> None:
        self._state = max(abs(int(seed)), 1) % _M or 1
        shuffle = [self._next() for _ in range(_TABLE + 8)]
        self._table = shuffle[:7:-1]
        self._last = self._table[0]

    def _next(self) -> int:
        k = self._state // _Q
        self._state = _A * (self._state - k * _Q) - _R * k
        if self._state < 0:
            self._state += _M
        return self._state

    def __call__(self) -> float:
        drawn = self._next()
        slot = self._last // (1 + (_M - 1) // _TABLE)
        self._last = self._table[slot]
        self._table[slot] = drawn
        return min(float32(self._last * (1.0 / _M)), _LARGEST)
