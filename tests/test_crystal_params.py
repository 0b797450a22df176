# ruff: noqa: E402
"""dxtbx's mosaic models, spreads about the crystal's axes and of its cell: from the command's
parameters to the pixels."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("dials")

import simulate_helpers as sim
from cctbx import sgtbx
from dxtbx.model import (
    Beam,
    Crystal,
    Detector,
    Experiment,
    MosaicCrystalKabsch2010,
    MosaicCrystalSauter2014,
)

from nanobragg_plugin.adapters import crystal_params
from nanobragg_plugin.format import nxmx_models

QUIET = (*sim.QUICK, "noise.poisson=False", "background.level=0")
WITHOUT_CELLS = tuple(a for a in QUIET if not a.startswith("crystal.Ncells_abc"))


def kabsch(mosaicity: float = 0.3, crystal: Crystal | None = None) -> Crystal:
    result = MosaicCrystalKabsch2010(crystal or sim.crystal())
    result.set_mosaicity(mosaicity)
    return result


def sauter(half: float = 0.4, size: float = 300.0) -> Crystal:
    result = MosaicCrystalSauter2014(sim.crystal())
    result.set_half_mosaicity_deg(half)
    result.set_domain_size_ang(size)
    return result


def made(crystal: Crystal, *arguments: str) -> np.ndarray:
    """Pixels of the sweep of a crystal, in the working directory."""
    expt = sim.write_expt("models.expt", sim.sweep(crystal=crystal))
    sim.simulate(expt, *arguments, "output.overwrite=True")
    return sim.pixels()


# ---- dxtbx's mosaic models


def test_kabsch_mosaicity_is_the_spread(tmp_cwd: Path) -> None:
    """To the last bit the image of the same crystal without mosaic model and with
    spread_deg; and the log says where the spread came from."""
    found = made(kabsch(0.3), *QUIET)
    assert "sigma 0.3 degrees, of the crystal's mosaic model (Kabsch 2010)" in log()
    assert "mosaic spread 0.3 degrees in 16 orientations" in log()
    assert np.array_equal(found, made(sim.crystal(), *QUIET, "crystal.mosaic.spread_deg=0.3"))
    assert not np.array_equal(found, made(sim.crystal(), *QUIET))


def log() -> str:
    return Path("nanobragg.simulate.log").read_text()


def test_sauter_model_is_spread_and_domain_size(tmp_cwd: Path) -> None:
    """sigma of a top hat of half width h is h/sqrt(3): by a sample of 10^6 evenly spaced angles,
    0.4 degrees have 0.23094."""
    sigma = np.linspace(-0.4, 0.4, 10**6).std()
    found = made(sauter(0.4, 300), *WITHOUT_CELLS)
    assert "Domain size: 300 Angstrom, of the crystal's mosaic model (Sauter 2014)" in log()
    assert "domains of 10 x 8 x 6 cells" in log()  # edges 30, 39.6, 49.8
    same = ("crystal.domain_size_ang=300", f"crystal.mosaic.spread_deg={sigma}")
    expected = made(sim.crystal(), *WITHOUT_CELLS, *same)
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6 * expected.max())


def test_what_phil_gives_goes_before_the_model(tmp_cwd: Path) -> None:
    given = (*QUIET, "crystal.mosaic.spread_deg=0.2")
    plain = made(sim.crystal(), *given)
    assert np.array_equal(made(kabsch(), *given), plain)
    assert np.array_equal(made(sauter(), *given), plain)
    assert "mosaic model" not in log()
    none = (*QUIET, "crystal.mosaic.spread_deg=0")
    assert np.array_equal(made(kabsch(), *none), made(sim.crystal(), *QUIET))
    none = (*QUIET, "crystal.mosaic.spread_abc_deg=0,0,0")
    assert np.array_equal(made(kabsch(), *none), made(sim.crystal(), *QUIET))
    three = (*QUIET, "crystal.mosaic.spread_abc_deg=0.1,0.2,0.3")
    assert np.array_equal(made(kabsch(), *three), made(sim.crystal(), *three))
    size = (*WITHOUT_CELLS, "crystal.domain_size_ang=200", "crystal.mosaic.spread_deg=0.1")
    assert np.array_equal(made(sauter(), *size), made(sim.crystal(), *size))


def test_a_model_of_nothing_says_nothing(tmp_cwd: Path) -> None:
    """dxtbx's 0, where nothing was refined: as without a model, 30 cells and no spread."""
    plain = made(sim.crystal(), *WITHOUT_CELLS)
    assert "domains of 30 x 30 x 30 cells" in log()
    assert np.array_equal(made(kabsch(0), *WITHOUT_CELLS), plain)
    assert np.array_equal(made(sauter(0, 0), *WITHOUT_CELLS), plain)


@pytest.mark.parametrize("make", (kabsch, sauter))
def test_models_go_through_files_and_overrides(make: Any, tmp_cwd: Path) -> None:
    """What is read from an .expt, of a slice of the scan, with another orientation, is written to
    the output's .expt and .nxs as it was."""
    crystal = make()
    made(crystal, *QUIET, "sampling.image_range=12,13", "geometry.crystal.misset_deg=1,2,3")
    assert "mosaic model" in log()
    (written,) = sim.load()
    for found in (written.crystal, nxmx_models.read_models("simulated.nxs").crystal):
        assert type(found) is type(crystal)
        assert crystal_params.mosaic_model(found) == crystal_params.mosaic_model(crystal)


def test_a_crystal_that_varies_keeps_its_mosaic_model(tmp_cwd: Path) -> None:
    crystal = kabsch(0.3)
    crystal.set_A_at_scan_points([crystal.get_A()] * 4)
    found = made(crystal, *QUIET, "sampling.image_range=12,13")
    assert "of the crystal's mosaic model (Kabsch 2010)" in log()
    expected = made(kabsch(0.3), *QUIET, "sampling.image_range=12,13")
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6 * expected.max())


def test_phi_steps_follow_the_spread(tmp_cwd: Path) -> None:
    """A wide rocking curve needs less of them, wherever the spread came from."""
    automatic = [a for a in QUIET if not a.startswith("sampling.phisteps")]
    large = [*automatic, "crystal.Ncells_abc=60,50,40"]
    steps = []
    for crystal, more in (
        (sim.crystal(), ()),
        (kabsch(0.5), ()),
        (sim.crystal(), ("crystal.mosaic.spread_abc_deg=0,0.5,0",)),
    ):
        made(crystal, *large, "sampling.image_range=11,11", *more)
        steps.append(int(log().split(" phi steps")[0].split()[-1]))
    assert steps[0] > 2 * steps[1] and steps[1] == steps[2]


@pytest.mark.parametrize(
    "crystal, what",
    [
        (lambda: kabsch(float("nan")), "the crystal of experiment 0 has a NaN in mosaicity"),
        (lambda: kabsch(float("inf")), "the mosaicity of the crystal, degrees, is inf"),
        (lambda: kabsch(-1.0), "the mosaicity of the crystal, degrees, is -1"),
        (lambda: sauter(float("inf")), "the half mosaicity of the crystal, degrees, is"),
        (lambda: sauter(0.1, -20.0), "the domain size of the crystal, Angstrom, is"),
    ],
)
def test_models_that_are_no_numbers(crystal: Any, what: str, tmp_cwd: Path) -> None:
    expt = sim.write_expt("models.expt", sim.sweep(crystal=crystal()))
    assert what in sim.refused(expt, *QUIET)


SPREAD, ABC = "crystal.mosaic.spread_deg=0.1", "crystal.mosaic.spread_abc_deg=0.1,0,0"
CAP, LAB = "crystal.mosaic.distribution=cap", "crystal.mosaic.frame=lab"


@pytest.mark.parametrize(
    "arguments, what",
    [
        ((SPREAD, ABC), "spread_deg and spread_abc_deg both give"),
        ((ABC, CAP), "with distribution=cap give spread_deg"),
        ((ABC, LAB), "it needs frame=crystal"),
        ((ABC, "crystal.mosaic.domains=1"), "domains=1: a single domain has neither"),
        (("crystal.cell_spread_percent=1", "crystal.mosaic.domains=1"), "give more of them"),
        (("crystal.cell_spread_percent=1", LAB), "it needs crystal.mosaic.frame=crystal"),
        ((CAP,), "(Kabsch 2010) is not that of a cap; give crystal.mosaic.spread_deg"),
    ],
)
def test_what_cannot_be_together(arguments: tuple, what: str, tmp_cwd: Path) -> None:
    expt = sim.write_expt("models.expt", sim.sweep(crystal=kabsch()))
    assert what in sim.refused(expt, *QUIET, *arguments)


# ---- the shape of spots

#: mm and Angstrom: of the still below.
DISTANCE, PIXEL, EDGES = 100.0, 0.1, (20.0, 40.0, 50.0)


def still() -> Experiment:
    """A crystal whose a is along the beam, b to the right, c downwards on a detector that sees the
    reflections 0 3 0 and 0 0 4 from (0, 0), to the right and below."""
    a, b, c = EDGES
    detector = Detector()
    panel = detector.add_panel()
    panel.set_local_frame((1, 0, 0), (0, -1, 0), (-3.05, 3.05, -DISTANCE))
    panel.set_image_size((140, 140))
    panel.set_pixel_size((PIXEL, PIXEL))
    panel.set_trusted_range((-1, 1e9))
    crystal = Crystal((0, 0, -a), (b, 0, 0), (0, -c, 0), space_group_symbol="P1")
    return Experiment(detector=detector, beam=Beam((0, 0, 1), 1.0), crystal=crystal)


#: One cell along the beam: rods, which the Ewald sphere cuts wherever they are turned.
STILL = (
    "structure_factors.default_F=100",
    "beam.fluence=1e24",
    "crystal.Ncells_abc=1,16,16",
    "sampling.oversample=2",
    "noise.poisson=False",
    "beam.polarization_correction=False",
    "compute.kernel=dense",
)


def moments(image: np.ndarray, index: str) -> tuple[float, float, float]:
    """Sum, and variances, mm^2, to the right and downwards, of the spot 0 3 0 or 0 0 4, within a
    window of 2 mm about where Bragg's law has it."""
    order, edge = {"030": (3, EDGES[1]), "004": (4, EDGES[2])}[index]
    angle = 2 * math.asin(order / edge / 2)
    away = DISTANCE * math.tan(angle)
    at = (away, 0.0) if index == "030" else (0.0, away)
    x, y = (PIXEL * (np.arange(140) + 0.5) - 3.05 - middle for middle in at)
    window = image * (np.abs(x) < 1.0) * (np.abs(y) < 1.0)[:, None]
    total = window.sum()
    means = (window.sum(0) @ x) / total, (window.sum(1) @ y) / total
    squares = (window.sum(0) @ x**2) / total, (window.sum(1) @ y**2) / total
    return total, squares[0] - means[0] ** 2, squares[1] - means[1] ** 2


def spots(*arguments: str) -> dict[str, tuple[float, float, float]]:
    sim.write_expt("still.expt", still())
    sim.simulate("still.expt", *STILL, *arguments, "output.overwrite=True")
    image = sim.pixels()[0]
    return {index: moments(image, index) for index in ("030", "004")}


def test_a_spread_about_a_smears_spots_around_the_beam_alone(tmp_cwd: Path) -> None:
    """a is along the beam: a spot at a distance L from it is wider by L sigma at right angles to
    its radius, by nothing along it, and keeps its photons. Of a spread about b the spot on
    b stays as it is.

    Measured: 0.7 % of the variance that is added, 0.13 % of one that stays (of a spread about b
    1 %: rods that lean), 1e-7 of the photons.
    """
    domains, degrees = "crystal.mosaic.domains=64", 1.0
    sharp = spots()
    around = spots(f"crystal.mosaic.spread_abc_deg={degrees},0,0", domains)
    for index, radius, along, across in (("030", 7.5, 1, 2), ("004", 8.0, 2, 1)):
        added = around[index][across] - sharp[index][across]
        away = DISTANCE * math.tan(2 * math.asin(radius / DISTANCE / 2))
        assert added == pytest.approx((away * math.radians(degrees)) ** 2, rel=0.015), index
        assert around[index][along] == pytest.approx(sharp[index][along], rel=0.02)
        assert around[index][0] == pytest.approx(sharp[index][0], rel=1e-5)
    about_b = spots("crystal.mosaic.spread_abc_deg=0,1,0", domains)
    assert about_b["030"] == pytest.approx(sharp["030"], rel=0.02)


def test_a_spread_of_cells_smears_spots_along_their_radius(tmp_cwd: Path) -> None:
    """By L spread, as Bragg's law has it at small angles. Measured: 3 % of the variance that is
    added, 0.13 % of one that stays, 4e-4 of the photons."""
    sharp = spots()
    smeared = spots("crystal.cell_spread_percent=2", "crystal.mosaic.domains=64")
    for index, order, along, across in (("030", 7.5, 1, 2), ("004", 8.0, 2, 1)):
        added = smeared[index][along] - sharp[index][along]
        assert added == pytest.approx((0.02 * order) ** 2, rel=0.06), index
        assert smeared[index][across] == pytest.approx(sharp[index][across], rel=0.005)
        assert smeared[index][0] == pytest.approx(sharp[index][0], rel=1e-3)


def test_cells_and_orientations_spread_together(tmp_cwd: Path) -> None:
    """Each as without the other. Measured: 2.1 % of the variance that is added."""
    both = ("crystal.cell_spread_percent=2", "crystal.mosaic.domains=200")
    sharp = spots()
    for more in (
        "crystal.mosaic.spread_abc_deg=1,0,0",
        "crystal.mosaic.spread_deg=1",
    ):
        found = spots(*both, more)["030"]
        assert found[1] - sharp["030"][1] == pytest.approx(0.15**2, rel=0.04), more
        assert found[2] - sharp["030"][2] == pytest.approx((7.5 / 57.3) ** 2, rel=0.04), more


# ---- symmetry


@pytest.mark.parametrize(
    "group, cell, expected",
    [
        ("P1", (30, 40, 50, 80, 95, 100), (0, 1, 2)),
        ("P1", (40, 40, 40, 90, 90, 90), (0, 1, 2)),  # equal by chance
        ("C2", (30, 40, 50, 90, 105, 90), (0, 1, 2)),
        ("P212121", (30, 40, 50, 90, 90, 90), (0, 1, 2)),
        ("P43212", (79, 79, 38, 90, 90, 90), (0, 0, 2)),
        ("P31", (50, 50, 70, 90, 90, 120), (0, 0, 2)),
        ("R3:R", (50, 50, 50, 85, 85, 85), (0, 0, 0)),
        ("R3:H", (80, 80, 40, 90, 90, 120), (0, 0, 2)),
        ("F432", (90, 90, 90, 90, 90, 90), (0, 0, 0)),
    ],
)
def test_edges_that_the_space_group_ties(group: str, cell: tuple, expected: tuple) -> None:
    """By the metric of the crystal families (International Tables A, Table 3.1.2.2)."""

    class Model:
        def get_unit_cell(self) -> Any:
            from cctbx import uctbx

            return uctbx.unit_cell(cell)

        def get_space_group(self) -> Any:
            return sgtbx.space_group_info(group).group()

    assert crystal_params.tied_edges(Model()) == expected
