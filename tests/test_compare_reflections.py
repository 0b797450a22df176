# ruff: noqa: E402
"""Reflection tables against true ones: matching as dials does it, known shifts, known noise."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("dials")

import compare_helpers as helpers
import numpy as np
from cctbx import sgtbx
from dials.array_family import flex
from libtbx.utils import Sorry
from scipy.optimize import minimize_scalar
from scipy.stats import norm

from nanobragg_plugin.compare.matching import match
from nanobragg_plugin.compare.shells import Shells, correlation, distribution, scale_of

QUIET = ("output.html=None", "output.log=None")


@pytest.fixture
def truth(tmp_cwd: Path) -> flex.reflection_table:
    """true.expt and true.refl in the working directory."""
    experiment = helpers.sweep()
    helpers.write("true.expt", experiment)
    table = helpers.truth_table(experiment)
    table.as_file("true.refl")
    return table


def compared(other: flex.reflection_table, *args: str, expt: str = "") -> dict:
    """The reflections' figures of true.refl and another table."""
    other.as_file("other.refl")
    files = ["true.expt", "true.refl", *([expt] if expt else []), "other.refl"]
    return helpers.compare(*files, *QUIET, *args)["reflections"]


def test_matching_is_that_of_dials(truth: flex.reflection_table) -> None:
    """dials' `match` (the nearest, by annlib) and `match_with_reference` (the same index) find the
    same pairs. Spots are up to 0.2 pixel off and in another order; both panels as one."""
    rng = np.random.default_rng(3)
    order = rng.permutation(len(truth))
    other = truth.select(flex.size_t(order.tolist()))
    other["xyzcal.px"] = helpers.shifted(
        other["xyzcal.px"], rng.uniform(-0.2, 0.2, (len(truth), 3))
    )
    places = [np.array(table["xyzcal.px"]) for table in (truth, other)]
    none = np.zeros((len(truth), 1), int)
    one, two = match(*places, (none, none), np.array((2.0, 2.0, 2.0)))
    assert len(one) > 0.98 * len(truth)  # neighbours may be each other's nearest
    mine, theirs, _ = truth.match(other, max_separation=2, key="xyzcal.px")
    nearest = dict(zip(mine, theirs))
    assert all(nearest[i] == j for i, j in zip(one, two))
    labels = [
        np.column_stack((np.array(t["panel"]), np.array(t["miller_index"]).reshape(-1, 3)))
        for t in (truth, other)
    ]
    one, two = match(*places, tuple(labels), np.array((2.0, 2.0, 2.0)))
    matched, _, unmatched = truth.match_with_reference(other)
    assert matched.count(True) == len(one) == len(truth) and len(unmatched) == 0
    assert (order[two] == one).all()


def test_matching_is_mutual_and_keeps_labels_apart() -> None:
    true = np.array([[10, 10, 1], [11, 10, 1], [10, 10, 1], [50, 50, 1], [np.nan, 0, 0]], float)
    other = np.array([[10.2, 10, 1], [10.4, 10, 1], [51.9, 50, 1], [52.5, 50, 1]], float)
    labels = np.array([0, 0, 1, 0, 0])[:, None], np.zeros((4, 1), int)
    one, two = match(true, other, labels, np.array((2.0, 2.0, 2.0)))
    # 10.4 is nearest to 10.0 too, which has a nearer one: it stays alone, and so does 11.0
    assert list(zip(one, two)) == [(0, 0), (3, 2)]
    assert len(match(true[:0], other, (labels[0][:0], labels[1]), np.ones(3))[0]) == 0


def test_found_missed_and_false(truth: flex.reflection_table) -> None:
    """Known numbers of each: the brightest 300 with 40 left out, 25 dim ones, 17 in the dark."""
    photons = np.array(truth["intensity.sum.value"])
    order = np.argsort(-photons)
    threshold = (photons[order[299]] + photons[order[300]]) / 2
    shown = np.concatenate((order[40:300], order[300:325]))
    found = helpers.strong_of(truth.select(flex.size_t(shown.tolist())), (0.3, -0.2, 0.1))
    dark = helpers.strong_of(truth.select(flex.size_t(order[:17].tolist())))
    dark["xyzobs.px.value"] = flex.vec3_double(
        [(200.0 + i, 300.0, helpers.FIRST + 5.0) for i in range(17)]  # beyond the panel
    )
    found.extend(dark)
    figures = compared(found, f"reflections.threshold={threshold}")
    # spots that lie on each other are taken for one
    assert figures["true"] == 300
    assert figures["false"] == 17
    assert abs(figures["found"] - 260) <= 2 and abs(figures["below_threshold"] - 25) <= 2
    assert figures["found"] + figures["missed"] == 300
    assert figures["found_percent"] == pytest.approx(100 * figures["found"] / 300)
    for name in ("true", "found", "missed", "other", "below_threshold", "false"):
        assert sum(shell[name] for shell in figures["shells"]) == figures[name]
    edges = [shell["d_max"] for shell in figures["shells"]]
    assert edges == sorted(edges, reverse=True) and len(edges) == 10


@pytest.mark.parametrize("shift", [(0.4, 0, 0), (0, -0.3, 0), (0, 0, 0.25)])
def test_centroid_errors(truth: flex.reflection_table, shift: tuple) -> None:
    """A shift along one axis is that axis' mean error, and the other two have none."""
    figures = compared(helpers.strong_of(truth, shift), "reflections.threshold=0")
    errors = figures["centroids"]["observed"]
    assert "predicted" not in figures["centroids"]
    assert errors["n"] > 0.98 * len(truth)
    assert errors["median"] == pytest.approx(np.abs(shift), abs=1e-9)
    # the few that are taken for a neighbour are off by up to 2
    assert errors["mean"] == pytest.approx(shift, abs=0.01)
    assert all(s["mean"] == pytest.approx(shift, abs=0.05) for s in errors["shells"] if s["n"] > 50)


def test_centroid_noise(truth: flex.reflection_table) -> None:
    """Normal noise of known width: rms is its width; measured: 1.5 % off."""
    noise = np.random.default_rng(5).normal(0, (0.1, 0.2, 0.15), (len(truth), 3))
    found = helpers.strong_of(truth)
    found["xyzobs.px.value"] = helpers.shifted(found["xyzobs.px.value"], noise)
    errors = compared(found, "reflections.threshold=0")["centroids"]["observed"]
    assert errors["rms"] == pytest.approx([0.1, 0.2, 0.15], rel=0.06)


@pytest.mark.parametrize("operator", ["a,b,c", "c,a,b", "a,a+b,c"])
def test_indices_in_another_setting(truth: flex.reflection_table, operator: str) -> None:
    """Indices by cctbx's change of basis are the same; 30 of another index are told."""
    change = sgtbx.change_of_basis_op(operator)
    helpers.write("other.expt", helpers.sweep(crystal=helpers.crystal().change_basis(change)))
    photons = np.array(truth["intensity.sum.value"])
    other = helpers.integrated_of(truth, photons, np.sqrt(photons))
    hkl = [change.apply(h) for h in truth["miller_index"]]
    wrong = [(h[0], h[1], h[2] + 1) for h in hkl[:30]]
    other["miller_index"] = flex.miller_index([*wrong, *hkl[30:]])
    figures = compared(other, expt="other.expt")
    indexing, n = figures["indexing"], len(truth)
    assert indexing["indexed"] == n
    assert n - indexing["of_those_found"] < 0.01 * n
    assert indexing["of_those_found"] - indexing["right"] == pytest.approx(30, abs=2)
    # those with a wrong index take no part
    assert figures["intensities"]["n"] == n - 30
    assert figures["intensities"]["cc"] == pytest.approx(1)
    assert figures["intensities"]["r"] == pytest.approx(0, abs=1e-12)
    without = compared(other)  # one list serves both, and its indices are not trusted
    assert without["indexing"] is None


def test_intensities(truth: flex.reflection_table) -> None:
    """Normal noise of the stated sigma on 1.7 times the photons; CC by numpy, R by its formula."""
    rng = np.random.default_rng(8)
    photons = np.array(truth["intensity.sum.value"])
    sigma = np.sqrt(photons) + 1
    values = 1.7 * photons + sigma * rng.normal(size=len(photons))
    helpers.write("other.expt", helpers.sweep())
    other = helpers.integrated_of(truth, values, sigma)
    found = compared(other, expt="other.expt")["intensities"]
    assert found["column"] == "intensity.prf" and found["scale_fitted"]
    assert found["scale"] == pytest.approx(1.7, rel=0.01)
    assert found["cc"] == pytest.approx(np.corrcoef(photons, values)[0, 1])
    k = found["scale"]
    assert found["r"] == pytest.approx(np.abs(values - k * photons).sum() / (k * photons).sum())
    spread = found["deviation_over_sigma"]
    assert spread["n"] == len(truth)
    assert (spread["mean"], spread["median"]) == pytest.approx((0, 0), abs=0.1)
    assert (spread["width"], spread["robust_width"]) == pytest.approx((1, 1), rel=0.06)
    deviation = (values - k * photons) / sigma
    assert spread["width"] == pytest.approx(deviation.std())
    inside = sum(spread["counts"])
    assert inside + spread["below"] + spread["above"] == len(truth)
    edges = np.array(spread["edges"])
    expected = inside * np.diff(norm.cdf(edges))
    chi2 = ((np.array(spread["counts"]) - expected) ** 2 / (expected + 1)).sum()
    assert chi2 < 90  # of 48 bins; measured: 32
    given = compared(other, "reflections.scale=1", expt="other.expt")["intensities"]
    assert given["scale"] == 1 and given["deviation_over_sigma"]["mean"] > 2


def test_which_intensities(truth: flex.reflection_table) -> None:
    """sum or profile; what was not integrated, is bad or partial does not count."""
    helpers.write("other.expt", helpers.sweep())
    photons = np.array(truth["intensity.sum.value"])
    other = helpers.integrated_of(truth, photons, np.sqrt(photons) + 1)
    other["intensity.sum.value"] = flex.double(3 * photons)
    one = compared(other, expt="other.expt")
    two = compared(other, "reflections.intensity=sum", expt="other.expt")
    assert one["intensities"]["scale"] == pytest.approx(1)
    assert two["intensities"]["scale"] == pytest.approx(3)
    assert two["intensities"]["column"] == "intensity.sum"
    n = len(truth)
    partial = np.where(np.arange(n) < 20, 0.5, 1.0)
    other["partiality"] = flex.double(partial)
    bad = flex.bool((np.arange(n) >= n - 10).tolist())
    other.set_flags(bad, other.flags.excluded_for_scaling)
    assert compared(other, expt="other.expt")["intensities"]["n"] == n - 30
    loose = compared(other, "reflections.min_partiality=0.4", expt="other.expt")
    assert loose["intensities"]["n"] == n - 10
    sums = compared(other, "reflections.intensity=sum", expt="other.expt")
    assert sums["intensities"]["n"] == n - 10
    other.unset_flags(bad, other.flags.integrated_sum | other.flags.integrated_prf)
    assert compared(other, expt="other.expt")["other"] == n - 10


def test_predictions_go_with_predictions(truth: flex.reflection_table) -> None:
    """Where only part of a reflection was recorded its photons' centroid is off its prediction by
    more than the tolerance: integrated reflections are found by the latter all the same."""
    photons = np.array(truth["intensity.sum.value"])
    other = helpers.integrated_of(truth, photons, np.sqrt(photons) + 1)
    truth["xyzobs.px.value"] = helpers.shifted(truth["xyzcal.px"], np.array((0, 0, 3.0)))
    truth.as_file("true.refl")
    figures = compared(other, "reflections.threshold=0")
    assert figures["found"] > 0.98 * len(truth)
    errors = figures["centroids"]
    assert errors["predicted"]["median"] == pytest.approx([0, 0, 0], abs=1e-9)
    assert errors["observed"]["median"] == pytest.approx([0, 0, 3], abs=1e-9)
    strong = compared(helpers.strong_of(truth), "reflections.threshold=0")
    assert strong["found"] > 0.98 * len(truth)


def test_tolerances(truth: flex.reflection_table) -> None:
    far = helpers.strong_of(truth, (1.5, 0, 0))
    late = helpers.strong_of(truth, (0, 0, 1.5))
    zero = "reflections.threshold=0"
    for table, name in ((far, "tolerance_px"), (late, "tolerance_images")):
        assert compared(table, zero)["found"] > 0.9 * len(truth)
        assert compared(table, zero, f"reflections.{name}=1")["found"] < 0.1 * len(truth)


def test_not_a_number(truth: flex.reflection_table) -> None:
    """Positions and intensities that are none count as not found, and nothing else is lost."""
    photons = np.array(truth["intensity.sum.value"])
    found = helpers.strong_of(truth)
    places = np.array(found["xyzobs.px.value"])
    places[:50] = np.nan
    found["xyzobs.px.value"] = flex.vec3_double(places)
    photons[50:60] = np.nan
    found["intensity.sum.value"] = flex.double(photons)
    figures = compared(found, "reflections.threshold=0")
    assert figures["missed"] == pytest.approx(50, abs=2)
    assert figures["intensities"]["n"] == pytest.approx(len(truth) - 60, abs=2)
    assert figures["intensities"]["cc"] == pytest.approx(1, abs=1e-3)


def test_panels_are_told_apart(truth: flex.reflection_table) -> None:
    """Spots of panel 0 on panel 1 are false."""
    found = helpers.strong_of(truth.select(truth["panel"] == 0))
    found["panel"] = flex.size_t(len(found), 1)
    figures = compared(found, "reflections.threshold=0")
    assert figures["false"] > 0.8 * len(found)  # some are there by chance


def test_without_models(truth: flex.reflection_table) -> None:
    """Two tables alone: as if one list belonged to both, but for the resolution of what is
    false."""
    helpers.strong_of(truth, (0.1, 0, 0)).as_file("strong.refl")
    zero = "reflections.threshold=0"
    alone = helpers.compare("true.refl", "strong.refl", zero, *QUIET)["reflections"]
    listed = helpers.compare("true.expt", "true.refl", "strong.refl", zero, *QUIET)["reflections"]
    assert alone["found"] == listed["found"] > 0.98 * len(truth)


def test_several_sweeps(tmp_cwd: Path) -> None:
    """Reflections of one sweep do not match those of another in the same place."""
    sweeps = [helpers.sweep(), helpers.sweep()]
    helpers.write("true.expt", *sweeps)
    tables = [helpers.truth_table(one, number=i) for i, one in enumerate(sweeps)]
    n = len(tables[0])
    true = tables[0].select(flex.bool((np.arange(n) < n // 2).tolist()))
    true.extend(tables[1])
    true.as_file("true.refl")
    found = helpers.strong_of(tables[0])
    for number, expected in ((0, n // 2), (1, n)):
        found["id"] = flex.int(n, number)
        found.as_file("strong.refl")
        figures = helpers.compare(
            "true.expt", "true.refl", "strong.refl", "reflections.threshold=0", *QUIET
        )["reflections"]
        assert figures["found"] == pytest.approx(expected, abs=0.02 * n)


def test_scale_is_that_of_the_least_r() -> None:
    """scipy's minimum of sum |I - k I_true|, with outliers; NaN where nothing is true."""
    rng = np.random.default_rng(2)
    true = rng.exponential(100, 301)
    found = 0.8 * true + rng.normal(0, 5, 301)
    found[:10] *= 50
    least = minimize_scalar(lambda k: np.abs(found - k * true).sum(), (0.5, 1.0), tol=1e-12)
    assert scale_of(found, true) == pytest.approx(least.x, rel=1e-3)
    assert np.abs(found - scale_of(found, true) * true).sum() <= least.fun * (1 + 1e-9)
    assert np.isnan(scale_of(found, np.zeros(301)))


def test_shells() -> None:
    """Equal volumes: uniform points in a sphere are shared out evenly; ends are within."""
    rng = np.random.default_rng(4)
    d = 1 / (0.5 * rng.uniform(size=20000) ** (1 / 3))
    shells = Shells.of(d, 8, 3)
    counts = np.bincount(shells.number(d), minlength=8)
    assert counts.sum() == 20000 and counts == pytest.approx(np.full(8, 2500), rel=0.08)
    odd = np.array([np.nan, np.inf, 0.0, -1.0, d.min() * 0.9, d.max() * 1.1])
    assert (shells.number(odd) == -1).all()
    assert len(Shells.of(odd[:4], 8, 3)) == 0


def test_statistics_of_nothing() -> None:
    assert np.isnan(correlation(np.ones(5), np.arange(5.0)))
    assert np.isnan(correlation(np.ones(0), np.ones(0)))
    empty = distribution(np.zeros(0))
    assert empty["n"] == 0 and np.isnan(empty["width"]) and empty["counts"].sum() == 0


def test_a_table_of_another_list(truth: flex.reflection_table) -> None:
    """A table that speaks of an experiment that its list has not is refused."""
    found = helpers.strong_of(truth)
    found["id"] = flex.int(len(found), 4)
    with pytest.raises(Sorry, match="reflections of experiment 4, its experiment list holds 1"):
        compared(found)
