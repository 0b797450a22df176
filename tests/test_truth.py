# ruff: noqa: E402
"""The true reflections that nanobragg.simulate writes."""

from __future__ import annotations

import json
from pathlib import Path

import miller_files as mf
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("dials")

import simulate_helpers as sim
from dials.array_family import flex
from dxtbx.model import Crystal, Detector, ExperimentList, Scan
from iotbx import mtz
from libtbx.utils import Sorry

from nanobragg_plugin.adapters import truth_mtz

TRUTH = (
    "output.truth=True",
    "noise.poisson=False",
    "background.level=0",
    "compute.precision=double",
)
EXACT = (*sim.QUICK, *TRUTH)


def detector(pixels: int = 120) -> Detector:
    """Square of 0.1 mm pixels, 40 mm away, beside the beam, without a sensor."""
    result = Detector()
    panel = result.add_panel()
    panel.set_local_frame((1, 0, 0), (0, -1, 0), (2, 0.05 * pixels, -40))
    panel.set_image_size((pixels, pixels))
    panel.set_pixel_size((0.1, 0.1))
    panel.set_trusted_range((-1, 1e9))
    return result


def scan(images: int, width: float = 0.25) -> Scan:
    return Scan((5, 4 + images), (10.0, width))


def table(name: str = "simulated.truth.refl"):
    return flex.reflection_table.from_file(name)


def column(refl, name: str) -> np.ndarray:
    return refl[name].as_numpy_array()


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory):
    """A finely sampled sweep of 15 degrees on a detector without a sensor."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("truth"))
        sim.write_expt("sweep.expt", sim.sweep(detector=detector(), scan=scan(30, 0.5)))
        without = ("sampling.phisteps", "crystal.Ncells", "sampling.oversample=")
        usual = [one for one in EXACT if not one.startswith(without)]
        more = "sampling.phisteps=12", "crystal.Ncells_abc=14,10,9", "sampling.oversample=4"
        sim.simulate("sweep.expt", *usual, *more)
        yield table(), sim.pixels().astype(float), sim.load()[0]


def test_all_photons_are_accounted_for(sweep) -> None:
    """Relative; measured 4e-8, the rounding of a float32 file."""
    refl, images, _ = sweep
    photons = column(refl, "intensity.sum.value").sum()
    assert photons == pytest.approx(images.sum(), rel=1e-6)


def whole(refl) -> np.ndarray:
    """Which reflections are well within scan and detector, and not near the rotation axis."""
    xyz = column(refl, "xyzcal.px")
    good = ((xyz[:, :2] > 6) & (xyz[:, :2] < 114)).all(1)
    good &= (np.abs(xyz[:, 2] - 19) < 10) & (column(refl, "lorentz") < 15)
    assert good.sum() > 30
    return good


def test_whole_reflections_have_partiality_1(sweep) -> None:
    """By Darwin's formula. Measured: 1.0000 to 1.0002."""
    refl, _, _ = sweep
    assert np.abs(column(refl, "partiality")[whole(refl)] - 1).max() < 1e-3


def test_the_ends_of_a_scan_cut_reflections(sweep) -> None:
    """More than half of those within the scan is recorded, less of those beyond its ends."""
    refl, _, _ = sweep
    z = column(refl, "xyzcal.px")[:, 2]
    near = (np.minimum(np.abs(z - 4), np.abs(z - 34)) < 2) & (column(refl, "lorentz") < 15)
    near &= refl.get_flags(refl.flags.predicted).as_numpy_array()
    near &= np.abs(column(refl, "xyzcal.px")[:, :2] - 60).max(1) < 54
    within = (z > 4) & (z < 34)
    assert (near & within).sum() > 1 and (near & ~within).sum() > 1
    assert np.array_equal(column(refl, "partiality")[near] > 0.5, within[near])


def test_centroids_are_where_dials_predicts(sweep) -> None:
    """Measured: within 0.02 pixels and 0.03 images."""
    refl, _, _ = sweep
    off = column(refl, "xyzobs.px.value") - column(refl, "xyzcal.px")
    assert np.abs(off[whole(refl)]).max() < 0.04


def test_lorentz_and_polarization_are_those_of_dials(sweep) -> None:
    """DIALS's `lp` is what an intensity is multiplied with: 1/(L P). Measured: 3e-16."""
    refl, _, experiment = sweep
    predicted = refl.select(refl.get_flags(refl.flags.predicted))
    listed = ExperimentList([experiment])
    predicted.compute_corrections(listed)
    product = column(predicted, "lorentz") * column(predicted, "polarization")
    assert np.abs(product * column(predicted, "lp") - 1).max() < 1e-12


def test_each_reflection_once(sweep) -> None:
    refl, _, _ = sweep
    xyz = np.round(column(refl, "xyzcal.px"), 3)
    rows = {(hkl, *row) for hkl, row in zip(refl["miller_index"], map(tuple, xyz))}
    assert len(rows) == len(refl) and set(refl["id"]) == {0}


def test_f_squared_and_mtz_are_the_amplitudes_put_in(tmp_cwd: Path) -> None:
    """Of a P 43 21 2 structure, as cctbx expands and merges them. Measured: 2e-7 relative."""
    atoms = mf.structure("P 43 21 2")
    f_calc = abs(atoms.structure_factors(d_min=2.1).f_calc())
    f_calc.as_mtz_dataset("F").mtz_object().write("F.mtz")
    vectors = np.array(f_calc.unit_cell().orthogonalization_matrix()).reshape(3, 3).T
    rows = [tuple(map(float, row)) for row in vectors]
    crystal = Crystal(*rows, space_group_symbol="P 43 21 2")
    sim.write_expt("sweep.expt", sim.sweep(crystal=crystal, detector=detector(60)))
    sim.simulate("sweep.expt", "F.mtz", *EXACT, "structure_factors.default_F=0")
    (true,) = [
        a for a in mtz.object("simulated.truth.mtz").as_miller_arrays() if a.info().labels[0] == "F"
    ]
    assert true.space_group_info().symbol_and_number() == "P 43 21 2 (No. 96)"
    assert not true.anomalous_flag()
    one, other = true.common_sets(f_calc)
    assert one.size() > 10
    assert flex.max(flex.abs(one.data() - other.data())) < 1e-5 * flex.max(other.data())
    refl = table()
    p1 = f_calc.expand_to_p1().generate_bijvoet_mates()
    expected = dict(zip(p1.indices(), p1.data()))
    lit = [i for i, hkl in enumerate(refl["miller_index"]) if hkl in expected]
    assert len(lit) > 5
    for i in lit:
        value = expected[refl["miller_index"][i]] ** 2
        assert refl["f_squared"][i] == pytest.approx(value, rel=1e-5, abs=1e-3)


def test_mtz_of_a_structure_that_scatters_anomalously(tmp_cwd: Path) -> None:
    """Friedel's mates differ, and are both there."""
    Path("model.pdb").write_text(mf.structure("P 43 21 2").as_pdb_file())
    vectors = np.array(mf.symmetry("P 43 21 2").unit_cell().orthogonalization_matrix())
    rows = [tuple(map(float, row)) for row in vectors.reshape(3, 3).T]
    crystal = Crystal(*rows, space_group_symbol="P 43 21 2")
    sim.write_expt("sweep.expt", sim.sweep(crystal=crystal))
    given = "structure_factors.model.wavelength=1.0", "structure_factors.d_min=3"
    sim.simulate("sweep.expt", "model.pdb", *EXACT, *given)
    arrays = mtz.object("simulated.truth.mtz").as_miller_arrays()
    true = next(a for a in arrays if a.info().labels[0].startswith("F"))
    assert true.anomalous_flag() and true.anomalous_signal() > 0


def test_stills(tmp_cwd: Path) -> None:
    """Of each still a table, whose id is its experiment's; all photons are accounted for."""
    sim.write_expt("still.expt", sim.still(detector=detector(60)))
    sim.simulate("still.expt", *sim.STILL, *TRUTH, "stills.count=3", "sampling.oversample=2")
    refl, images = table(), sim.pixels().astype(float)
    identifiers = {i: one.identifier for i, one in enumerate(sim.load())}
    assert dict(refl.experiment_identifiers()) == identifiers and len(identifiers) == 3
    for number, image in enumerate(images):
        own = refl.select(refl["id"] == number)
        # reflections of less than 0.01 photons are left out
        assert column(own, "intensity.sum.value").sum() == pytest.approx(image.sum(), rel=1e-4)
        assert np.abs(column(own, "lorentz") - 1).max() == 0


WITH = {
    "": (),
    "mosaic": ("crystal.mosaic.spread_deg=0.3", "crystal.mosaic.domains=64"),
    "sizes": ("crystal.domain_size_spread_percent=40",),
    "point pixels": ("sampling.point_pixel=True",),
}


@pytest.mark.parametrize("what", WITH)
def test_partiality_of_a_still(what: str, tmp_cwd: Path) -> None:
    """A reflection that is turned through the Ewald sphere is brightest on it, and has a partiality
    of 1 there. Measured: 1.0000; 0.977 (64 domains); 0.9998; 1.0000."""
    crystal = sim.crystal()
    experiments = []
    for step in np.arange(-0.8, 0.81, 0.1):
        turned = Crystal(crystal)
        turned.rotate_around_origin((1, 0, 0), float(step))
        name = f"turned by {step:.2f}"
        experiments.append(sim.still(crystal=turned, detector=detector(60), identifier=name))
    sim.write_expt("stills.expt", *experiments)
    given = "crystal.Ncells_abc=14,10,9", "sampling.oversample=4"
    given += WITH[what]
    usual = [one for one in sim.STILL if not one.startswith(("crystal.Ncells", "sampling.over"))]
    sim.simulate("stills.expt", *usual, *TRUTH, *given)
    refl = table()
    assert set(refl["id"]) == set(range(len(experiments)))
    by_hkl: dict = {}
    xyz, partiality = column(refl, "xyzcal.px"), column(refl, "partiality")
    inside = ((xyz[:, :2] > 8) & (xyz[:, :2] < 52)).all(1)
    for i in np.flatnonzero(inside):
        by_hkl.setdefault(refl["miller_index"][int(i)], []).append(partiality[i])
    brightest = [max(values) for values in by_hkl.values() if len(values) == len(experiments)]
    assert len(brightest) > 3
    assert max(brightest) == pytest.approx(1, abs=0.05)


def test_lattices_have_their_own(tmp_cwd: Path) -> None:
    sim.write_expt("two.expt", *sim.lattices())
    sim.simulate("two.expt", *EXACT, "crystal.lattice_scales=1,3")
    both, total = table(), sim.pixels().astype(float).sum()
    assert column(both, "intensity.sum.value").sum() == pytest.approx(total, rel=1e-4)
    photons = []
    for number in range(2):
        one = sim.lattices()[number]
        sim.write_expt("one.expt", one)
        sim.simulate("one.expt", *EXACT, f"output.prefix=alone{number}")
        photons.append(column(table(f"alone{number}.truth.refl"), "intensity.sum.value").sum())
        own = column(both.select(both["id"] == number), "intensity.sum.value").sum()
        assert own == pytest.approx(photons[-1] * (1, 3)[number], rel=1e-5)


def test_stills_of_a_scan_that_does_not_turn(tmp_cwd: Path) -> None:
    """Two crystals on three images: each table is of its experiment's crystal and image set, the
    partialities those of one photon/m^2 whatever an image's share of the fluence."""
    exact = (*sim.STILL, *TRUTH, "compute.kernel=dense", "output.overwrite=True")
    crystals = sim.lattices(scan=Scan((11, 13), (5.0, 0.0)))
    sim.write_expt("stills.expt", *crystals)
    Path("scales.txt").write_text("1\n2\n3\n")
    sim.simulate("stills.expt", *exact, "beam.image_scale_file=scales.txt")
    refl, listed = table(), sim.load()
    assert len(listed) == 6
    for one in crystals:
        sim.write_expt("put_in.expt", one)
        sim.simulate("put_in.expt", *exact, "output.prefix=one")
        alone = table("one.truth.refl")
        alone = alone.select(alone["id"] == 0)
        of_alone = dict(zip(alone["miller_index"], alone["partiality"]))
        for image in range(3):
            row = next(
                i
                for i, found in enumerate(listed)
                if found.identifier == f"{one.identifier}_{11 + image}"
            )
            own = refl.select(refl["id"] == row)
            assert set(own["imageset_id"]) == {listed.imagesets().index(listed[row].imageset)}
            same = [
                (part, of_alone[hkl])
                for hkl, part in zip(own["miller_index"], own["partiality"])
                if hkl in of_alone
            ]
            assert len(same) > 30
            assert np.allclose(*zip(*same), rtol=1e-5)


def test_image_sets_that_crystals_share(tmp_cwd: Path) -> None:
    """Two sweeps of two crystals each."""
    one = sim.lattices()
    other = sim.lattices(scan=sim.scan(start=40))
    for number, experiment in enumerate(other):
        experiment.identifier = f"other-{number}"
    sim.write_expt("two.expt", *one, *other)
    sim.simulate("two.expt", *EXACT)
    refl, listed = table(), sim.load()
    sets = [listed.imagesets().index(experiment.imageset) for experiment in listed]
    assert sets == [0, 0, 1, 1]
    assert set(zip(refl["id"], refl["imageset_id"])) == set(enumerate(sets))


def test_photons_of_many_parts(tmp_cwd: Path) -> None:
    """Of a still of five sizes of domains none is left out for being faint in each of them."""
    sim.write_expt("still.expt", sim.still(detector=detector(60)))
    sizes = "crystal.domain_size_spread_percent=30", "crystal.spot_scale=1"
    sim.simulate("still.expt", *sim.STILL, *TRUTH, *sizes)
    photons = column(table(), "intensity.sum.value")
    assert 0 < len(photons) and 0.01 <= photons.min() < 0.05


def test_images_are_the_same_with_it(tmp_cwd: Path) -> None:
    sim.write_expt("sweep.expt", sim.sweep())
    sim.simulate("sweep.expt", *sim.QUICK)
    before = sim.pixels()
    sim.simulate("sweep.expt", *sim.QUICK, "output.truth=True", "output.overwrite=True")
    assert np.array_equal(before, sim.pixels())


def test_behind_a_beam_stop(tmp_cwd: Path) -> None:
    sim.write_expt("sweep.expt", sim.sweep())
    stop = "background.beam_stop.radius_mm=2", "background.beam_stop.distance_mm=20"
    sim.simulate("sweep.expt", *EXACT, *stop)
    total = sim.pixels().astype(float).sum()
    assert column(table(), "intensity.sum.value").sum() == pytest.approx(total, rel=1e-4)


def test_it_is_written_whole_or_not_at_all(tmp_cwd: Path) -> None:
    sim.write_expt("sweep.expt", sim.sweep())
    Path("simulated.truth.mtz").write_text("precious")
    assert "simulated.truth.mtz exists" in sim.refused("sweep.expt", *EXACT)


def test_amplitudes_that_cannot_be_written(tmp_cwd: Path, monkeypatch) -> None:
    """cctbx does not say why: here the folder is none."""
    write = truth_mtz.write
    monkeypatch.setattr(truth_mtz, "write", lambda path, plan: write(f"nowhere/{path}", plan))
    sim.write_expt("sweep.expt", sim.sweep())
    with pytest.raises(Sorry, match="true amplitudes cannot be written"):
        sim.simulate("sweep.expt", *EXACT)


def test_interpolated_amplitudes(tmp_cwd: Path) -> None:
    sim.write_expt("sweep.expt", sim.sweep())
    said = sim.refused("sweep.expt", *EXACT, "structure_factors.interpolate=True")
    assert "output.truth=True" in said and "interpolated" in said


def test_provenance_says_so(tmp_cwd: Path) -> None:
    sim.write_expt("sweep.expt", sim.sweep())
    sim.simulate("sweep.expt", *EXACT)
    record = json.loads(Path("simulated.provenance.json").read_text())
    assert "truth = True" in record["phil"]
