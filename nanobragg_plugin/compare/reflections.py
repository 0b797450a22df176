"""A table of reflections against the truth's: what was found, where, and how many photons."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nanobragg_plugin.adapters.compared_tables import Spots
from nanobragg_plugin.compare.matching import match
from nanobragg_plugin.compare.shells import (
    REFLECTIONS,
    Shells,
    correlation,
    distribution,
    mean,
    ratio,
    rms,
    scale_of,
)


@dataclass(frozen=True)
class Settings:
    """threshold: photons of a true reflection that should be found; tolerance [3]: pixels and
    images; scale: of the other's intensities over the truth's, None: fitted; min_partiality: of
    reflections whose fitted intensities are compared, by each table that says it."""

    threshold: float
    tolerance: tuple[float, float, float]
    scale: float | None
    min_partiality: float
    n_shells: int


def compare_reflections(
    true: Spots, other: Spots, settings: Settings, reindex: dict[int, tuple[int, np.ndarray]] | None
) -> dict:
    """All figures of two tables. reindex: of each of the other's experiments which true one it is
    of, and the matrix of `truth.CrystalComparison`; None: indices are not compared."""
    labels = [np.column_stack((t.group, t.panel)) for t in (true, other)]
    tolerance = np.array(settings.tolerance)
    by_place = match(true.place, other.place, tuple(labels), tolerance)
    shells = Shells.of(np.concatenate((true.d, other.d)), settings.n_shells, REFLECTIONS)
    counted = _count(true, other, by_place, settings.threshold, shells)
    pairs, indexing = by_place, None
    if reindex and true.hkl is not None and other.hkl is not None:
        pairs, indexing = _same_index(true, other, labels, by_place, tolerance, reindex)
    return {
        "threshold_photons": settings.threshold,
        **counted,
        "indexing": indexing,
        "centroids": _centroids(true, other, pairs, settings.threshold, shells),
        "intensities": _intensities(true, other, pairs, settings, shells),
    }


def strong(true: Spots, threshold: float) -> np.ndarray:
    """Which true reflections should be found; all, where the truth's table has no intensities."""
    if true.intensity is None:
        return np.ones(len(true), bool)
    return np.nan_to_num(true.intensity) >= threshold


def _count(true: Spots, other: Spots, pairs: tuple, threshold: float, shells: Shells) -> dict:
    """How many true ones there are, found, missed and false, altogether and by shell."""
    bright = strong(true, threshold)
    found, matched = np.zeros(len(true), bool), np.zeros(len(other), bool)
    found[pairs[0]], matched[pairs[1]] = True, True
    weak = np.zeros(len(other), bool)
    weak[pairs[1]] = ~bright[pairs[0]]

    def figures(of_true: np.ndarray, of_other: np.ndarray) -> dict:
        n_true, n_found = int((bright & of_true).sum()), int((bright & found & of_true).sum())
        return {
            "true": n_true,
            "found": n_found,
            "missed": n_true - n_found,
            "found_percent": 100 * ratio(n_found, n_true),
            "other": int(of_other.sum()),
            "below_threshold": int((weak & of_other).sum()),
            "false": int((~matched & of_other).sum()),
        }

    at_true, at_other = shells.number(true.d), shells.number(other.d)
    rows = [
        {"d_max": high, "d_min": low, **figures(at_true == shell, at_other == shell)}
        for shell, (high, low) in enumerate(shells.limits())
    ]
    whole = figures(np.ones(len(true), bool), np.ones(len(other), bool))
    return {"true_of_any_brightness": len(true), **whole, "shells": rows}


def _same_index(
    true: Spots,
    other: Spots,
    labels: list[np.ndarray],
    by_place: tuple,
    tolerance: np.ndarray,
    reindex: dict[int, tuple[int, np.ndarray]],
) -> tuple[tuple, dict]:
    """Pairs of the same place and index, and how many of those of the same place have it."""
    crystal = np.full(len(other), -1)
    hkl = np.zeros((len(other), 3), int)
    for experiment, (at, matrix) in reindex.items():
        use = (other.experiment == experiment) & other.hkl.any(axis=1)
        crystal[use] = at
        hkl[use] = np.rint(other.hkl[use] @ np.linalg.inv(matrix).T).astype(int)
    indexed = crystal >= 0
    full = (
        np.column_stack((labels[0], true.experiment, true.hkl)),
        np.column_stack((labels[1], crystal, hkl)),
    )
    sought = replace(other, place=np.where(indexed[:, None], other.place, np.nan))
    pairs = match(true.place, sought.place, full, tolerance)
    one, two = by_place[0][indexed[by_place[1]]], by_place[1][indexed[by_place[1]]]
    same = int((full[0][one] == full[1][two]).all(axis=1).sum())
    figures = {
        "indexed": int(indexed.sum()),
        "of_those_found": len(one),
        "right": same,
        "right_percent": 100 * ratio(same, len(one)),
    }
    return pairs, figures


def _centroids(
    true: Spots, other: Spots, pairs: tuple, threshold: float, shells: Shells
) -> dict[str, Any]:
    """Errors, other - true, of the observed and of the predicted positions of true reflections
    above the threshold: mean and rms, (fast, slow) pixels and images."""
    bright = strong(true, threshold)[pairs[0]]
    one, two = pairs[0][bright], pairs[1][bright]
    number = shells.number(true.d[one])
    found = {}
    for what in ("observed", "predicted"):
        places = getattr(true, what), getattr(other, what)
        if places[0] is None or places[1] is None:
            continue
        error = places[1][two] - places[0][one]
        # a position that is no neighbour is none: dials leaves 0 where it has none
        good = np.isfinite(error).all(axis=1)
        rows = [
            {"d_max": high, "d_min": low, **_errors(error[good & (number == shell)])}
            for shell, (high, low) in enumerate(shells.limits())
        ]
        found[what] = {**_errors(error[good]), "shells": rows}
    return found


def _errors(error: np.ndarray) -> dict:
    """Mean, root mean square and median length of errors [n, 3]."""
    return {
        "n": len(error),
        "mean": [mean(axis) for axis in error.T],
        "rms": [rms(axis) for axis in error.T],
        "median": [float(np.median(np.abs(axis))) if len(axis) else np.nan for axis in error.T],
    }


def _intensities(
    true: Spots, other: Spots, pairs: tuple, settings: Settings, shells: Shells
) -> dict | None:
    """CC, R and the distribution of (I - k I_true)/sigma, where both tables have intensities; k as
    `shells.scale_of` has it."""
    if true.intensity is None or other.intensity is None:
        return None
    one, two = pairs
    use = np.isfinite(true.intensity[one]) & np.isfinite(other.intensity[two])
    for side, at in ((true, one), (other, two)):
        # sums are of what was recorded, in both; a fitted profile is of the whole reflection
        if side.partiality is not None and other.intensity_name == "intensity.prf":
            use &= side.partiality[at] >= settings.min_partiality
    one, two = one[use], two[use]
    expected, found, sigma = true.intensity[one], other.intensity[two], other.sigma[two]
    scale = settings.scale
    if scale is None:
        scale = scale_of(found, expected)
    deviation = (found - scale * expected) / sigma
    number = shells.number(true.d[one])

    def figures(of: np.ndarray) -> dict:
        mine = deviation[of & np.isfinite(deviation)]
        return {
            "n": int(of.sum()),
            "cc": correlation(expected[of], found[of]),
            "r": ratio(np.abs(found - scale * expected)[of].sum(), scale * expected[of].sum()),
            "deviation_mean": mean(mine),
            "deviation_width": float(np.std(mine)) if len(mine) else float("nan"),
        }

    rows = [
        {"d_max": high, "d_min": low, **figures(number == shell)}
        for shell, (high, low) in enumerate(shells.limits())
    ]
    return {
        "column": other.intensity_name,
        "scale": scale,
        "scale_fitted": settings.scale is None,
        **figures(np.ones(len(one), bool)),
        "deviation_over_sigma": distribution(deviation[np.isfinite(deviation)]),
        "shells": rows,
    }
