# ruff: noqa: E402
"""Many stills of one crystal model, in random orientations."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("dials")

import miller_files as mf
import simulate_helpers as sim
from cctbx import sgtbx, uctbx
from dxtbx.format.FormatNXmx import FormatNXmx
from dxtbx.model import Crystal
from dxtbx.model.experiment_list import ExperimentListFactory
from scipy import stats
from scipy.spatial.transform import Rotation

from nanobragg_plugin.adapters.stills import Stills
from nanobragg_plugin.format.FormatNXmxNanoBragg import FormatNXmxNanoBragg

EXACT = (*sim.STILL, "noise.poisson=False", "compute.precision=double")
JITTER = (
    "stills.cell_sigma_percent=1",
    "stills.domain_sigma_percent=20",
    "stills.fluence_sigma_percent=30",
    "stills.wavelength_sigma_percent=1",
    "stills.direction_sigma_mrad=3",
)


def of(count: int = 1000, base=None, **given: object) -> Stills:
    """Stills of `sim.still`'s models."""
    sigmas = "cell", "domain", "fluence", "wavelength"
    params = {f"{name}_sigma_percent": 0.0 for name in sigmas}
    params.update(count=count, seed=0, orientations="random", direction_sigma_mrad=0.0)
    return Stills(SimpleNamespace(**{**params, **given}), base or sim.still())


def test_every_orientation_is_equally_likely() -> None:
    """The angle of a random rotation has the density (1 - cos)/pi, its axis none that it prefers
    (Miles 1965, Biometrika 52, 636); Kolmogorov-Smirnov."""
    base = sim.still()
    shots = of(base=base)
    u_0 = np.array(base.crystal.get_U()).reshape(3, 3)
    turns = [
        Rotation.from_matrix(np.array(shots.models(i).crystal.get_U()).reshape(3, 3) @ u_0.T)
        for i in range(400)
    ]
    vectors = np.array([turn.as_rotvec() for turn in turns])
    angles = np.linalg.norm(vectors, axis=1)
    assert stats.kstest(angles, lambda x: (x - np.sin(x)) / np.pi).pvalue > 1e-3
    for axis in range(3):  # a component of a random unit vector is even from -1 to 1
        component = vectors[:, axis] / angles
        assert stats.kstest(component, lambda x: (x + 1) / 2).pvalue > 1e-3


def test_a_still_depends_on_seed_and_number_alone() -> None:
    some, more = of(count=3), of(count=1000)
    for index in (2, 0, 1):
        assert some.models(index).crystal == more.models(index).crystal
    assert some.models(0).crystal != some.models(1).crystal
    assert some.models(0).crystal != of(seed=1).models(0).crystal


def test_one_thing_that_differs_does_not_change_another() -> None:
    plain, more = of(), of(cell_sigma_percent=1.0, wavelength_sigma_percent=1.0)
    for index in range(3):
        u_plain, u_more = plain.models(index).crystal.get_U(), more.models(index).crystal.get_U()
        # the cell changes where its axes lie in the orthonormal frame, not the frame
        assert np.allclose(u_plain, u_more, atol=1e-12)


@pytest.mark.parametrize(
    ("what", "relative"),
    [("fluence", 0.3), ("domain", 0.5)],
)
def test_log_normal_factors(what: str, relative: float) -> None:
    """Mean 1 and the standard deviation asked for, within 4 standard errors of 2000 of them."""
    shots = of(**{f"{what}_sigma_percent": 100 * relative})
    if what == "fluence":
        values = np.array([shots.fluence_scale(i) for i in range(2000)])
    else:
        crystal = SimpleNamespace(Ncells_abc=[100.0, 50.0, 20.0], domain_size_ang=None)
        params = [shots.params_of(SimpleNamespace(crystal=crystal), i) for i in range(2000)]
        values = np.array([one.crystal.Ncells_abc for one in params]) / crystal.Ncells_abc
        assert np.ptp(values, axis=1).max() < 1e-12
        values = values[:, 0]
    assert values.min() > 0
    assert abs(values.mean() - 1) < 4 * relative / math.sqrt(2000)
    assert abs(values.std() / relative - 1) < 0.15


def test_beams() -> None:
    base = sim.still()
    shots = of(base=base, wavelength_sigma_percent=0.5, direction_sigma_mrad=2.0)
    beams = [shots.models(i).beam for i in range(1000)]
    wavelengths = np.array([beam.get_wavelength() for beam in beams])
    assert abs(wavelengths.std() / 0.005 - 1) < 4 / math.sqrt(2000)
    directions = np.array([beam.get_unit_s0() for beam in beams])
    assert np.abs(directions[:, :2].std(axis=0) / 2e-3 - 1).max() < 4 / math.sqrt(2000)
    for beam in beams[:20]:
        assert abs(np.dot(beam.get_unit_s0(), beam.get_polarization_normal())) < 1e-12
    assert beams[0].get_polarization_fraction() == base.beam.get_polarization_fraction()


@pytest.mark.parametrize(
    ("group", "cell", "alike"),
    [("P 43 21 2", (79, 79, 38, 90, 90, 90), "aab"), ("P 1 21 1", (30, 40, 50, 90, 99, 90), "abc")],
)
def test_cells_keep_their_symmetry(group: str, cell: tuple, alike: str) -> None:
    """By cctbx's own check, and their spread is what was asked for."""
    vectors = np.array(uctbx.unit_cell(cell).orthogonalization_matrix()).reshape(3, 3).T
    rows = [tuple(map(float, row)) for row in vectors]
    base = sim.still(crystal=Crystal(*rows, space_group_symbol=group))
    shots = of(base=base, cell_sigma_percent=0.5)
    cells = [shots.models(i).crystal.get_unit_cell() for i in range(500)]
    space_group = sgtbx.space_group_info(group).group()
    assert all(space_group.is_compatible_unit_cell(one, 1e-9, 1e-6) for one in cells)
    table = np.array([one.parameters() for one in cells])
    spread = table.std(axis=0) / cell
    # the mean of two lengths differs by less, by sqrt(2)
    assert abs(spread[2] / 0.005 - 1) < 4 / math.sqrt(1000)
    assert abs(spread[0] / (0.005 / math.sqrt(alike.count("a"))) - 1) < 4 / math.sqrt(1000)


def test_each_image_is_that_of_its_models(tmp_cwd: Path) -> None:
    """Each experiment of the list, simulated by itself, gives the image again."""
    sim.write_expt("still.expt", sim.still())
    sim.simulate("still.expt", *EXACT, "stills.count=3", *JITTER[:1], *JITTER[3:])
    images, listed = sim.pixels(), sim.load()
    assert len(listed) == len(images) == 3
    assert [one.identifier for one in listed] == [f"the-sweep_{i}" for i in (1, 2, 3)]
    for number, experiment in enumerate(listed):
        experiment.imageset = None
        sim.write_expt("single.expt", experiment)
        sim.simulate("single.expt", *EXACT, "output.prefix=one", "output.overwrite=True")
        (image,) = sim.pixels("one.nxs")
        # bytes differ where the list rounds A; measured 2e-6 of the maximum
        assert np.abs(image - images[number]).max() < 1e-5 * image.max()
    assert np.abs(images[0] - images[1]).max() > 0.1 * images.max()


def test_amplitudes_reach_as_far_as_any_still_sees(tmp_cwd: Path) -> None:
    """Of a model, whose cell is the crystal's: each still by itself, its cell another by up to some
    percent, gives the image again. Measured: exactly."""
    structure = mf.structure("P 43 21 2")
    Path("model.pdb").write_text(structure.as_pdb_file())
    vectors = np.array(structure.unit_cell().orthogonalization_matrix()).reshape(3, 3).T
    rows = [tuple(map(float, row)) for row in vectors]
    model = Crystal(*rows, space_group_symbol="P 43 21 2")
    sim.write_expt("still.expt", sim.still(crystal=model))
    exact = ("model.pdb", *EXACT, "background.level=0", "structure_factors.default_F=0")
    # the others go by the resolution
    exact += tuple(
        f"structure_factors.model.{x}" for x in ("bulk_solvent=False", "algorithm=direct")
    )
    jitter = "stills.cell_sigma_percent=8", "stills.wavelength_sigma_percent=8"
    sim.simulate("still.expt", *exact, "stills.count=4", *jitter)
    images, tolerance = sim.pixels(), "structure_factors.cell_tolerance_percent=40"
    for number, experiment in enumerate(sim.load()):
        experiment.imageset = None
        sim.write_expt("single.expt", experiment)
        to = "output.prefix=one", "output.overwrite=True"
        sim.simulate("single.expt", *exact, tolerance, *to)
        (image,) = sim.pixels("one.nxs")
        assert np.abs(image - images[number]).max() < 1e-5 * image.max()


@pytest.mark.parametrize("sigma", [0.5, 3.0])
def test_reach(sigma: float) -> None:
    """No still sees a point of its reciprocal lattice whose like in the reference's is farther out
    than `reach`: by the largest singular value of what turns one into the other."""
    base = sim.still()
    shots = of(base=base, cell_sigma_percent=sigma, wavelength_sigma_percent=sigma)
    a_0 = np.array(base.crystal.get_A()).reshape(3, 3)
    farthest = 0.0
    for index in range(500):
        one = shots.models(index)
        stretch = a_0 @ np.linalg.inv(np.array(one.crystal.get_A()).reshape(3, 3))
        shorter = base.beam.get_wavelength() / one.beam.get_wavelength()
        farthest = max(farthest, np.linalg.norm(stretch, 2) * shorter)
    assert 1 + 3 * sigma / 100 < farthest < shots.reach
    assert of(base=base).reach == 1


def test_a_spectrum_of_its_own_energies(tmp_cwd: Path) -> None:
    """All stills have its mean wavelength, in whatever direction their beams go."""
    Path("spectrum.txt").write_text("12300 1\n12400 3\n12500 1\n")
    sim.write_expt("still.expt", sim.still())
    shape = "beam.spectrum.shape=spectrum_file", "beam.spectrum.spectrum_file=spectrum.txt"
    sim.simulate("still.expt", *EXACT, *shape, "stills.count=2", "stills.direction_sigma_mrad=3")
    wavelengths = [one.beam.get_wavelength() for one in sim.load()]
    assert wavelengths == pytest.approx([12398.4198 / 12400] * 2, rel=1e-5)


def test_flux_and_domains_differ(tmp_cwd: Path) -> None:
    """The same orientation with another fluence: images are proportional, by the factor."""
    sim.write_expt("still.expt", sim.still())
    same = "stills.count=4", "stills.orientations=model", "background.level=0"
    sim.simulate("still.expt", *EXACT, *same, "stills.fluence_sigma_percent=50")
    images, shots = sim.pixels().astype(float), of(fluence_sigma_percent=50.0)
    scales = np.array([shots.fluence_scale(i) for i in range(4)])
    totals = images.sum(axis=(1, 2))
    assert np.allclose(totals / totals[0], scales / scales[0], rtol=1e-5)


def test_formats_give_each_image_its_models(tmp_cwd: Path) -> None:
    """Ours all of them; the stock one the wavelengths; the list and the file agree."""
    sim.write_expt("still.expt", sim.still())
    sim.simulate("still.expt", *sim.STILL, "stills.count=3", *JITTER)
    ours, stock = FormatNXmxNanoBragg("simulated.nxs"), FormatNXmx("simulated.nxs")
    listed = sim.load()
    imported = ExperimentListFactory.from_filenames(["simulated.nxs"])
    assert len(imported) == 3 and len({one.beam.get_wavelength() for one in imported}) == 3
    for index, experiment in enumerate(listed):
        for beam in (ours.get_beam(index), imported[index].beam):
            assert np.allclose(beam.get_s0(), experiment.beam.get_s0(), atol=1e-14)
            assert beam.is_similar_to(experiment.beam)
        wavelength = stock.get_beam(index).get_wavelength()
        assert wavelength == pytest.approx(experiment.beam.get_wavelength(), rel=1e-12)
        assert np.allclose(ours.get_crystal(index).get_A(), experiment.crystal.get_A(), atol=1e-14)


def test_scan_and_goniometer_are_left(tmp_cwd: Path) -> None:
    sim.write_expt("sweep.expt", sim.sweep())
    sim.simulate("sweep.expt", *sim.STILL, "stills.count=2")
    assert all(one.scan is None and one.goniometer is None for one in sim.load())
    assert sim.pixels().shape[0] == 2


def test_the_exposure_time_is_the_scans(tmp_cwd: Path) -> None:
    """As long as nothing else is said: 1e12/s in 0.1 s and (0.01 mm)^2 are 1e21 photons/m^2."""
    sim.write_expt("timed.expt", sim.sweep(scan=sim.scan(exposure=0.1)))
    usual = [one for one in EXACT if not one.startswith("beam.")]
    same = "stills.count=2", "background.level=0"
    flux = "beam.flux=1e12", "beam.beamsize_mm=0.01"
    sim.simulate("timed.expt", *usual, *same, *flux)
    sim.simulate("timed.expt", *usual, *same, "beam.fluence=1e21", "output.prefix=given")
    assert np.allclose(sim.pixels(), sim.pixels("given.nxs"), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("stills.seed=1",), "stills.seed does nothing without stills.count"),
        (("stills.cell_sigma_percent=1",), "does nothing without stills.count"),
        (("stills.count=2", "sampling.image_range=11,12"), "sampling.image_range"),
        (("stills.count=2", "beam.spectrum.shape=image_set"), "which stills.count replaces"),
    ],
)
def test_refused(given: tuple[str, ...], said: str, tmp_cwd: Path) -> None:
    sim.write_expt("sweep.expt", sim.sweep())
    assert said in sim.refused("sweep.expt", *sim.STILL, *given)


def test_of_one_crystal(tmp_cwd: Path) -> None:
    sim.write_expt("lattices.expt", *sim.lattices())
    assert "stills of one crystal model" in sim.refused(
        "lattices.expt", *sim.STILL, "stills.count=2"
    )
