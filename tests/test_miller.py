"""Files of every kind against cctbx: |F| of each P1 index, summed over all atoms of the cell."""

from __future__ import annotations

import miller_files as mf
import pytest
import torch  # noqa: F401  (before cctbx, which loads an OpenMP stub)
from cctbx import crystal, miller, sgtbx, uctbx
from cctbx.array_family import flex
from iotbx.scalepack import merge
from libtbx.utils import Sorry

from nanobragg_plugin.adapters import in_reach
from nanobragg_plugin.adapters.crystal_symmetry import require_agreeing_group
from nanobragg_plugin.adapters.miller import (
    made_up_structure_factors,
    structure_factors_from_params,
)

GROUPS = list(mf.CELLS)
BOTH = pytest.mark.parametrize("anomalous", [False, True], ids=["merged", "anomalous"])


def asu_amplitudes(symbol: str, anomalous: bool = False) -> miller.array:
    """Amplitudes of the asymmetric unit alone."""
    f_calc = mf.structure(symbol, anomalous).structure_factors(
        d_min=mf.D_MIN, anomalous_flag=anomalous, algorithm="direct"
    )
    return f_calc.f_calc().amplitudes().set_observation_type_xray_amplitude()


def asu_intensities(symbol: str, anomalous: bool = False) -> miller.array:
    """Intensities, with sigmas."""
    squares = asu_amplitudes(symbol, anomalous).f_as_f_sq()
    with_sigmas = squares.customized_copy(sigmas=flex.double(squares.size(), 1.0))
    return with_sigmas.set_observation_type_xray_intensity()


def write_mtz(array: miller.array, path, label: str = "F") -> str:
    array.as_mtz_dataset(column_root_label=label).mtz_object().write(str(path))
    return str(path)


@BOTH
@pytest.mark.parametrize("symbol", GROUPS)
def test_mtz(symbol, anomalous, tmp_path):
    path = write_mtz(asu_amplitudes(symbol, anomalous), tmp_path / "f.mtz")
    sf, summary = mf.read(path, symbol)
    truth = mf.p1_truth(mf.structure(symbol, anomalous), symbol)
    assert mf.worst(sf, truth) < 3e-7  # float32 of the file; measured worst 6e-8
    assert summary.completeness == 1.0 and not summary.notes
    assert summary.n_unique == asu_amplitudes(symbol, anomalous).size()


@BOTH
@pytest.mark.parametrize("symbol", ["C 1 2 1", "P 43 21 2", "R 3 :H"])
def test_cif(symbol, anomalous, tmp_path):
    path = tmp_path / "f.cif"
    with path.open("w") as stream:
        asu_intensities(symbol, anomalous).as_cif_simple("meas", out=stream)
    sf, summary = mf.read(path, symbol)
    truth = mf.p1_truth(mf.structure(symbol, anomalous), symbol)
    assert mf.worst(sf, truth) < 5e-6  # I to 6 figures; measured worst 1.8e-6
    assert "sqrt(I), 0 negative" in summary.how


@BOTH
@pytest.mark.parametrize("symbol", ["P 1 21 1", "P 43 21 2", "I 2 3"])
def test_scalepack(symbol, anomalous, tmp_path):
    path = tmp_path / "i.sca"
    merge.write(file_name=str(path), miller_array=asu_intensities(symbol, anomalous))
    sf, _ = mf.read(path, symbol)
    # I to one decimal, so 0.2 electrons where F is small; measured worst 1.4e-3
    assert mf.worst(sf, mf.p1_truth(mf.structure(symbol, anomalous), symbol)) < 3e-3


@pytest.mark.parametrize("what", ["amplitudes", "intensities"])
def test_shelx_takes_the_symmetry_of_the_crystal(what, tmp_path):
    symbol = "P 43 21 2"
    array = asu_amplitudes(symbol) if what == "amplitudes" else asu_intensities(symbol)
    array = array.customized_copy(sigmas=flex.double(array.size(), 1.0))
    path = tmp_path / "f.hkl"
    with path.open("w") as stream:
        array.export_as_shelx_hklf(stream, normalise_if_format_overflow=False)
    sf, summary = mf.read(path, symbol, observation_type=what)
    assert mf.worst(sf, mf.p1_truth(mf.structure(symbol), symbol)) < 1e-3
    assert "the crystal's, P 43 21 2, was used" in str(summary)
    with pytest.raises(Sorry, match="structure_factors.observation_type"):
        mf.read(path, symbol)


def test_cns_does_not_say_what_it_holds(tmp_path):
    path = tmp_path / "f.cns"
    with path.open("w") as stream:
        asu_amplitudes("P 43 21 2").export_as_cns_hkl(stream)
    with pytest.raises(Sorry, match="DATA.*structure_factors.observation_type"):
        mf.read(path, "P 43 21 2")
    sf, _ = mf.read(path, "P 43 21 2", observation_type="amplitudes")
    assert mf.worst(sf, mf.p1_truth(mf.structure("P 43 21 2"), "P 43 21 2")) < 1e-5


def test_complex_structure_factors_lose_their_phases(tmp_path):
    f_calc = mf.structure("C 1 2 1").structure_factors(d_min=mf.D_MIN, algorithm="direct")
    path = write_mtz(f_calc.f_calc(), tmp_path / "fc.mtz", "FC")
    sf, summary = mf.read(path, "C 1 2 1")
    assert mf.worst(sf, mf.p1_truth(mf.structure("C 1 2 1"), "C 1 2 1")) < 3e-7
    assert "complex" in summary.how


def test_unmerged_observations_are_merged(tmp_path):
    symbol = "P 43 21 2"
    once = asu_intensities(symbol).generate_bijvoet_mates()
    twice = [
        once.customized_copy(data=once.data() * factor, anomalous_flag=True)
        for factor in (0.9, 1.1)
    ]
    unmerged = twice[0].concatenate(twice[1]).set_observation_type_xray_intensity()
    path = tmp_path / "unmerged.sca"
    unmerged.export_as_scalepack_unmerged(file_name=str(path))
    sf, _ = mf.read(path, symbol)
    assert mf.worst(sf, mf.p1_truth(mf.structure(symbol), symbol)) < 2e-3


def test_lone_friedel_mates_stand_for_both(tmp_path):
    symbol = "P 43 21 2"
    array = asu_amplitudes(symbol, anomalous=True)
    lone = array.select(flex.bool([i % 3 != 0 for i in range(array.size())]))
    assert lone.n_bijvoet_pairs() > 5
    sf, summary = mf.read(write_mtz(lone, tmp_path / "f.mtz"), symbol)
    p1 = lone.expand_to_p1()
    stored = dict(zip(p1.indices(), p1.data()))
    mates = {tuple(-i for i in h): F for h, F in stored.items()}
    expected = {**mates, **stored}
    assert mf.worst(sf, expected) < 3e-7
    lacking = len(set(mates) - set(stored))
    assert lacking > 0 and f"{lacking} P1 reflections took the F" in str(summary)


def test_negative_intensities_become_zero(tmp_path):
    array = asu_intensities("P 1")
    array.data()[7] = -12.0
    path = tmp_path / "i.mtz"
    sf, summary = mf.read(write_mtz(array, path, "I"), "P 1")
    assert mf.looked_up(sf, [array.indices()[7]]) == [0.0]
    assert "1 negative intensities" in summary.how


def test_f000_of_a_file_is_kept(tmp_path):
    symbol = "C 1 2 1"
    array = asu_amplitudes(symbol)
    f000 = array.customized_copy(indices=flex.miller_index([(0, 0, 0)]), data=flex.double([321.0]))
    both = array.concatenate(f000).set_observation_type_xray_amplitude()
    sf, _ = mf.read(write_mtz(both, tmp_path / "f.mtz"), symbol)
    assert mf.looked_up(sf, [(0, 0, 0)]) == [321.0]
    sf, _ = mf.read(write_mtz(array, tmp_path / "g.mtz"), symbol, default_F=5)
    assert mf.looked_up(sf, [(0, 0, 0)]) == [5.0]


@pytest.mark.parametrize("symbol", ["C 1 2 1", "P 43 21 2", "R 3 :H", "I 2 3", "P 1 21/c 1"])
@pytest.mark.parametrize("has_file", [True, False])
def test_absences_stay_zero_where_default_F_is_not(symbol, has_file, tmp_path):
    path = write_mtz(asu_amplitudes(symbol), tmp_path / "f.mtz") if has_file else None
    d_min = 1.7  # further out than the file
    sf, _ = mf.read(path, symbol, reach=d_min, default_F=7.5)
    group = mf.symmetry(symbol).space_group()
    wanted = mf.all_p1(symbol, d_min)
    absent = group.is_sys_absent(wanted.indices())
    zeros = mf.looked_up(sf, wanted.indices().select(absent))
    assert len(zeros) > 10 and set(zeros) == {0.0}
    beyond = wanted.select(~absent)
    beyond = beyond.select(beyond.d_spacings().data() < (mf.D_MIN if has_file else 1e9))
    assert set(mf.looked_up(sf, beyond.indices())) == {7.5}


def test_default_F_fills_gaps(tmp_path):
    array = asu_amplitudes("P 1 21 1")
    kept = flex.bool([i % 5 != 0 for i in range(array.size())])
    path = write_mtz(array.select(kept), tmp_path / "f.mtz")
    sf, summary = mf.read(path, "P 1 21 1", default_F=3.25)
    gaps = array.select(~kept).generate_bijvoet_mates().expand_to_p1().indices()
    assert set(mf.looked_up(sf, gaps)) == {3.25}
    assert summary.completeness == pytest.approx(0.8, abs=0.01)


def test_d_min_cuts_and_a_short_file_is_noted(tmp_path):
    path = write_mtz(asu_amplitudes("P 1 21 1"), tmp_path / "f.mtz")
    _, whole = mf.read(path, "P 1 21 1")
    assert "end at" not in str(whole) and whole.d_min < 3
    cut, summary = mf.read(path, "P 1 21 1", d_min=3)
    assert f"{whole.n_unique - summary.n_unique} reflections beyond 3 A left out" in str(summary)
    spacings = mf.all_p1("P 1 21 1").d_spacings()
    weak = spacings.select(spacings.data() < 3).indices()
    assert set(mf.looked_up(cut, weak)) == {0.0}
    _, short = mf.read(path, "P 1 21 1", reach=1.5)
    assert f"end at {short.d_min:.2f} A, the detector reaches 1.50 A" in str(short)
    assert short.completeness == pytest.approx((1.5 / mf.D_MIN) ** 3, rel=0.05)


# Crystal's group, file's group, whether they agree (the rule is in crystal_symmetry.py).
AGREEMENT = [
    ("P 1", "P 43 21 2", True),
    ("P 4 2 2", "P 43 21 2", True),
    ("P 41 21 2", "P 43 21 2", True),
    ("P 43 21 2", "P 4 2 2", False),
    ("P 42 21 2", "P 43 21 2", False),
    ("P 4 21 2", "P 43 21 2", True),
    ("P 43 21 2", "P 1", False),
    ("P 1 2 1", "C 1 2 1", True),
    ("C 1 2 1", "P 1 2 1", False),
    ("P 1 2 1", "P 1 1 2", False),
    ("P 2 2 21", "P 21 21 21", True),
    ("I 21 3", "I 2 3", True),
    ("F 4 3 2", "I 4 3 2", False),
    ("P 31 2 1", "P 31 1 2", False),
    ("P 61 2 2", "P 65 2 2", True),
    ("P 61 2 2", "P 63 2 2", False),
    ("P 1", "P -1", True),
    ("P -1", "P 1", False),
    ("R 3 :H", "R 3 2 :H", True),
]


@pytest.mark.parametrize(("ours", "files", "agree"), AGREEMENT)
def test_space_groups_that_agree(ours, files, agree):
    ours, files = sgtbx.space_group_info(ours), sgtbx.space_group_info(files)
    if agree:
        remark = require_agreeing_group(files, ours, "f.mtz")
        assert str(ours) in remark and str(files) in remark
        assert ("enantiomorph" in remark) == (
            files.type().number() == ours.change_hand().type().number()
        )
    else:
        with pytest.raises(Sorry, match="f.mtz") as sorry:
            require_agreeing_group(files, ours, "f.mtz")
        assert str(ours) in str(sorry.value) and str(files) in str(sorry.value)


@pytest.mark.parametrize("symbol", sorted({g for row in AGREEMENT for g in row[:2]}))
def test_a_space_group_agrees_with_itself_at_any_origin_and_with_less(symbol):
    info = sgtbx.space_group_info(symbol)
    assert require_agreeing_group(info, info, "f.mtz") is None
    shifted = info.change_basis(sgtbx.change_of_basis_op("x+1/4,y+1/2,z+1/4"))
    require_agreeing_group(shifted, info, "f.mtz")
    require_agreeing_group(info, sgtbx.space_group_info("P 1"), "f.mtz")


def test_contradicting_space_group_is_refused_and_enantiomorph_noted(tmp_path):
    path = write_mtz(asu_amplitudes("P 43 21 2"), tmp_path / "f.mtz")
    _, summary = mf.read(path, "P 43 21 2", crystal_group="P 41 21 2")
    assert "enantiomorph" in str(summary)
    with pytest.raises(Sorry, match="P 43 21 2.*contradicts.*P 42 21 2"):
        mf.read(path, "P 43 21 2", crystal_group="P 42 21 2")


def test_crystal_of_less_symmetry_reads_the_same_table(tmp_path):
    path = write_mtz(asu_amplitudes("P 43 21 2"), tmp_path / "f.mtz")
    sf, _ = mf.read(path, "P 43 21 2", crystal_group="P 1")
    assert mf.worst(sf, mf.p1_truth(mf.structure("P 43 21 2"), "P 43 21 2")) < 3e-7


def test_contradicting_cell_is_refused_by_both_names(tmp_path):
    path = write_mtz(asu_amplitudes("P 43 21 2"), tmp_path / "f.mtz")
    group = sgtbx.space_group_info("P 43 21 2")

    def against(cell, **values):
        values = mf.params(file=path, **values)
        return structure_factors_from_params(values, group, uctbx.unit_cell(cell), mf.D_MIN)

    against((15.0, 15.0, 11.1, 90, 90, 90))
    with pytest.raises(Sorry, match=r"14\.9.*11\.2.*15\.2.*11\.2.*cell_tolerance_percent"):
        against((15.2, 15.2, 11.2, 90, 90, 90))
    against((15.2, 15.2, 11.2, 90, 90, 90), cell_tolerance_percent=3)
    group = sgtbx.space_group_info("P 1")
    with pytest.raises(Sorry, match="belongs to this crystal"):
        against((14.9, 14.9, 11.2, 90, 91.5, 90))
    with pytest.raises(Sorry, match="another setting"):
        against((11.2, 14.9, 14.9, 90, 90, 90))


def test_primitive_cell_of_a_centred_file_asks_for_reindexing(tmp_path):
    path = write_mtz(asu_amplitudes("C 1 2 1"), tmp_path / "f.mtz")
    primitive = mf.symmetry("C 1 2 1").primitive_setting()
    with pytest.raises(Sorry, match="another setting, so reindex"):
        structure_factors_from_params(
            mf.params(file=path),
            primitive.space_group_info(),
            primitive.unit_cell(),
            mf.D_MIN,
        )


def test_made_up_structure_factors():
    s = crystal.symmetry((79.1, 79.1, 38.4, 90, 90, 90), "P 43 21 2")
    arguments = (s.space_group_info(), s.unit_cell())
    one = made_up_structure_factors(*arguments, d_min=2.5, seed=8)
    same = made_up_structure_factors(*arguments, d_min=2.5, seed=8)
    other = made_up_structure_factors(*arguments, d_min=2.5, seed=9)
    assert (one.data() == same.data()).all_eq(True)
    assert one.is_xray_amplitude_array() and one.is_in_asu()
    assert flex.linear_correlation(one.data(), other.data()).coefficient() < 0.9
    # Wilson (1949): <I> falls as exp(-2 B s^2), here with B about 20, and <F>^2 / <F^2> of
    # acentric reflections is pi / 4.
    one = one.f_as_f_sq()
    one.setup_binner(n_bins=8)
    means = one.mean(use_binning=True).data[1:-1]
    assert all(inner > outer for inner, outer in zip(means, means[1:]))
    acentric = one.select(~one.centric_flags().data())
    acentric = acentric.resolution_filter(d_max=2.7)
    ratio = flex.mean(flex.sqrt(acentric.data())) ** 2 / flex.mean(acentric.data())
    assert ratio == pytest.approx(0.785, abs=0.03)


@pytest.mark.parametrize("symbol", ["P 1", "C 1 2 1", "F 4 3 2"])
def test_very_many_reflections_are_estimated(symbol, monkeypatch):
    """Within a percent of what cctbx lists, the absent ones of a centred lattice left out."""
    group = sgtbx.space_group_info(symbol)
    cell = group.any_compatible_unit_cell(volume=300_000)
    listed, least = in_reach.possible(group, cell, 1.5)
    monkeypatch.setattr(in_reach, "MOST_LISTED", 0)
    estimated, at = in_reach.possible(group, cell, 1.5)
    assert estimated == pytest.approx(listed, rel=0.01)
    assert at == 1.5 and 1.5 <= least < 1.51
