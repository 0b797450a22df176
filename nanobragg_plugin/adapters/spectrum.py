"""Spectra: how many photons have which energy, as a list of lines of given mean and variance.

A continuous spectrum becomes bins of even width, each a line in its middle that has the bin's
photons: even, so that the streaks of a still are. The lines are then stretched about their mean, by
a small part of a bin, until mean and variance are exactly those of the spectrum.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from libtbx.utils import Sorry
from scipy.special import ndtr

from nanobragg_plugin.adapters.strangers import read_text
from nanobragg_plugin.constants import EV_ANGSTROM
from nanobragg_plugin.sources import Lines

#: Where a gaussian's tails are cut, in sigma; what is beyond, 0.3 %, is left out.
TRUNCATION = 3.0
#: FWHM over sigma of a gaussian.
FWHM = 2 * math.sqrt(2 * math.log(2))
#: Bytes; a table beyond is none.
MAX_TABLE = 1 << 26
#: eV; what is outside is no energy of x-rays in eV: keV perhaps, or a wavelength.
ENERGIES = (100.0, 1e6)


@dataclass(frozen=True)
class Spectrum:
    """Lines: energies [n] eV, rising, and the share of the photons of each [n], of sum 1."""

    energies: np.ndarray
    photons: np.ndarray

    @classmethod
    def of(cls, energies: np.ndarray, photons: np.ndarray) -> Spectrum:
        """Of energies in any order and photons on any scale; lines without photons are left out."""
        order = np.argsort(energies, kind="stable")
        order = order[photons[order] > 0]
        return cls(energies[order], photons[order] / photons.sum())

    @property
    def mean(self) -> float:
        """eV, weighted with the photons."""
        return float(self.energies @ self.photons)

    @property
    def variance(self) -> float:
        """eV^2, weighted with the photons."""
        return float((self.energies - self.mean) ** 2 @ self.photons)

    @property
    def wavelength(self) -> float:
        """Angstrom, of the mean energy."""
        return EV_ANGSTROM / self.mean

    @property
    def lines(self) -> Lines:
        """The wavelengths relative to that of the mean energy."""
        return Lines(tuple((self.mean / self.energies).tolist()), tuple(self.photons.tolist()))

    def with_moments(self, mean: float, variance: float) -> Spectrum:
        """The lines shifted, and stretched about their mean."""
        stretch = math.sqrt(variance / self.variance) if self.variance > 0 else 1.0
        return replace(self, energies=mean + stretch * (self.energies - self.mean))

    def __str__(self) -> str:
        low, high = self.energies[[0, -1]]
        return (
            f"{len(self.energies)} wavelengths from {EV_ANGSTROM / high:.6g} to "
            f"{EV_ANGSTROM / low:.6g} A ({low:.6g} to {high:.6g} eV); mean photon energy "
            f"{self.mean:.6g} eV ({self.wavelength:.6g} A), standard deviation "
            f"{math.sqrt(self.variance):.4g} eV"
        )


def gaussian(mean: float, fwhm: float, samples: int, low_side: float = 0.5) -> Spectrum:
    """A gaussian of two halves: low_side of the FWHM, eV, lies below the peak, the rest above.

    Mean and variance are the formula's (J. F. John (1982), Commun. Stat. Theory Methods 11, 879;
    K. F. Wallis (2014), Statist. Sci. 29, 106): with the halves' sigma s1 and s2 the mean is
    sqrt(2/pi) (s2 - s1) from the peak, the variance (1 - 2/pi) (s2 - s1)^2 + s1 s2.
    """
    below, above = (2 * side * fwhm / FWHM for side in (low_side, 1 - low_side))
    peak = mean - math.sqrt(2 / math.pi) * (above - below)
    variance = (1 - 2 / math.pi) * (above - below) ** 2 + above * below
    edges = np.linspace(peak - TRUNCATION * below, peak + TRUNCATION * above, samples + 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        low = below * ndtr(np.where(edges < peak, (edges - peak) / below, 0.0))
        high = above * (ndtr(np.where(edges > peak, (edges - peak) / above, 0.0)) - 0.5)
    photons = np.diff(np.nan_to_num(low) + np.nan_to_num(high))
    return Spectrum.of((edges[1:] + edges[:-1]) / 2, photons).with_moments(mean, variance)


def even_wavelengths(shortest: float, longest: float, samples: int) -> Spectrum:
    """As many photons at every wavelength of a range, Angstrom."""
    steps = (np.arange(samples) + 0.5) / samples
    return Spectrum.of(EV_ANGSTROM / (shortest + steps * (longest - shortest)), np.ones(samples))


def two_colour(
    mean: float, separation: float, second_share: float, fwhm: float, samples: int
) -> Spectrum:
    """Two lines, `separation` eV from the first to the second, which has second_share of the
    photons; or two gaussians of a FWHM, eV, that is not 0, of `samples` lines each."""
    places = mean - second_share * separation, mean + (1 - second_share) * separation
    one = np.zeros(1), np.ones(1)
    if fwhm > 0:
        around = gaussian(0.0, fwhm, samples)
        one = around.energies, around.photons
    shares = 1 - second_share, second_share
    return Spectrum.of(
        np.concatenate([place + one[0] for place in places]),
        np.concatenate([share * one[1] for share in shares]),
    )


def rebinned(lines: Spectrum, samples: int) -> Spectrum:
    """At most `samples` lines: those there are, or even bins of the same mean and variance.

    A line is spread evenly as far as the middles between it and its neighbours.
    """
    energies = lines.energies
    if len(energies) <= samples:
        return lines
    middles = (energies[1:] + energies[:-1]) / 2
    ends = 2 * energies[0] - middles[0], 2 * energies[-1] - middles[-1]
    limits = np.concatenate([ends[:1], middles, ends[1:]])
    below = np.concatenate([[0.0], np.cumsum(lines.photons)])
    edges = np.linspace(*ends, samples + 1)
    photons = np.diff(np.interp(edges, limits, below))
    binned = Spectrum.of((edges[1:] + edges[:-1]) / 2, photons)
    return binned.with_moments(lines.mean, lines.variance)


def read_spectrum(name: str, samples: int) -> tuple[Spectrum, int]:
    """The spectrum of a text file in `samples` even bins, and how many values below 0 were taken
    for 0.

    On each line energy, eV, rising, and photons per eV on any scale, straight lines between; `#`
    starts a comment.
    """
    rows = read_columns(name, "a spectrum", "energy (eV), photons per eV", 2)
    energies, density = rows.T
    if len(rows) < 2:
        raise Sorry(f"{name} has one line of a spectrum: give two or more, energy (eV), photons")
    check_energies(energies, name)
    return _of_density(energies, _positive(density, name), samples), int((density < 0).sum())


def _of_density(energies: np.ndarray, density: np.ndarray, samples: int) -> Spectrum:
    """Bins of photons per eV that are straight between points [n], mean and variance exact."""
    reached = np.flatnonzero(density > 0)
    inside = slice(max(reached[0] - 1, 0), reached[-1] + 2)
    energies, density = energies[inside], density[inside]
    widths, middles = np.diff(energies), (energies[1:] + energies[:-1]) / 2

    def integral(values: np.ndarray, between: np.ndarray) -> float:
        # Simpson's rule, exact of cubic polynomials
        ends = values * density
        inner = 4 * between * (density[1:] + density[:-1]) / 2
        return float(widths @ (ends[1:] + inner + ends[:-1]) / 6)

    total = integral(np.ones_like(energies), np.ones_like(middles))
    mean = integral(energies, middles) / total
    variance = integral((energies - mean) ** 2, (middles - mean) ** 2) / total
    edges = np.linspace(energies[0], energies[-1], samples + 1)
    segment = np.clip(np.searchsorted(energies, edges, side="right") - 1, 0, len(widths) - 1)
    offset = edges - energies[segment]
    slope = np.diff(density)[segment] / widths[segment]
    whole = np.cumsum(widths * (density[1:] + density[:-1]) / 2)
    below = np.concatenate([[0.0], whole])[segment]
    photons = np.diff(below + offset * (density[segment] + slope * offset / 2))
    binned = Spectrum.of((edges[1:] + edges[:-1]) / 2, photons)
    return binned.with_moments(mean, variance)


def of_dxtbx(model: object, what: str) -> tuple[Spectrum, int]:
    """The lines of a dxtbx Spectrum, whose weights are photons of each energy, and how many values
    below 0 were taken for 0."""
    energies = np.array(list(model.get_energies_eV()), dtype=float)
    weights = np.array(list(model.get_weights()), dtype=float)
    if len(energies) == 0 or len(energies) != len(weights):
        raise Sorry(f"{what} has {len(energies)} energies and {len(weights)} weights; mend it")
    order = np.argsort(energies, kind="stable")
    energies, weights = energies[order], weights[order]
    if not (np.isfinite(energies).all() and np.isfinite(weights).all()):
        raise Sorry(f"{what} has numbers that are not finite; mend it")
    check_energies(energies, what)
    return Spectrum.of(energies, _positive(weights, what)), int((weights < 0).sum())


def _positive(values: np.ndarray, what: str) -> np.ndarray:
    """Values relative to the highest, those below 0 as 0; `Sorry` where none is above."""
    if not values.max() > 0:
        raise Sorry(f"{what} has no photons: all its values are 0 or below; give some above")
    return np.clip(values / values.max(), 0, None)


def check_energies(energies: np.ndarray, what: str) -> None:
    """`Sorry` unless they rise and can be in eV."""
    steps = np.diff(energies)
    if (steps <= 0).any():
        first = int(np.argmax(steps <= 0))
        raise Sorry(
            f"{what}: the energy {energies[first + 1]:g} comes after {energies[first]:g}; energies "
            "must rise"
        )
    if energies[0] < ENERGIES[0] or energies[-1] > ENERGIES[1]:
        raise Sorry(
            f"{what}: the energies are {energies[0]:g} to {energies[-1]:g}; give them in eV, "
            f"{ENERGIES[0]:g} to {ENERGIES[1]:g}"
        )


def read_columns(name: str, what: str, columns: str, count: int) -> np.ndarray:
    """[lines, count] finite numbers of a text file; `#` starts a comment, a comma is a space."""
    text = read_text(name, what, MAX_TABLE)
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split("#", 1)[0].replace(",", " ").split()
        if not words:
            continue
        try:
            values = [float(word) for word in words]
        except ValueError as error:
            raise Sorry(f"line {number} of {name}: {' '.join(words)!r} are not numbers") from error
        if len(values) != count or not all(map(math.isfinite, values)):
            raise Sorry(f"line {number} of {name}: give {columns}, finite numbers")
        rows.append(values)
    if not rows:
        raise Sorry(f"{name} is empty: on each line give {columns}")
    return np.array(rows)
