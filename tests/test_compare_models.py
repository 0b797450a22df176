# ruff: noqa: E402
"""Models against models: known turns of crystals, known shifts of panels, settings by cctbx."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

pytest.importorskip("dials")

import compare_helpers as helpers
import numpy as np
from cctbx import sgtbx
from dxtbx.model import Beam, Experiment, ExperimentList, Goniometer, Scan
from dxtbx.model.experiment_list import ExperimentListFactory
from libtbx.utils import Sorry
from scipy.spatial.transform import Rotation
from simulate_helpers import image_sequence

from nanobragg_plugin.adapters import compared_tables
from nanobragg_plugin.compare import models
from nanobragg_plugin.compare.truth import compare_crystals


@pytest.mark.parametrize("degrees", [0.0, 1e-5, 0.02, 0.3])
@pytest.mark.parametrize("operator", ["a,b,c", "c,a,b", "-a,-b,a+c", "a,a+b,c"])
def test_misorientation_in_any_setting(degrees: float, operator: str) -> None:
    """A crystal turned about a general axis, by scipy, and reindexed, by cctbx; measured: 4e-9."""
    true = helpers.crystal()
    turned = helpers.crystal(helpers.turn((3, -1, 2), degrees))
    found = turned.change_basis(sgtbx.change_of_basis_op(operator))
    result = compare_crystals(true, found)
    assert result.misorientation_deg == pytest.approx(degrees, abs=1e-7)
    assert result.cell == pytest.approx(helpers.CELL, abs=1e-9)
    # h_found = reindex h_true, by cctbx
    for hkl in ((1, 0, 0), (0, 2, 0), (3, -4, 5)):
        expected = sgtbx.change_of_basis_op(operator).apply(hkl)
        assert tuple(result.reindex @ hkl) == expected


def test_cell_errors() -> None:
    """One axis longer by 0.1 %, an angle opened: what cctbx says of both cells."""
    true = helpers.crystal()
    stretched = np.array(true.get_A()).reshape(3, 3) @ np.diag([1 / 1.001, 1, 1])
    found = copy.deepcopy(true)
    found.set_A(tuple(stretched.ravel()))
    result = compare_crystals(true, found)
    cells = [np.array(c.get_unit_cell().parameters()) for c in (true, found)]
    assert result.cell == pytest.approx(cells[1], abs=1e-9)
    assert result.cell_error_percent == pytest.approx(100 * abs(cells[1] / cells[0] - 1)[:3].max())
    assert result.angle_error_deg == pytest.approx(abs(cells[1] - cells[0])[3:].max(), abs=1e-9)
    assert result.cell_error_percent == pytest.approx(0.1, rel=1e-6)


def test_another_lattice_is_said_not_measured() -> None:
    far = helpers.crystal(helpers.turn((3, -1, 2), 30))
    with pytest.raises(Sorry, match="is not that of the crystal simulated"):
        compare_crystals(helpers.crystal(), far)
    figures = models.compare_models(helpers.sweep(), helpers.sweep(crystal=far))
    assert "is not that" in figures["crystal"]["reason"]
    none = models.compare_models(helpers.sweep(), helpers.sweep(crystal=None))
    assert none["crystal"]["reason"] == "the other experiment has no crystal"


def test_along_the_scan() -> None:
    """A crystal that turns by 0.001 degrees a scan point away from one that stands."""
    other = helpers.crystal()
    a_matrix = np.array(other.get_A()).reshape(3, 3)
    points = [helpers.turn((0, 1, 1), 0.001 * i) @ a_matrix for i in range(helpers.IMAGES + 1)]
    other.set_A_at_scan_points([tuple(p.ravel()) for p in points])
    crystal = models.compare_models(helpers.sweep(), helpers.sweep(crystal=other))["crystal"]
    assert crystal["misorientation_along_scan_deg"] == pytest.approx(0.001 * helpers.IMAGES)
    still = models.compare_models(helpers.sweep(), helpers.sweep())["crystal"]
    assert still["misorientation_along_scan_deg"] is None


def test_detector_beam_goniometer_and_scan() -> None:
    """Each model off by a known amount, alone and told apart from the others."""
    true = helpers.sweep()
    other = helpers.sweep(detector=helpers.detector())
    second = other.detector[1]
    tilt = helpers.turn((1, 1, 0), 0.25)
    axes = [tilt @ np.array(v) for v in (second.get_fast_axis(), second.get_slow_axis())]
    origin = np.array(second.get_origin()) + (0.3, -0.4, 1.2)
    second.set_local_frame(*(tuple(v) for v in (*axes, origin)))
    s0 = helpers.turn((0, 1, 0), 0.02) @ np.array(true.beam.get_s0())
    other.beam = Beam(tuple(-s0 / np.linalg.norm(s0)), 1.1)
    other.beam.set_wavelength(1.1003)
    other.beam.set_polarization_fraction(0.75)
    axis = helpers.turn((0, 0, 1), 0.5) @ np.array(true.goniometer.get_rotation_axis())
    other.goniometer = Goniometer(tuple(axis))
    other.goniometer.set_fixed_rotation(tuple(helpers.turn((1, 2, 0), 7).ravel()))
    other.scan = Scan((13, 20), (4.1, 0.51))
    found = models.compare_models(true, other)
    detector = found["detector"]
    assert detector["largest_shift_mm"] == pytest.approx(1.3)  # 0.3, 0.4, 1.2
    assert detector["origin_shift_mm"][0] == pytest.approx([0, 0, 0], abs=1e-12)
    assert detector["tilt_deg"] == pytest.approx([0, 0.25], abs=1e-7)
    assert detector["distance_error_mm"] == pytest.approx(0, abs=1e-9)
    assert detector["distance_true_mm"] == pytest.approx(90)
    # dxtbx's own beam centres of the first panel
    centres = [e.detector[0].get_beam_centre_px(e.beam.get_s0()) for e in (true, other)]
    assert detector["beam_centre_error_px"] == pytest.approx(np.subtract(*centres[::-1]))
    assert abs(detector["beam_centre_error_px"][0]) == pytest.approx(
        90 * np.radians(0.02) / 0.3, rel=1e-3
    )
    beam = found["beam"]
    assert beam["direction_error_deg"] == pytest.approx(0.02, rel=1e-3)  # the axis is not across
    assert beam["wavelength_error"] == pytest.approx(0.0003)
    difference = 0.75 - true.beam.get_polarization_fraction()
    assert beam["polarization_fraction_error"] == pytest.approx(difference)
    goniometer = found["goniometer"]
    assert goniometer["axis_error_deg"] == pytest.approx(0.5)
    assert goniometer["fixed_rotation_error_deg"] == pytest.approx(7)
    assert goniometer["setting_rotation_error_deg"] == pytest.approx(0, abs=1e-9)
    scan = found["scan"]
    # image 13 starts at 3 + 2 x 0.5 in the truth
    assert scan["start_error_deg"] == pytest.approx(0.1)
    assert scan["width_error_deg"] == pytest.approx(0.01)
    assert (scan["image_range_true"], scan["image_range"]) == ((11, 40), (13, 20))


def test_what_is_not_there_is_said() -> None:
    still = helpers.sweep(scan=None, goniometer=None)
    found = models.compare_models(helpers.sweep(), still)
    assert found["goniometer"]["reason"] == "the other has no goniometer"
    assert found["scan"]["reason"] == "the other has no scan"
    both = models.compare_models(still, still)
    assert both["goniometer"] is None and both["scan"] is None
    one = helpers.sweep(detector=helpers.detector(1))
    reason = models.compare_models(helpers.sweep(), one)["detector"]["reason"]
    assert "2 panels" in reason and "1 panel" in reason


@pytest.mark.parametrize("degrees", [0.0, 1e-6, 0.3, 89.0, 91.0, 179.999, 180.0])
def test_angles(degrees: float) -> None:
    """From nothing to half a turn, against scipy; measured: 2e-7 near 0 (the rounding of trace
    does not matter there), 1e-6 near 180."""
    matrix = helpers.turn((2, -1, 5), degrees)
    expected = np.degrees(Rotation.from_matrix(matrix).magnitude())
    assert models.turn_deg(matrix) == pytest.approx(expected, abs=2e-6)
    across = np.cross((2, -1, 5), (1, 0, 0))
    assert models.angle_deg(across, matrix @ across * 3) == pytest.approx(degrees, abs=1e-6)


def pairs(true: list[Experiment], other: list[Experiment]) -> tuple[list, str]:
    return models.pairs_of(ExperimentList(true), ExperimentList(other))


def turned(degrees: float, identifier: str = "") -> Experiment:
    return helpers.sweep(
        crystal=helpers.crystal(helpers.turn((0, 0, 1), degrees)), identifier=identifier
    )


def test_pairs() -> None:
    """By identifiers, in whatever order; by order; by crystals; and not at all."""
    true = [turned(20 * i, f"e{i}") for i in range(3)]
    assert pairs(true, [true[2], true[0]]) == ([(2, 0), (0, 1)], "identifiers")
    nameless = [turned(20 * i) for i in range(3)]
    assert pairs(true, nameless) == ([(0, 0), (1, 1), (2, 2)], "order")
    fewer = [turned(40.1), turned(0.1)]
    assert pairs(true, fewer) == ([(2, 0), (0, 1)], "crystals")
    with pytest.raises(Sorry, match="give lists of the same length"):
        pairs(true, [turned(70)])
    with pytest.raises(Sorry, match="give lists of the same length"):
        pairs(true, [helpers.sweep(crystal=None)])


def test_stills_by_their_images(tmp_cwd: Path) -> None:
    """Three stills in a file: two of them in another list, in another order, by their numbers."""
    images = np.zeros((3, 2, 190, 150), int)
    files = []
    for number, image in enumerate(images):
        still = helpers.sweep(scan=None, goniometer=None)
        files.append(helpers.write_images(f"still_{number}.nxs", still, [list(image)]))
    listed = ExperimentListFactory.from_filenames(files)
    for number, experiment in enumerate(listed):
        experiment.identifier = ""
        experiment.crystal = helpers.crystal(helpers.turn((0, 0, 1), 0.001 * number))
    listed.as_file("true.expt")
    ExperimentList([listed[2], listed[1]]).as_file("other.expt")
    found = helpers.compare("true.expt", "other.expt", "output.html=None", "output.log=None")
    assert [(pair["true"], pair["other"]) for pair in found["models"]] == [(2, 0), (1, 1)]
    for pair in found["models"]:
        assert pair["crystal"]["misorientation_deg"] == pytest.approx(0, abs=1e-7)
    # two crystals in the last image: the one that fits, though image 0 has the same crystal
    second = copy.copy(listed[2])
    second.crystal = helpers.crystal(helpers.turn((0, 1, 0), 50))
    listed[0].crystal = second.crystal
    both, found = ExperimentList([*listed, second]), copy.copy(second)
    found.crystal = helpers.crystal(helpers.turn((0, 1, 0), 50.01))
    assert models.pairs_of(both, ExperimentList([found])) == ([(3, 0)], "images and crystals")
    names = compared_tables.groups(listed, ExperimentList([listed[2], listed[1]]))
    assert names[0] == names[1] == files
    with pytest.raises(Sorry, match="which belong together cannot be said"):
        compared_tables.groups(listed, ExperimentList([helpers.sweep()]))


def test_one_file_of_stills() -> None:
    """Stills in one file are told apart by their numbers there, sweeps by nothing but the file."""
    sweep = helpers.sweep()
    sweep.imageset = image_sequence(sweep)
    assert compared_tables.sources_of(ExperimentList([sweep])) == [("image_0011.cbf", None)]
    bare = helpers.sweep()
    two = Experiment(
        beam=bare.beam, detector=bare.detector, goniometer=bare.goniometer, scan=bare.scan
    )
    shared = ExperimentList([bare, two, helpers.sweep(), helpers.sweep(scan=None)])
    assert compared_tables.sources_of(shared) == [
        ("#0", None),
        ("#0", None),
        ("#2", None),
        ("#3", 0),
    ]
