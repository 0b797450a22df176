"""Merged intensities beside the true ones, on a fitted scale."""

from __future__ import annotations

import numpy as np

from nanobragg_plugin.adapters.merged import Merged
from nanobragg_plugin.compare.shells import (
    REFLECTIONS,
    Shells,
    correlation,
    distribution,
    ratio,
    scale_of,
)


def compare_merged(merged: Merged, n_shells: int) -> dict:
    """Correlation, R = sum |I - k I_true| / sum k I_true with the k for which R of all is least,
    and (I - k I_true)/sigma, altogether and by shell."""
    shells = Shells.of(merged.d, n_shells, REFLECTIONS)
    scale = scale_of(merged.found, merged.true)
    number = shells.number(merged.d)
    rows = [
        {"d_max": high, "d_min": low, **_figures(merged, scale, number == shell)}
        for shell, (high, low) in enumerate(shells.limits())
    ]
    deviation = _deviations(merged, scale)
    return {
        "n_true": merged.n_true,
        "n_other": merged.n_found,
        "scale": scale,
        **_figures(merged, scale, np.ones(len(merged.d), bool)),
        "deviation_over_sigma": distribution(deviation[np.isfinite(deviation)]),
        "shells": rows,
    }


def _deviations(merged: Merged, scale: float) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return (merged.found - scale * merged.true) / merged.sigma


def _figures(merged: Merged, scale: float, use: np.ndarray) -> dict:
    """Of the reflections `use`: how many are in common, CC, R."""
    found, true = merged.found[use], scale * merged.true[use]
    return {
        "n": int(use.sum()),
        "cc": correlation(found, true),
        "r": ratio(np.abs(found - true).sum(), true.sum()),
    }
