"""Resolution shells, and the statistics that are reported of each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: Of reflections shells of equal volume in reciprocal space, of pixels of about equal area.
REFLECTIONS, PIXELS = 3, 2


@dataclass(frozen=True)
class Shells:
    """edges [n + 1]: ascending, of 1/d^power, 1/Angstrom^power."""

    edges: np.ndarray
    power: int

    @classmethod
    def of(cls, d: np.ndarray, n: int, power: int) -> Shells:
        """n shells that hold all finite d, Angstrom; none where no d is finite."""
        d = np.asarray(d, float)
        inverse = d[np.isfinite(d) & (d > 0)] ** -float(power)
        if not len(inverse):
            return cls(np.zeros(1), power)
        low, high = inverse.min(), inverse.max()
        margin = 1e-9 * high  # what lies on an edge is within
        return cls(np.linspace(low - margin, high + margin, n + 1), power)

    def __len__(self) -> int:
        return len(self.edges) - 1

    def number(self, d: np.ndarray) -> np.ndarray:
        """The shell of each d, from 0; -1 of what is in none."""
        d = np.asarray(d, float)
        with np.errstate(divide="ignore", invalid="ignore"):
            found = np.searchsorted(self.edges, d ** -float(self.power), side="right") - 1
        return np.where(np.isfinite(d) & (d > 0) & (found >= 0) & (found < len(self)), found, -1)

    def limits(self) -> list[tuple[float, float]]:
        """Largest and smallest d of each shell, Angstrom."""
        with np.errstate(divide="ignore"):
            d = np.maximum(self.edges, 0) ** (-1 / self.power)
        return [(float(a), float(b)) for a, b in zip(d[:-1], d[1:])]


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's correlation coefficient; NaN of fewer than three pairs, or of a constant."""
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def rms(values: np.ndarray) -> float:
    """Root mean square; NaN of none."""
    return float(np.sqrt(np.mean(np.square(values)))) if len(values) else float("nan")


def mean(values: np.ndarray) -> float:
    """Mean; NaN of none."""
    return float(np.mean(values)) if len(values) else float("nan")


def ratio(a: float, b: float) -> float:
    """a / b; NaN where b is 0."""
    return float(a / b) if b else float("nan")


def scale_of(found: np.ndarray, true: np.ndarray) -> float:
    """The k for which sum |found - k true| is least: the median of found/true, weighted by true.
    It hardly heeds outliers. NaN where no true one is above 0."""
    use = np.isfinite(found) & np.isfinite(true) & (true > 0)
    if not use.any():
        return float("nan")
    ratios = found[use] / true[use]
    order = np.argsort(ratios)
    weight = np.cumsum(true[use][order])
    return float(ratios[order][np.searchsorted(weight, weight[-1] / 2)])


def distribution(values: np.ndarray, reach: float = 6.0, bins: int = 48) -> dict:
    """Mean, width and histogram of what a unit normal distribution is expected of.

    width: standard deviation; robust_width: half of what lies between the 15.87th and 84.13th
    percentile, which outliers do not widen; counts [bins] from -reach to reach, and how many lie
    beyond.
    """
    edges = np.linspace(-reach, reach, bins + 1)
    low, median, high = np.percentile(values, (15.87, 50, 84.13)) if len(values) else [np.nan] * 3
    return {
        "n": len(values),
        "mean": mean(values),
        "median": float(median),
        "width": float(np.std(values)) if len(values) else float("nan"),
        "robust_width": float(high - low) / 2,
        "edges": edges,
        "counts": np.histogram(values, edges)[0],
        "below": int((values < -reach).sum()),
        "above": int((values > reach).sum()),
    }
