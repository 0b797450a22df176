# ruff: noqa: E402
"""The noise image of nanobragg.classic: Poisson counts, nanoBragg.c's offset and overloads."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("dials")

import classic_helpers as classic
from scipy import stats

from nanobragg_plugin.adapters.classic.translate import translate
from nanobragg_plugin.run.classic import write

SIDE = 200


def noise(photons: np.ndarray, words: str = "") -> tuple[np.ndarray, str]:
    """The pixels [slow, fast] of the noise image of a made-up image, and what is printed."""
    n_slow, n_fast = photons.shape
    size = f"-detpixels_f {n_fast} -detpixels_s {n_slow}"
    t = translate(f"-default_F 1 -cell 40 {size} -seed 3 {words}".split())
    printed = "\n".join(write(t, photons.astype(np.float32)))
    return classic.pixels_of(Path("noiseimage.img").read_bytes(), photons.shape), printed


def bins(level: float) -> Iterator[tuple[int, int]]:
    """Ranges of counts, both ends in, each with 5 or more of SIDE^2 pixels expected."""
    expected = stats.poisson(level)
    low = 0
    high = int(expected.ppf(1 - 1e-9)) + 1
    for count in range(high):
        inside = expected.cdf(count) - expected.cdf(low - 1)
        if min(inside, 1 - expected.cdf(count)) * SIDE**2 >= 5:
            yield low, count
            low = count + 1
    yield low, 10**6


@pytest.mark.parametrize("level", [0.05, 3.0, 20.0, 1000.0])
def test_counts_are_poisson(level: float, tmp_cwd: Path) -> None:
    """Mean, variance and frequencies; tests of one fixed seed each, at a level of 0.1 %."""
    found, printed = noise(np.full((SIDE, SIDE), level))
    counts = found.astype(np.int64) - 40
    n = counts.size
    # of Poisson's distribution the variance is the mean, the fourth moment m + 3 m^2
    assert abs(counts.mean() - level) < 3.3 * (level / n) ** 0.5
    spread = ((level + 2 * level**2) / n) ** 0.5
    assert abs(counts.var(ddof=1) - level) < 3.3 * spread
    edges = list(bins(level))
    observed = [((counts >= low) & (counts <= high)).sum() for low, high in edges]
    poisson = stats.poisson(level)
    expected = [(poisson.cdf(high) - poisson.cdf(low - 1)) * n for low, high in edges]
    assert sum(observed) == n and len(edges) >= 3
    assert stats.chisquare(observed, expected).pvalue > 1e-3
    assert f"seed 3: {counts.sum()} photons (0 overloads)" in printed


def test_neighbours_are_independent(tmp_cwd: Path) -> None:
    """Correlation along both axes: zero within 3.3 / sqrt(n)."""
    counts = noise(np.full((SIDE, SIDE), 20.0))[0].astype(float)
    counts -= counts.mean()
    for one, other in ((counts[1:], counts[:-1]), (counts[:, 1:], counts[:, :-1])):
        correlation = (one * other).mean() / counts.var()
        assert abs(correlation) < 3.3 / SIDE


def test_pixels_without_photons_stay_so(tmp_cwd: Path) -> None:
    """And counts follow their own pixel's photons."""
    photons = np.zeros((40, 50))
    photons[10, 20] = 400
    found, _ = noise(photons)
    assert abs(int(found[10, 20]) - 40 - 400) < 80  # four standard deviations
    assert (np.delete(found, 10 * 50 + 20) == 40).all()


def test_seeds(tmp_cwd: Path) -> None:
    classic.place_inputs()
    first, again, other = (
        classic.run(*classic.words(f"-seed {seed}")).files.get("noiseimage.img")
        for seed in (5, 5, 6)
    )
    assert again is None  # no byte has changed
    assert first != other
    unseeded = classic.run(*classic.words(drop="-seed")).stdout
    assert abs(int(re.search(r"seed (\d+)", unseeded)[1]) - Path("image.pgm").stat().st_mtime) < 60


@pytest.mark.parametrize("adc", ["0", "10.7", "300", "-20"])
def test_offset(adc: str, tmp_cwd: Path) -> None:
    """Added to the counts of the same seed; the sum is cut to a whole number not below 0."""
    photons = np.full((30, 40), 25.0)
    counts = noise(photons, "-adc 0")[0].astype(float)
    found, _ = noise(photons, f"-adc {adc}")
    assert np.array_equal(found, np.floor(np.maximum(counts + float(adc), 0)))


def test_overloads(tmp_cwd: Path) -> None:
    """Are 65535, and counted; the sum of the photons is not cut."""
    photons = np.full((30, 40), 10.0)
    photons[3, 4:9] = 70_000.0
    found, printed = noise(photons)
    assert (found[3, 4:9] == 65535).all() and (found == 65535).sum() == 5
    total, overloads = re.search(r": (\d+) photons \((\d+) overloads\)", printed).groups()
    expected = photons.sum()
    assert overloads == "5" and abs(int(total) - expected) < 4 * expected**0.5


def test_region_of_interest(tmp_cwd: Path) -> None:
    """Outside pixels have no offset; inside they have the counts of the whole image."""
    photons = np.full((30, 40), 10.0)
    whole, _ = noise(photons)
    part, _ = noise(photons, "-roi 5 20 3 9")
    assert np.array_equal(part[3:10, 5:21], whole[3:10, 5:21])
    part = part.copy()
    part[3:10, 5:21] = 0
    assert not part.any()
