"""Spectra as lines: their moments against formulas, numerical integrals and dxtbx's own."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("dials")

import nanobragg_plugin  # noqa: F401  isort: skip
from dxtbx.model import Spectrum as DxtbxSpectrum
from hypothesis import given
from hypothesis import strategies as st
from libtbx.utils import Sorry
from scipy import integrate, stats
from scitbx.array_family import flex

from nanobragg_plugin.adapters import spectrum as spectra


def split_density(energy: np.ndarray, peak: float, fwhm: float, low_side: float) -> np.ndarray:
    """A gaussian of two halves by its definition: half its height low_side x FWHM below the peak
    and the rest of the FWHM above."""
    half = np.where(energy < peak, low_side, 1 - low_side) * fwhm
    return 0.5 ** (((energy - peak) / half) ** 2)


@pytest.mark.parametrize("samples", [2, 3, 8, 25, 200])
@pytest.mark.parametrize("low_side", [0.5, 0.8, 0.1])
def test_moments_are_those_of_the_integral(low_side, samples):
    """scipy's quad over the definition, of a peak at 0."""
    fwhm, ends = 120.0, (-2000.0, 2000.0)

    def moment(k: int, centre: float = 0.0) -> float:
        def f(x: float) -> float:
            return (x - centre) ** k * float(split_density(np.array(x), 0.0, fwhm, low_side))

        return integrate.quad(f, *ends, points=[0.0, -300, 300], epsabs=1e-11)[0]

    mean = moment(1) / moment(0)
    variance = moment(2, mean) / moment(0)
    found = spectra.gaussian(12000.0, fwhm, samples, low_side)
    assert len(found.energies) == samples
    assert found.photons.sum() == pytest.approx(1, abs=1e-14)
    assert found.mean == pytest.approx(12000, abs=1e-9)
    assert found.variance == pytest.approx(variance, rel=1e-9)  # measured: 2e-11
    # even bins
    assert np.ptp(np.diff(found.energies)) < 1e-10


def test_bins_have_the_photons_between_their_edges():
    """scipy's normal distribution, cut at 3 sigma, whose variance is 2.7 % less: the lines are
    stretched by the root of that."""
    found = spectra.gaussian(9000.0, 100.0, 200)
    sigma = 100 / math.sqrt(8 * math.log(2))
    edges = np.linspace(-3, 3, 201)
    expected = np.diff(stats.norm.cdf(edges)) / (stats.norm.cdf(3) - stats.norm.cdf(-3))
    np.testing.assert_allclose(found.photons, expected, rtol=1e-11)  # measured: 1.5e-12
    stretch = 1 / stats.truncnorm(-3, 3).std()
    middles = 9000 + sigma * (edges[1:] + edges[:-1]) / 2
    np.testing.assert_allclose(found.energies - 9000, (middles - 9000) * stretch, rtol=1e-4)


@pytest.mark.parametrize(("low_side", "end"), [(1.0, -1), (0.0, 0)])
def test_pink_may_have_a_sharp_edge(low_side, end):
    """All of the FWHM on one side: half a gaussian, its highest line at the edge, its mean
    sigma sqrt(2/pi) from there (half-normal distribution)."""
    found = spectra.gaussian(12000.0, 500.0, 400, low_side)
    halfnormal = stats.halfnorm(scale=500 / math.sqrt(2 * math.log(2)))
    edge = 12000 + halfnormal.mean() * (1 if end == -1 else -1)
    assert found.energies[end] == pytest.approx(edge, abs=8)
    assert found.photons.argmax() == range(400)[end]
    assert found.variance == pytest.approx(halfnormal.var(), rel=1e-12)


def test_pink_is_steeper_above_its_peak():
    found = spectra.gaussian(12000.0, 500.0, 400, 0.8)
    peak = found.energies[found.photons.argmax()]
    half = found.energies[found.photons > found.photons.max() / 2]
    assert half[-1] - half[0] == pytest.approx(500, rel=0.03)
    assert (peak - half[0]) / (half[-1] - peak) == pytest.approx(4, rel=0.1)


@pytest.mark.parametrize("fwhm", [0.0, 30.0])
@pytest.mark.parametrize("separation", [100.0, -90.0])
def test_two_colours(separation, fwhm):
    """Mean and variance of a mixture: sum of shares times moments of the parts."""
    share = 0.3
    found = spectra.two_colour(9000.0, separation, share, fwhm, 11)
    assert len(found.energies) == (2 if fwhm == 0 else 22)
    assert found.mean == pytest.approx(9000, abs=1e-9)
    sigma = fwhm / math.sqrt(8 * math.log(2))
    expected = sigma**2 + share * (1 - share) * separation**2
    assert found.variance == pytest.approx(expected, rel=1e-10)
    second = 9000 + (1 - share) * separation
    near = abs(found.energies - second) < abs(found.energies - second + separation)
    assert found.photons[near].sum() == pytest.approx(share, abs=1e-12)


def test_even_wavelengths():
    """As many photons at each wavelength: its mean and variance within a range (n steps)."""
    found = spectra.even_wavelengths(0.9, 1.1, 40)
    wavelengths = spectra.EV_ANGSTROM / found.energies
    assert wavelengths.mean() == pytest.approx(1.0, abs=1e-12)
    assert wavelengths.var() == pytest.approx(0.2**2 / 12 * (1 - 1 / 40**2), rel=1e-9)
    # the mean of 1/wavelength over the range is ln(1.1/0.9)/0.2
    assert found.mean == pytest.approx(spectra.EV_ANGSTROM * math.log(1.1 / 0.9) / 0.2, rel=1e-5)


# ---- lists of lines


RUGGED = st.lists(
    st.tuples(st.floats(0.5, 30), st.one_of(st.just(0.0), st.floats(0.01, 10))),
    min_size=3,
    max_size=60,
).filter(lambda rows: sum(row[1] > 0 for row in rows) > 2)


@given(rows=RUGGED, samples=st.integers(2, 40))
def test_fewer_lines_have_the_same_moments_as_dxtbx_finds(rows, samples):
    steps, weights = np.array(rows).T
    energies = 9000 + np.cumsum(steps)
    model = DxtbxSpectrum(flex.double(energies.tolist()), flex.double(weights.tolist()))
    found, negative = spectra.of_dxtbx(model, "made up")
    binned = spectra.rebinned(found, samples)
    assert negative == 0 and len(binned.energies) <= max(samples, 2)
    assert binned.mean == pytest.approx(model.get_weighted_energy_eV(), rel=1e-12)
    assert binned.variance == pytest.approx(model.get_weighted_energy_variance(), rel=1e-4)
    assert binned.wavelength == pytest.approx(model.get_weighted_wavelength(), rel=1e-6)


def read(samples: int, *rows: tuple[float, float]) -> spectra.Spectrum:
    Path("s.txt").write_text("\n".join(f"{e!r} {d!r}" for e, d in rows))
    return spectra.read_spectrum("s.txt", samples)[0]


@pytest.mark.parametrize("samples", [2, 20, 500])
def test_a_file_has_photons_per_ev(samples, tmp_cwd):
    """Uneven steps: moments and photons of the bins by the trapezoidal rule over a fine grid of the
    straight lines between the points (numpy)."""
    rng = np.random.default_rng(1)
    energies = 7000 + np.cumsum(rng.uniform(0.1, 9, 300))
    density = np.exp(-(((energies - 7600) / 200) ** 2)) * rng.uniform(0.5, 1, 300)
    lines = ["# eV, counts"] + [f"{e!r}, {d!r}  # x" for e, d in zip(energies, density)]
    Path("s.txt").write_text("\ufeff" + "\r\n".join(lines) + "\n\n")
    found, _ = spectra.read_spectrum("s.txt", samples)
    each = 200_000 // samples
    fine = np.linspace(energies[0], energies[-1], samples * each + 1)
    values = np.interp(fine, energies, density)
    total = np.trapz(values, fine)
    mean = np.trapz(values * fine, fine) / total
    variance = np.trapz(values * (fine - mean) ** 2, fine) / total
    assert len(found.energies) == samples
    # measured 2e-10, 2e-9
    assert found.mean == pytest.approx(mean, rel=1e-9)
    assert found.variance == pytest.approx(variance, rel=1e-8)
    bins = [
        np.trapz(values[k : k + each + 1], fine[k : k + each + 1])
        for k in range(0, len(fine) - 1, each)
    ]
    np.testing.assert_allclose(found.photons, np.array(bins) / total, rtol=2e-5)  # measured: 4.6e-6


def test_few_points_make_as_many_lines(tmp_cwd):
    """A triangle of three points about 9000 eV, half width w: variance w^2/6; a box: w^2/3."""
    triangle = read(25, (8900, 0), (9000, 3), (9100, 0))
    assert len(triangle.energies) == 25
    assert triangle.mean == pytest.approx(9000, rel=1e-14)
    assert triangle.variance == pytest.approx(100**2 / 6, rel=1e-12)
    box = read(10, (8900, 2), (9100, 2))
    assert box.variance == pytest.approx(100**2 / 3, rel=1e-12)
    np.testing.assert_allclose(box.photons, 0.1, rtol=1e-12)
    # of 10 middles the variance is (1 - 1/10^2) of the box's
    middles = 9000 + (np.arange(10) - 4.5) * 20 / math.sqrt(1 - 1 / 10**2)
    np.testing.assert_allclose(box.energies, middles, rtol=1e-13)


def test_where_there_are_no_photons_there_are_no_lines(tmp_cwd):
    rows = [(8000, 0), (8900, 0), (9000, 1e307), (9100, 0), (9200, 0), (9300, 0), (9400, 1e307)]
    found = read(100, *rows, (9500, 0), (9900, 0))
    assert 8895 < found.energies[0] < 8910 and 9490 < found.energies[-1] < 9505
    assert not ((found.energies > 9105) & (found.energies < 9295)).any()
    assert found.photons[found.energies < 9200].sum() == pytest.approx(0.5, rel=1e-12)


def test_values_below_0_count_as_0(tmp_path):
    (tmp_path / "s.txt").write_text("8990 -2\n9000 -1\n9010 2\n9020 2\n9030 -3\n")
    found, negative = spectra.read_spectrum(str(tmp_path / "s.txt"), 30)
    assert negative == 3 and found.energies[0] > 8999 and found.energies[-1] < 9031
    assert found.mean == pytest.approx(9015, rel=1e-13)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "s.txt is empty: on each line give energy (eV), photons per eV"),
        (b"# only\n", "s.txt is empty"),
        (b"\xff\xfe", "s.txt is not a spectrum: it is not text"),
        (b"9000 1\n9010 x\n", "line 2 of s.txt: '9010 x' are not numbers"),
        (b"9000 1 2\n", "line 1 of s.txt: give energy (eV), photons per eV, finite numbers"),
        (b"9000 1\n9010 nan\n", "line 2 of s.txt: give"),
        (b"9000 1\n", "s.txt has one line of a spectrum"),
        (b"9000 1\n9000 2\n", "the energy 9000 comes after 9000; energies must rise"),
        (b"9010 1\n9000 2\n", "the energy 9000 comes after 9010"),
        (b"9.0 1\n9.1 2\n", "the energies are 9 to 9.1; give them in eV"),
        (b"9000 0\n9010 -2\n", "s.txt has no photons: all its values are 0 or below"),
    ],
)
def test_files_that_are_refused(content, words, tmp_cwd):
    Path("s.txt").write_bytes(content)
    with pytest.raises(Sorry, match=re.escape(words)) as caught:
        spectra.read_spectrum("s.txt", 25)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_cwd):
    for name in ("nowhere.txt", "."):
        with pytest.raises(Sorry, match=f"{re.escape(name)}, a spectrum, cannot be read"):
            spectra.read_spectrum(name, 25)


@pytest.mark.parametrize(
    ("energies", "weights", "words"),
    [
        ([9000.0, 9010.0], [0.5, math.inf], "numbers that are not finite"),
        ([9000.0, 9000.0], [1.0, 1.0], "energies must rise"),
        ([0.9, 0.91], [1.0, 1.0], "give them in eV"),
    ],
)
def test_spectra_of_dxtbx_that_are_refused(energies, weights, words):
    model = DxtbxSpectrum(flex.double(energies), flex.double(weights))
    with pytest.raises(Sorry, match=words):
        spectra.of_dxtbx(model, "it")
    with pytest.raises(Sorry, match="0 energies"):
        spectra.of_dxtbx(DxtbxSpectrum(), "it")
