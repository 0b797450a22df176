"""Functions of sin(theta)/lambda that tables give, and what pixels see of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

#: A pixel narrower than this part of the table's finest interval is taken at its middle.
FINE = 0.1
#: The shorter side of what a pixel sees, over the longer one, at least: less would be a difference
#: of rounding errors, and does not change what is seen.
SHORTEST = 0.05


@dataclass(frozen=True)
class Curve:
    """stol [n], 1/Angstrom, rising; a, b, c [n - 1]: between two points a + b t + c t^2, t from the
    first of them; beyond the ends it stays as it is there. It is nowhere negative."""

    stol: Tensor
    a: Tensor
    b: Tensor
    c: Tensor

    def at(self, x: Tensor) -> Tensor:
        """Values at x [...]."""
        return self._value(*self._inside(x)[:2])

    def mean(self, x: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """Means [...] over pixels whose middles are at x [...] and whose sides are `first` and
        `second` [...] long in x, not negative.

        x is taken to grow evenly along either side, so that a pixel's x are distributed as the sum
        of two evenly distributed ones: the mean is the second difference, over the sides, of the
        function's double integral, exactly, however narrow its peaks; the pixels that lie across
        a peak see all of it.
        """
        long, short = torch.maximum(first, second), torch.minimum(first, second)
        wide = long > FINE * self._steps.min()
        if not bool(wide.any()):
            return self.at(x)
        long = torch.where(wide, long, 1.0)  # of the others nothing is taken
        short = torch.maximum(short, SHORTEST * long)
        outer, inner = (long + short) / 2, (long - short) / 2
        ends = self._twice(x + outer) + self._twice(x - outer)
        seen = (ends - self._twice(x + inner) - self._twice(x - inner)) / (long * short)
        return torch.where(wide, seen.clamp(min=0), self.at(x))

    def _inside(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The interval of each x, how far into it x is, and how far beyond the table's ends."""
        above = torch.searchsorted(self.stol, x.detach().contiguous())
        number = (above - 1).clamp(0, len(self.stol) - 2)
        along = x - self.stol[number]
        low = torch.zeros_like(along)
        inside = torch.minimum(torch.maximum(along, low), self._steps[number])
        return number, inside, along - inside

    def _value(self, i: Tensor, t: Tensor) -> Tensor:
        return self.a[i] + t * (self.b[i] + t * self.c[i])

    def _once(self, i: Tensor, t: Tensor) -> Tensor:
        """The integral from the beginning of interval i."""
        return t * (self.a[i] + t * (self.b[i] / 2 + t * self.c[i] / 3))

    @cached_property
    def _steps(self) -> Tensor:
        return self.stol.diff()

    @cached_property
    def _sums(self) -> tuple[Tensor, Tensor]:
        """The integral and the double integral from the first point to each."""
        i, h = torch.arange(len(self.a), device=self.a.device), self._steps
        zero = self.a.new_zeros(1)
        once = torch.cat([zero, self._once(i, h).cumsum(0)])
        twice = once[:-1] * h + h**2 * (self.a / 2 + h * (self.b / 6 + h * self.c / 12))
        return once, torch.cat([zero, twice.cumsum(0)])

    def _twice(self, x: Tensor) -> Tensor:
        """The double integral from the first point to x."""
        (once, twice), (i, t, beyond) = self._sums, self._inside(x)
        inside = t**2 * (self.a[i] / 2 + t * (self.b[i] / 6 + t * self.c[i] / 12))
        up_to = once[i] + self._once(i, t)
        return twice[i] + once[i] * t + inside + beyond * (up_to + beyond * self._value(i, t) / 2)


def linear(stol: Tensor, values: Tensor) -> Curve:
    """Straight lines between values [n], not negative, at stol [n], rising."""
    slope = values.diff() / stol.diff()
    return Curve(stol, values[:-1], slope, torch.zeros_like(slope))


def squared(stol: Tensor, f: Tensor) -> Curve:
    """The square of straight lines between f [n] at stol [n], rising."""
    slope = f.diff() / stol.diff()
    return Curve(stol, f[:-1] ** 2, 2 * f[:-1] * slope, slope**2)
