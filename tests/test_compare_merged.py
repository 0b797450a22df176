# ruff: noqa: E402
"""Merged intensities against true ones: cctbx's own correlation and R, tables by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("dials")

import compare_helpers as helpers
import numpy as np
from cctbx import crystal, miller, sgtbx
from cctbx.array_family import flex
from libtbx.utils import Sorry

QUIET = ("output.html=None", "output.log=None")
SYMBOL = "P43212"


def made_up(symbol: str = SYMBOL, seed: int = 1, anomalous: bool = False) -> Any:
    """Intensities, sigmas 5 % and 1, of the tetragonal cell of the helpers."""
    symmetry = crystal.symmetry((45, 45, 70, 90, 90, 90), symbol)
    members = miller.build_set(symmetry, anomalous_flag=anomalous, d_min=2.0)
    rng = np.random.default_rng(seed)
    values = rng.exponential(800.0, members.size())
    return miller.array(
        members, flex.double(values), flex.double(0.05 * values + 1)
    ).set_observation_type_xray_intensity()


def noisy(true: Any, scale: float, seed: int = 2) -> Any:
    """The same times `scale`, with normal noise of the sigmas, times it too."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=true.size()) * true.sigmas().as_numpy_array()
    data = scale * (true.data().as_numpy_array() + noise)
    result = true.customized_copy(data=flex.double(data), sigmas=scale * true.sigmas())
    return result.set_observation_type_xray_intensity()


def write(array: Any, name: str, label: str = "I") -> str:
    array.as_mtz_dataset(column_root_label=label).mtz_object().write(name)
    return name


def test_two_mtz_files(tmp_cwd: Path) -> None:
    """CC by cctbx, R by its formula, scale and width of the deviations as they were put in."""
    true = made_up()
    found = noisy(true, 3.5).select(flex.bool((np.arange(true.size()) % 4 > 0).tolist()))
    write(true, "true.mtz")
    write(found, "found.mtz")
    figures = helpers.compare("true.mtz", "found.mtz", *QUIET)["merged"]
    assert (figures["n_true"], figures["n_other"]) == (true.size(), found.size())
    one, two = true.common_sets(found)
    assert figures["n"] == one.size()
    assert figures["cc"] == pytest.approx(one.correlation(two).coefficient(), abs=1e-6)
    assert figures["scale"] == pytest.approx(3.5, rel=0.01)
    a, b = (x.data().as_numpy_array() for x in (one, two))
    k = figures["scale"]
    assert figures["r"] == pytest.approx(np.abs(b - k * a).sum() / (k * a).sum(), rel=1e-5)
    spread = figures["deviation_over_sigma"]
    assert (spread["mean"], spread["width"]) == pytest.approx((0, 1), abs=0.05)
    # shells of equal volume hold as many reflections each, but for the first
    counts = [shell["n"] for shell in figures["shells"]]
    assert sum(counts) == figures["n"] and max(counts) < 1.2 * min(counts)
    for shell in figures["shells"]:
        within = (one.d_spacings().data() <= shell["d_max"] + 1e-9) & (
            one.d_spacings().data() >= shell["d_min"] - 1e-9
        )
        cc = one.select(within).correlation(two.select(within)).coefficient()
        assert shell["cc"] == pytest.approx(cc, abs=1e-3)


def test_amplitudes_and_friedel_mates(tmp_cwd: Path) -> None:
    """The truth as amplitudes, the other as intensities of Friedel mates: merged, as cctbx does."""
    true = made_up()
    write(true.customized_copy(sigmas=None).f_sq_as_f(), "true.mtz", "F")
    mates = true.generate_bijvoet_mates().set_observation_type_xray_intensity()
    write(mates, "mates.mtz")
    figures = helpers.compare("true.mtz", "mates.mtz", *QUIET)["merged"]
    assert figures["n"] == true.size()
    assert figures["cc"] == pytest.approx(1, abs=1e-9)
    assert figures["scale"] == pytest.approx(1, rel=1e-5)


def test_labels(tmp_cwd: Path) -> None:
    """Of several arrays one is chosen, intensities first; labels choose another."""
    one, two = made_up(seed=1), made_up(seed=7)
    dataset = one.as_mtz_dataset(column_root_label="IA")
    dataset.add_miller_array(two, column_root_label="IB")
    dataset.mtz_object().write("both.mtz")
    write(one, "one.mtz")
    with pytest.raises(Sorry, match="several arrays .*IA,SIGIA; IB,SIGIB: choose .*other_labels"):
        helpers.compare("one.mtz", "both.mtz", *QUIET)
    for label, cc in (("IA", 1.0), ("IB", 0.0)):
        given = f"merged.other_labels={label}"
        figures = helpers.compare("one.mtz", "both.mtz", given, *QUIET)["merged"]
        assert figures["cc"] == pytest.approx(cc, abs=0.05)
        given = f"merged.true_labels={label}"
        figures = helpers.compare("both.mtz", "one.mtz", given, *QUIET)["merged"]
        assert figures["cc"] == pytest.approx(cc, abs=0.05)
    with pytest.raises(Sorry, match="no amplitudes or intensities with the labels IC"):
        helpers.compare("one.mtz", "both.mtz", "merged.other_labels=IC", *QUIET)


@pytest.fixture
def scaled(tmp_cwd: Path) -> Any:
    """true.expt, true.refl, F.mtz and scaled.refl of a tetragonal crystal, indices as in truth."""
    experiment = helpers.sweep(crystal=helpers.crystal(symbol=SYMBOL))
    helpers.write("true.expt", experiment)
    true = made_up()
    table = helpers.truth_table(experiment)
    lookup = dict(zip(true.indices(), true.data()))
    asu = miller.set(true.crystal_symmetry(), table["miller_index"], anomalous_flag=False)
    values = np.array([lookup.get(h, 0.0) for h in asu.map_to_asu().indices()])
    table["f_squared"] = flex.double(values)
    table.as_file("true.refl")
    write(true, "F.mtz")
    rng = np.random.default_rng(4)
    sigma = 0.02 * values + 1
    found = helpers.scaled_of(table, 0.3 * (values + sigma * rng.normal(size=len(values))), sigma)
    found.as_file("scaled.refl")
    return found, values


def test_scaled_reflections(scaled: Any) -> None:
    """Merged, the scale factor taken off: against the truth as MTZ, in either order, and as
    table."""
    table, _ = scaled
    first = helpers.compare("F.mtz", "scaled.refl", *QUIET)["merged"]
    assert helpers.compare("scaled.refl", "F.mtz", *QUIET)["merged"] == first
    assert first["cc"] > 0.999 and first["scale"] == pytest.approx(0.3, rel=0.01)
    of_table = helpers.compare("true.expt", "true.refl", "scaled.refl", *QUIET)
    assert of_table["merged"]["cc"] == pytest.approx(first["cc"], abs=1e-3)
    assert of_table["reflections"]["found"] > 0
    unique = {
        tuple(h)
        for h in miller.set(
            crystal.symmetry((45, 45, 70, 90, 90, 90), SYMBOL), table["miller_index"], False
        )
        .map_to_asu()
        .indices()
    }
    assert first["n"] <= len(unique) == first["n_other"]


def test_scaled_reflections_in_another_setting(scaled: Any) -> None:
    """Indices of another setting are taken back by both lists; without these CC is lost."""
    table, _ = scaled
    change = sgtbx.change_of_basis_op("c,a,b")
    turned = helpers.crystal(symbol=SYMBOL)
    turned.set_space_group(sgtbx.space_group_info("P1").group())
    helpers.write("other.expt", helpers.sweep(crystal=turned.change_basis(change)))
    table["miller_index"] = flex.miller_index([change.apply(h) for h in table["miller_index"]])
    table.as_file("turned.refl")
    both = helpers.compare("true.expt", "F.mtz", "other.expt", "turned.refl", *QUIET)
    assert both["merged"]["cc"] > 0.999
    assert helpers.compare("F.mtz", "turned.refl", *QUIET)["merged"]["cc"] < 0.5
    far = helpers.sweep(crystal=helpers.crystal(helpers.turn((1, 0, 0), 33)))
    helpers.write("far.expt", far)
    with pytest.raises(Sorry, match="have not the lattices of the true ones"):
        helpers.compare("true.expt", "F.mtz", "far.expt", "turned.refl", *QUIET)


def test_truth_table_and_merged_file(scaled: Any) -> None:
    """A truth table is the truth beside an MTZ file, in either order; it needs the crystal."""
    write(noisy(made_up(), 2.0), "found.mtz")
    one = helpers.compare("true.expt", "found.mtz", "true.refl", *QUIET)
    assert one["truth"] == ["true.expt", "true.refl"] and one["other"] == ["found.mtz"]
    assert one["merged"]["scale"] == pytest.approx(2, rel=0.05)
    with pytest.raises(Sorry, match="give the true experiment list too"):
        helpers.compare("true.refl", "found.mtz", *QUIET)


def test_nothing_scaled(scaled: Any) -> None:
    table, _ = scaled
    plain = helpers.strong_of(table)
    plain.as_file("strong.refl")
    with pytest.raises(Sorry, match="strong.refl has no scaled intensities: run dials.scale"):
        helpers.compare("F.mtz", "strong.refl", *QUIET)
    table.set_flags(flex.bool(len(table), True), table.flags.excluded_for_scaling)
    table.as_file("bad.refl")
    with pytest.raises(Sorry, match="no scaled reflections that are good"):
        helpers.compare("F.mtz", "bad.refl", *QUIET)
    far = made_up().select(made_up().d_spacings().data() < 2.2)  # the table ends at 2.28
    write(far, "far.mtz")
    with pytest.raises(Sorry, match="no unique reflection is on both sides"):
        helpers.compare("far.mtz", "scaled.refl", *QUIET)
