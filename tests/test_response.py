"""What a detector makes of photons: point spread against scipy, noise against its moments, one
thing at a time, and the contract of the seeds."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from nanobragg_plugin import noise
from nanobragg_plugin.point_spread import FIBER_G, PointSpread, Spread, fiber_plane, gauss_line
from nanobragg_plugin.response import BadPixels, Detector, Response

SHAPES, SIZES = ((150, 200), (80, 90)), ((0.1, 0.1), (0.1, 0.2))
#: Nothing of a detector but what a test asks for.
EXACT = Response(poisson=False, rounded=False)


def detector(response: Response, gain: float = 1.0, offset: float = 0.0) -> Detector:
    return Detector(response, SHAPES, SIZES, [gain] * 2, [offset] * 2)


def flat(level: float) -> list[torch.Tensor]:
    return [torch.full(shape, level, dtype=torch.float64) for shape in SHAPES]


def values(response: Response, level: float = 100.0, image: int = 1, **of: float) -> torch.Tensor:
    """All pixels of a flat image."""
    return torch.cat([one.flatten() for one in detector(response, **of).read(flat(level), image)])


# ---- point spread


@pytest.mark.parametrize("fwhm", (0.2, 1.0, 3.7))
def test_a_gaussian_along_a_line(fwhm):
    """scipy's normal distribution, of sigma = fwhm/sqrt(8 ln 2). Measured worst 2e-16."""
    stats = pytest.importorskip("scipy.stats")
    edges = np.arange(-12, 14) - 0.5
    expected = np.diff(stats.norm.cdf(edges, scale=fwhm / math.sqrt(8 * math.log(2))))
    found = gauss_line(fwhm, 12)
    assert np.abs(found.numpy() - expected).max() < 1e-15 and abs(float(found.sum()) - 1) < 1e-12


@pytest.mark.parametrize("fwhm", ((0.6, 0.6), (2.5, 1.5)))
def test_a_fibre_taper(fwhm):
    """g/(2 pi) (g^2 + r^2)^(-3/2) (Holton et al. 2012), integrated over pixels by scipy; half of
    its middle at half its width. Where pixels are oblong, r is in mm."""
    integrate = pytest.importorskip("scipy.integrate")
    plane = fiber_plane(fwhm, (4, 3))
    for slow, fast in ((0, 0), (1, 0), (0, -2), (4, 3), (-3, 1)):
        expected, _ = integrate.dblquad(
            lambda x, y: FIBER_G / math.tau * (FIBER_G**2 + x * x + y * y) ** -1.5,
            (slow - 0.5) / fwhm[0],
            (slow + 0.5) / fwhm[0],
            (fast - 0.5) / fwhm[1],
            (fast + 0.5) / fwhm[1],
        )
        assert float(plane[slow + 4, fast + 3]) == pytest.approx(expected, rel=1e-7)
    assert ((FIBER_G**2 + 0.25) / FIBER_G**2) ** -1.5 == pytest.approx(0.5, rel=1e-12)


def test_the_tail_of_a_fibre_taper():
    """Of the whole 1 - g/sqrt(g^2 + R^2) falls within R, which falls off slowly; to the pixels
    that the circle cuts. Measured worst 3.3e-4."""
    plane = fiber_plane((2.0, 2.0), (300, 300))
    rows = torch.arange(-300, 301, dtype=torch.float64)
    radius = (rows[:, None] ** 2 + rows**2).sqrt()
    for limit in (20, 100, 290):
        expected = 1 - FIBER_G / math.sqrt(FIBER_G**2 + (limit / 2) ** 2)
        assert float(plane[radius < limit].sum()) == pytest.approx(expected, abs=1e-3)
    assert float(plane[radius < 20].sum()) < 0.95


@pytest.mark.parametrize("shape", ("gauss", "fiber"))
@pytest.mark.parametrize("size", ((7, 31), (40, 1), (33, 20)))
def test_spread_images(shape, size):
    """Against scipy's direct convolution with the whole kernel, whose tails leave the panel; of a
    gaussian what lies beyond its reach is below 1e-12. Measured worst 1.7e-13 of the brightest."""
    signal = pytest.importorskip("scipy.signal")
    image = 1000 * torch.rand(size, dtype=torch.float64, generator=torch.manual_seed(3)) ** 8
    widths = 0.25 / 0.1, 0.25 / 0.2  # slow, fast
    reach = tuple(n - 1 for n in size)
    if shape == "gauss":
        slow, fast = (gauss_line(w, n) for w, n in zip(widths, reach))
        kernel = torch.outer(slow, fast)
    else:
        kernel = fiber_plane(widths, reach)
    whole = signal.convolve2d(image.numpy(), kernel.numpy(), mode="full")
    expected = whole[reach[0] : reach[0] + size[0], reach[1] : reach[1] + size[1]]
    found = Spread(PointSpread(shape, 0.25), size, (0.2, 0.1))(image)
    assert found.shape == size and np.abs(found.numpy() - expected).max() <= 1e-12 * expected.max()
    assert float(found.sum()) < float(image.sum()) and float(found.min()) >= 0


def test_a_spread_wider_than_its_panel():
    for shape in ("gauss", "fiber"):
        found = Spread(PointSpread(shape, 50.0), (4, 3), (0.1, 0.1))(torch.ones(4, 3).double())
        assert found.isfinite().all() and 0 < float(found.sum()) < 0.1


@pytest.mark.parametrize("threads", (1, 2))
def test_a_spread_does_not_depend_on_threads(threads):
    before = torch.get_num_threads()
    image = torch.rand(300, 400, dtype=torch.float64, generator=torch.manual_seed(3))
    spread = Spread(PointSpread("fiber", 0.3), (300, 400), (0.1, 0.1))
    expected = spread(image)
    try:
        torch.set_num_threads(threads)
        assert torch.equal(spread(image), expected)
    finally:
        torch.set_num_threads(before)


# ---- noise, one thing at a time. 37200 pixels: means within 5 standard errors.


def within(found: torch.Tensor, mean: float, sigma: float) -> None:
    """Whether mean and standard deviation are those expected."""
    n = found.numel()
    assert abs(float(found.mean()) - mean) < 5 * sigma / math.sqrt(n)
    assert abs(float(found.std()) / sigma - 1) < 5 / math.sqrt(2 * n) * 1.3


def test_counting():
    """Poisson: variance = mean, whole numbers."""
    found = values(replace(EXACT, poisson=True))
    within(found, 100, 10)
    assert torch.equal(found, found.round())


def test_flicker():
    """Of photons that are counted: variance n + (f n)^2. Another in each image."""
    response = replace(EXACT, poisson=True, flicker=0.2)
    within(values(response), 100, math.sqrt(100 + 400))
    exact = replace(EXACT, flicker=0.2)
    one, other = values(exact), values(exact, image=2)
    within(one, 100, 20)
    assert abs(float(torch.corrcoef(torch.stack([one, other]))[0, 1])) < 0.03


def test_calibration():
    """The same in each image and of each seed of the noise, proportional to the signal; the noise
    is that of the photons which are counted."""
    response = replace(EXACT, calibration=0.05)
    one = values(response)
    within(one, 100, 5)
    assert torch.equal(one, values(replace(response, seed=9), image=7))
    assert torch.allclose(values(response, 300.0), 3 * one)
    assert not torch.equal(one, values(replace(response, calibration_seed=1)))
    within(values(replace(response, poisson=True)), 100, math.sqrt(100 + 25))


def test_large_noise_leaves_no_negative_photons():
    for name in ("flicker", "calibration"):
        found = values(replace(EXACT, poisson=True, **{name: 3.0}))
        assert found.min() == 0 and found.isfinite().all()


@pytest.mark.parametrize("model", ("nonparalyzable", "paralyzable"))
def test_dead_time(model):
    """Knoll's formulas; of half the exposure's time the loss is twice as large, of none nothing."""
    response = replace(EXACT, dead_time_s=1e-6, dead_time_model=model)
    (found, _) = detector(response).read(flat(1000.0), 1, exposure_s=0.01)
    share = 1000 * 1e-6 / 0.01
    expected = 1000 / (1 + share) if model == "nonparalyzable" else 1000 * math.exp(-share)
    assert float(found[0, 0]) == pytest.approx(expected, rel=1e-12)
    (found, _) = detector(response).read(flat(1000.0), 1)
    assert float(found[0, 0]) == 1000


def test_read_out():
    """Gain and offset, and noise in ADU that does not depend on the signal."""
    response = replace(EXACT, readout_noise_adu=3.0)
    for level in (0.0, 500.0):
        within(values(response, level, gain=1.8, offset=40.0), 1.8 * level + 40, 3)
    assert torch.equal(values(EXACT, 10.0, gain=1.8, offset=40.0).unique(), torch.tensor([58.0]))


def test_gain_of_each_pixel():
    gain = [torch.rand(shape, dtype=torch.float64) for shape in SHAPES]
    offset = [torch.rand(shape, dtype=torch.float64) for shape in SHAPES]
    found = Detector(EXACT, SHAPES, SIZES, gain, offset).read(flat(7.0), 1)
    assert all(torch.equal(f, 7 * g + o) for f, g, o in zip(found, gain, offset))


def test_zingers():
    """So many on average, of exponentially distributed signals, elsewhere in each image."""
    response = replace(EXACT, zingers=40.0, zinger_photons=500.0)
    found = [values(response, 0.0, image) for image in range(100)]
    counts = torch.tensor([float((one > 0).sum()) for one in found])
    assert abs(float(counts.mean()) - 40) < 5 * math.sqrt(40 / 100)
    signals = torch.cat([one[one > 0] for one in found])
    assert abs(float(signals.mean()) / 500 - 1) < 5 / math.sqrt(len(signals))
    assert abs(float(signals.std()) / 500 - 1) < 0.1
    assert not torch.equal(found[0], found[1])


def test_bad_pixels():
    """Dead ones read the offset, hot ones their own, the same ones in each image."""
    response = replace(EXACT, bad=BadPixels(dead=0.02, hot=0.01, hot_adu=900.0))
    found = values(response, 10.0, gain=2.0, offset=5.0)
    assert set(found.unique().tolist()) == {5.0, 25.0, 900.0}
    for value, share in ((5.0, 0.02), (900.0, 0.01)):
        count = float((found == value).sum())
        assert abs(count - share * found.numel()) < 5 * math.sqrt(share * found.numel())
    assert torch.equal(found, values(replace(response, seed=5), 10.0, 3, gain=2.0, offset=5.0))
    other = replace(response, bad=replace(response.bad, seed=1))
    assert not torch.equal(found, values(other, 10.0, gain=2.0, offset=5.0))
    everything = replace(EXACT, bad=BadPixels(dead=0.4, hot=0.6, hot_adu=1.0))
    assert set(values(everything).unique().tolist()) == {0.0, 1.0}


def test_whole_numbers_and_saturation():
    response = replace(EXACT, rounded=True, saturation_adu=30.0)
    assert values(response, 10.4).unique().item() == 10
    assert values(response, 31.0).unique().item() == 30
    assert values(replace(response, readout_noise_adu=4.0), 29.0).max() == 30


# ---- order and seeds


def test_the_order():
    """Counted before they are spread, so that neighbours' noise is alike; read-out noise after."""
    spread = PointSpread("gauss", 0.3)
    counted = detector(replace(EXACT, poisson=True, spread=spread)).read(flat(100.0), 1)[0]
    inner = counted[20:-20, 20:-20] - counted.mean()
    alike = float((inner[:, 1:] * inner[:, :-1]).mean() / inner.square().mean())
    line = gauss_line(3.0, 12)
    assert alike == pytest.approx(
        float((line[1:] * line[:-1]).sum() / line.square().sum()), abs=0.05
    )
    read = detector(replace(EXACT, spread=spread, readout_noise_adu=5.0)).read(flat(100.0), 1)[0]
    inner = read[20:-20, 20:-20] - 100
    assert abs(float((inner[:, 1:] * inner[:, :-1]).mean() / inner.square().mean())) < 0.05


def test_noises_do_not_change_each_other():
    """Each has numbers of its own: what else there is leaves the counts as they were."""
    plain = replace(EXACT, poisson=True)
    counts = values(plain, 3.0)
    bad = BadPixels(dead=1e-3)
    assert torch.equal(values(replace(plain, calibration_seed=4), 3.0), counts)
    unlike = (values(replace(plain, bad=bad), 3.0) != counts).sum()
    assert 0 < unlike < 100
    added = values(replace(plain, readout_noise_adu=1.0), 3.0) - counts
    assert torch.allclose(
        added, values(replace(EXACT, readout_noise_adu=1.0), 3.0) - 3.0, atol=1e-12
    )


def test_seed_and_number_decide():
    """In whatever order images are read, and again."""
    response = Response(
        flicker=0.1, readout_noise_adu=2.0, zingers=3.0, zinger_photons=50.0, calibration=0.1
    )
    one = detector(response)
    first = [torch.cat([p.flatten() for p in one.read(flat(20.0), n)]) for n in (1, 2, 3)]
    again = [values(response, 20.0, n) for n in (3, 1, 2)]
    assert torch.equal(first[2], again[0]) and torch.equal(first[0], again[1])
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], values(replace(response, seed=1), 20.0, 1))


def test_counts_are_those_of_earlier_versions():
    """The numbers of (seed, image), by a digest that is written out here."""
    import hashlib

    digest = hashlib.sha256(b"nanobragg noise 5 17").digest()
    expected = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    found = noise.poisson(flat(2.0), 5, 17)
    assert all(torch.equal(f, torch.poisson(e, expected)) for f, e in zip(found, flat(2.0)))


@pytest.mark.parametrize(
    "wrong",
    (
        {"flicker": -0.1},
        {"readout_noise_adu": float("nan")},
        {"dead_time_model": "other"},
        {"bad": BadPixels(dead=0.7, hot=0.7)},
    ),
)
def test_what_is_refused(wrong):
    with pytest.raises(ValueError):
        replace(EXACT, **wrong)


def test_what_is_no_point_spread():
    for wrong in (("square", 1.0), ("gauss", 0.0), ("fiber", -1.0), ("gauss", float("nan"))):
        with pytest.raises(ValueError):
            PointSpread(*wrong)
