"""The point spread of a detector: what a photon in one pixel leaves in the pixels around.

The kernels are integrated over pixels, for a photon at the middle of its pixel, as in nanoBragg.c's
companion noisify: of a Gaussian the product of two differences of the error function, of the
fibre-optic taper of CCD detectors, whose density is g/(2 pi) (g^2 + r^2)^(-3/2) (Holton, Nielsen &
Frankel 2012, J. Synchrotron Rad. 19, 1006), the differences of atan(x y/(g r'))/(2 pi),
r'^2 = g^2 + x^2 + y^2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

#: Distance, in units of the full width at half maximum, beyond which a Gaussian is left out:
#: less than 1e-12 of it.
GAUSS_REACH = 3.1
#: g over the full width at half maximum: (1 + 1/(4 s^2))^(3/2) = 2.
FIBER_G = 0.5 / math.sqrt(2 ** (2 / 3) - 1)


@dataclass(frozen=True)
class PointSpread:
    """shape: gauss, fiber; fwhm_mm: full width at half maximum."""

    shape: str
    fwhm_mm: float

    def __post_init__(self) -> None:
        if self.shape not in ("gauss", "fiber"):
            raise ValueError(f"point spread {self.shape!r} is none of gauss, fiber")
        if not self.fwhm_mm > 0:
            raise ValueError("a point spread's width must be greater than 0")


def gauss_line(fwhm: float, reach: int) -> Tensor:
    """[2 reach + 1]: what the pixels along a line get; fwhm in pixels."""
    edges = torch.arange(-reach, reach + 2, dtype=torch.float64) - 0.5
    return torch.special.erf(edges * (2 * math.sqrt(math.log(2)) / fwhm)).diff() / 2


def fiber_plane(fwhm: tuple[float, float], reach: tuple[int, int]) -> Tensor:
    """[2 reach + 1, 2 reach + 1] (slow, fast): what the pixels around get; fwhm in pixels along
    both."""
    # coordinates in units of the width, in which the spread is round
    slow, fast = (
        (torch.arange(-n, n + 2, dtype=torch.float64) - 0.5) / width
        for n, width in zip(reach, fwhm)
    )
    x, y = slow[:, None], fast[None, :]
    integral = torch.atan(x * y / (FIBER_G * (FIBER_G**2 + x * x + y * y).sqrt())) / math.tau
    return integral.diff(dim=0).diff(dim=1)


class Spread:
    """The spread of a panel of some shape (slow, fast) and pixel size (fast, slow), mm: made once.

    What leaves the panel is lost.
    """

    def __init__(
        self, spread: PointSpread, shape: tuple[int, int], pixel_size: tuple[float, float]
    ) -> None:
        self.shape = shape
        widths = [spread.fwhm_mm / size for size in reversed(pixel_size)]
        if spread.shape == "gauss":
            reach = [min(math.ceil(GAUSS_REACH * w), n - 1) for w, n in zip(widths, shape)]
            self.lines = [gauss_line(w, n) for w, n in zip(widths, reach)]
            return
        self.lines = None
        self.sizes = tuple(_smooth(2 * n - 1) for n in shape)
        plane = fiber_plane(tuple(widths), tuple(n - 1 for n in shape))
        # as a circular convolution: the middle at 0, 0
        whole = torch.nn.functional.pad(
            plane, (0, self.sizes[1] - plane.shape[1], 0, self.sizes[0] - plane.shape[0])
        ).roll((1 - shape[0], 1 - shape[1]), (0, 1))
        self.transform = torch.fft.rfft2(whole)

    def __call__(self, image: Tensor) -> Tensor:
        """Of photons [slow, fast], float64, the signal, not less than 0."""
        if self.lines is not None:
            for axis, line in enumerate(self.lines):
                image = _along(image, line, axis)
            return image
        spread = torch.fft.irfft2(torch.fft.rfft2(image, self.sizes) * self.transform, self.sizes)
        return spread[: self.shape[0], : self.shape[1]].clamp(min=0)  # of rounding


def _along(image: Tensor, line: Tensor, axis: int) -> Tensor:
    """Convolved along an axis; a pixel's sum goes from the lowest to the highest index."""
    n, reach = image.shape[axis], len(line) // 2
    total = torch.zeros_like(image)
    for shift in range(-reach, reach + 1):
        count = n - abs(shift)
        to, of = max(0, -shift), max(0, shift)
        total.narrow(axis, to, count).add_(
            image.narrow(axis, of, count), alpha=float(line[reach - shift])
        )
    return total


def _smooth(n: int) -> int:
    """The least number from n on that has no prime factor but 2, 3 and 5."""
    while True:
        rest = n
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return n
        n += 1
