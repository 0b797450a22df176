# ruff: noqa: E402
"""Parameters and models that nanobragg.simulate cannot use: one sentence, no traceback, nothing
left behind. (test_simulate_bad_files.py: files, and runs that are stopped.)"""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("dials")

import simulate_helpers as sim
from dxtbx.model import Beam
from libtbx.utils import Sorry

NAN = float("nan")


@pytest.fixture
def expt(tmp_cwd: Path) -> str:
    """An experiment list of one sweep, in an otherwise empty working directory."""
    return sim.write_expt("models.expt", sim.sweep(), images=True)


def without(name: str, arguments: tuple[str, ...] = sim.QUICK) -> list[str]:
    return [argument for argument in arguments if not argument.startswith(name)]


# ---- parameters: what is wrong, and words that the message must have

BAD_VALUES = [
    ("beam.fluence=nan", "beam.fluence=nan: give a finite number"),
    ("beam.fluence=inf", "beam.fluence=inf: give a finite number"),
    ("beam.fluence=-1", "beam.fluence .* less than the minimum"),
    ("beam.fluence=0", "beam.fluence=0: it must be positive"),
    ("beam.fluence=foo", 'beam.fluence="foo"'),
    ("beam.fluence=Auto", "beam.fluence=Auto: it has no automatic value"),
    ("beam.fluence=1e40", "photons in a pixel: lower beam.fluence"),
    ("beam.fluence=1e300", "photons in a pixel: lower beam.fluence"),
    ("beam.flux=0", "beam.flux=0: it must be positive"),
    ("beam.exposure_s=0", "beam.exposure_s=0: it must be positive"),
    ("beam.beamsize_mm=0", "beam.beamsize_mm=0: it must be positive"),
    ("beam.beamsize_mm=1,1,1", "Too many values for beam.beamsize_mm"),
    ("crystal.size_mm=nan,1,1", "crystal.size_mm=nan"),
    ("crystal.size_mm=0,1,1", "crystal.size_mm=0,1,1: it must be positive"),
    ("crystal.size_mm=1,1", "Not enough values for crystal.size_mm"),
    ("crystal.Ncells_abc=0,1,1", "crystal.Ncells_abc .* less than the minimum"),
    ("crystal.Ncells_abc=nan,5,5", "crystal.Ncells_abc=nan"),
    ("crystal.domain_size_ang=0", "crystal.domain_size_ang .* less than the minimum"),
    ("crystal.spot_scale=0", "crystal.spot_scale=0: it must be positive"),
    ("crystal.spot_scale=nan", "crystal.spot_scale=nan"),
    ("crystal.fudge=None", "crystal.fudge=None: give a value, or leave it at its default, 1"),
    ("crystal.xtal_shape=cube", "Not a possible choice for crystal.xtal_shape: cube"),
    ("crystal.xtal_shape=None", "crystal.xtal_shape=None"),
    ("crystal.mosaic.spread_deg=-1", "crystal.mosaic.spread_deg .* less than the minimum"),
    ("crystal.mosaic.spread_deg=nan", "crystal.mosaic.spread_deg=nan"),
    ("crystal.mosaic.domains=0", "crystal.mosaic.domains .* less than the minimum"),
    ("crystal.mosaic.domains=3", "domains=3 without crystal.mosaic.spread_deg"),
    ("crystal.mosaic.seed=1.5", "crystal.mosaic.seed"),
    ("crystal.mosaic.spread_abc_deg=1,1", "Not enough values for crystal.mosaic.spread_abc_deg"),
    ("crystal.mosaic.spread_abc_deg=1,1,nan", "crystal.mosaic.spread_abc_deg=nan"),
    ("crystal.mosaic.spread_abc_deg=1,1,-1", "spread_abc_deg .* less than the minimum"),
    ("crystal.diffuse.sigma_ang=1,1,1", "sigma_ang without crystal.diffuse.gamma_ang: give both"),
    ("crystal.diffuse.gamma_ang=9,9,9", "gamma_ang without crystal.diffuse.sigma_ang: give both"),
    ("crystal.diffuse.sigma_ang=1,1", "Not enough values for crystal.diffuse.sigma_ang"),
    ("crystal.diffuse.sigma_ang=1,1,nan", "crystal.diffuse.sigma_ang=nan"),
    ("crystal.diffuse.gamma_ang=0,9,9", "crystal.diffuse.gamma_ang .* less than the minimum"),
    ("crystal.diffuse.stencil=5", "crystal.diffuse.stencil .* greater than the maximum"),
    ("crystal.damage.b_per_image=-1", "crystal.damage.b_per_image .* less than the minimum"),
    ("crystal.damage.b_per_image=nan", "crystal.damage.b_per_image=nan"),
    ("crystal.damage.loss_per_image=-1", "crystal.damage.loss_per_image .* less than the minimum"),
    ("crystal.damage.loss_per_image=inf", "crystal.damage.loss_per_image=inf"),
    ("crystal.cell_spread_percent=-1", "crystal.cell_spread_percent .* less than the minimum"),
    ("crystal.cell_spread_percent=21", "crystal.cell_spread_percent .* greater than the maximum"),
    ("crystal.cell_spread_percent=nan", "crystal.cell_spread_percent=nan"),
    ("background.level=-1", "background.level .* less than the minimum"),
    ("background.level=nan", "background.level=nan"),
    ("background.water_c=-1", "background.water_c .* less than the minimum"),
    ("background.water_c=nan", "background.water_c=nan: give a finite number"),
    ("structure_factors.interpolate=None", "structure_factors.interpolate=None"),
    ("noise.poisson=maybe", "noise.poisson"),
    ("noise.poisson=None", "noise.poisson=None"),
    ("noise.seed=None", "noise.seed=None"),
    ("sampling.oversample=0", "sampling.oversample .* less than the minimum"),
    ("sampling.oversample=1.5", "sampling.oversample"),
    ("sampling.oversample=99999", "sampling.oversample .* greater than the maximum"),
    ("sampling.phisteps=0", "sampling.phisteps .* less than the minimum"),
    ("sampling.phisteps=None", "sampling.phisteps=None"),
    ("sampling.phistep_deg=0", "sampling.phistep_deg=0: it must go the way of the scan"),
    ("sampling.phistep_deg=-0.3", "sampling.phistep_deg=-0.3: it must go the way of the scan"),
    ("sampling.phistep_deg=nan", "sampling.phistep_deg=nan"),
    ("sampling.thicksteps=-1", "sampling.thicksteps .* less than the minimum"),
    ("sampling.thickstep_mm=0", "sampling.thickstep_mm=0: it must be positive"),
    ("sampling.d_min=0", "sampling.d_min=0: it must be positive"),
    ("sampling.d_min=-1", "sampling.d_min .* less than the minimum"),
    ("sampling.curved_detector=True", "whose beam is along x: .* for a beam along .*-1"),
    ("sampling.phi_carryover_mode=c-parity", "use sampling.phi_sampling=start"),
    ("sampling.roi=1,2,3", "Not enough values for sampling.roi"),
    ("sampling.roi=0,24,0,3", "not within panel 0 of 24 x 18 pixels"),
    ("sampling.roi=3,2,0,3", "not within panel 0"),
    ("sampling.roi=0,3,0,3,1", "there is no panel 1"),
    ("sampling.image_range=1,2", "not within the scan, whose images are 11 to 13"),
    ("sampling.image_range=12,14", "not within the scan, whose images are 11 to 13"),
    ("sampling.image_range=13,12", "not within the scan"),
    ("sampling.image_range=11", "Not enough values for sampling.image_range"),
    ("compute.device=warp", "compute.device=warp cannot be used here"),
    ("compute.device=cuda:99", "compute.device=cuda:99 cannot be used here"),
    ("compute.device=meta", "compute.device=meta cannot be used here"),
    ("compute.device=None", "compute.device=None"),
    ("compute.nthreads=0", "compute.nthreads .* less than the minimum"),
    ("compute.nthreads=99999999999", "compute.nthreads .* greater than the maximum"),
    ("compute.batch_steps=0", "compute.batch_steps .* less than the minimum"),
    ("compute.batch_steps=1000000000000000000000", "compute.batch_steps .* greater"),
    ("compute.precision=half", "Not a possible choice for compute.precision: half"),
    ("structure_factors.default_F=-1", "structure_factors.default_F .* less than the minimum"),
    ("structure_factors.default_F=nan", "structure_factors.default_F=nan"),
    ("structure_factors.default_F=0", "There are no structure factors"),
    ("structure_factors.d_min=0", "structure_factors.d_min=0: it must be positive"),
    ("structure_factors.model.wavelength=0", "model.wavelength=0: it must be positive"),
    ("structure_factors.file=nowhere.mtz", "nowhere.mtz"),
    ("structure_factors.observation_type=guess", "Not a possible choice"),
    ("preset=nosuch", "there is no preset 'nosuch': choose from .*pilatus_6m"),
    ("prese=pilatus_6m", "preset=pilatus_6m: give it by its full name"),
    ("beam.fluenz=1", "'beam.fluenz=1' is unknown"),
    ("seed=1", "Ambiguous parameter definition: seed = 1 .*noise.seed"),
    ("beam.fluence=", "Missing value for beam.fluence"),
    ("=1", "improper definition name"),
    ("output.prefix=None", "output.prefix=None"),
    ("output.compression=lzw", "Not a possible choice for output.compression: lzw"),
    ("output.prefix=a#b", "takes # in the name"),
    ("output.prefix=out/", "names no file"),
    ("output.prefix=nowhere/x", "there is no folder nowhere; make it first"),
    ("output.experiments=nowhere/x.expt", "there is no folder nowhere"),
    ("output.provenance=nowhere/x.json", "there is no folder nowhere"),
    ("output.preview=nowhere/x.png", "there is no folder nowhere"),
    ("output.log=nowhere/x.log", "there is no folder nowhere"),
    ("output.experiments=simulated.nxs", "two outputs would both be .*simulated.nxs"),
    ("output.preview=simulated.expt", "two outputs would both be .*simulated.expt"),
    ("output.log=simulated.expt", "two outputs would both be .*simulated.expt"),
    ("nowhere.mtz", "there is no file nowhere.mtz"),
    (".", r"\. is a folder"),
    ("--warp", "the option --warp is unknown"),
    ("input.experiments=nowhere.expt", "there is no file nowhere.expt"),
    ("geometry.beam.wavelength=0", "geometry.beam.wavelength=0: it must be positive"),
    ("geometry.beam.wavelength=-1", "geometry.beam.wavelength=-1: it must be positive"),
    ("geometry.beam.wavelength=nan", "geometry.beam.wavelength=nan"),
    ("geometry.beam.direction=0,0,0", "geometry.beam.direction=0,0,0 is no direction"),
    ("geometry.beam.polarization_fraction=2", "polarization_fraction .* greater than"),
    ("geometry.beam.polarization_normal=0,0,1", "polarization normal .* parallel to s0"),
    ("geometry.detector.panel.id=3", "give its id together with what is changed"),
    ("geometry.detector.panel.gain=0", "panel.gain=0: it must be positive"),
    ("geometry.detector.panel.gain=nan", "panel.gain=nan"),
    ("geometry.detector.panel.pedestal=inf", "panel.pedestal=inf"),
    ("geometry.detector.panel.pixel_size=0,1", "panel.pixel_size=0,1: it must be positive"),
    ("geometry.detector.panel.image_size=0,5", "panel.image_size=0,5: it must be positive"),
    ("geometry.detector.panel.image_size=10000000,10000000", "not enough memory"),
    ("geometry.detector.panel.material=unobtainium", "the absorption of 'unobtainium'"),
    ("geometry.detector.panel.thickness=-1", "thickness of panel 0"),
    ("geometry.detector.panel.fast_axis=0,1,0.1", "only rectangular pixels"),
    ("geometry.detector.distance=0", "goes through the crystal"),
    ("geometry.detector.fast_slow_beam_centre=1,2,5", "does not have panel index 5"),
    ("geometry.goniometer.axis=0,0,0", "no direction"),
    ("geometry.goniometer.scan_axis=1", "for a goniometer of several axes"),
    ("geometry.goniometer.names=omega", "names == None"),
    ("geometry.goniometer.fixed_rotation=1,0,0,0,1,0,0,0,2", "not a rotation"),
    ("geometry.scan.image_range=3,1", "geometry.scan.image_range=3,1"),
    ("geometry.scan.image_range=1,1000000000", "at most 1000000 in all"),
    ("geometry.scan.oscillation=nan,1", "geometry.scan.oscillation=nan"),
    ("geometry.scan.oscillation=0,-1", "geometry.scan does not describe a scan"),
    ("geometry.crystal.unit_cell=0,0,0,0,0,0", "must be positive"),
    ("geometry.crystal.unit_cell=1,1,1,90,90,200", "is no cell"),
    ("geometry.crystal.unit_cell=30,30,30,10,10,90", "is no cell"),
    ("geometry.crystal.space_group=P17", "P17 is no space group"),
    ("geometry.crystal.space_group=P422", "does not have the symmetry of P 4 2 2"),
    ("geometry.crystal.A_matrix=1,2,3,4,5,6,7,8,9", "lie in a plane"),
]


@pytest.mark.parametrize("assignment, words", BAD_VALUES, ids=[value for value, _ in BAD_VALUES])
def test_bad_values(assignment: str, words: str, expt: str) -> None:
    with pytest.raises(Sorry, match=words):
        raise Sorry(sim.refused(expt, *sim.QUICK, assignment))


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], "there is nothing to simulate: give an experiment list"),
        (["F.mtz"], "there is no file F.mtz"),
        ([a for a in sim.GEOMETRY if "unit_cell" not in a], "there is no crystal"),
        ([a for a in sim.GEOMETRY if "wavelength" not in a], "geometry.beam.wavelength too"),
        ([a for a in sim.GEOMETRY if "direction" not in a], "geometry.beam.direction too"),
        ([a for a in sim.GEOMETRY if "pixel_size" not in a], "No pixel size set"),
        ([a for a in sim.GEOMETRY if "image_size" not in a], "nothing to simulate"),
        ([a for a in sim.GEOMETRY if "goniometer" not in a], "no goniometer"),
        ([a for a in sim.GEOMETRY if "image_range" not in a], "No image range set"),
        ([a for a in sim.GEOMETRY if "oscillation" not in a], "No oscillation set"),
        (
            [a for a in sim.GEOMETRY if "goniometer" not in a]
            + ["geometry.goniometer.invert_rotation_axis=True"],
            "there is no goniometer to change",
        ),
        (
            [*sim.GEOMETRY, "geometry.crystal.A_matrix=.1,0,0,0,.1,0,0,0,.1"],
            "give it, or unit_cell and misset_deg",
        ),
    ],
)
def test_bad_geometry_without_an_experiment_list(arguments, words, tmp_cwd: Path) -> None:
    with pytest.raises(Sorry, match=words):
        raise Sorry(sim.refused(*arguments, *sim.QUICK))


def test_no_fluence(expt: str) -> None:
    arguments = without("beam.fluence")
    message = sim.refused(expt, *arguments)
    for words in ("beam.fluence (photons/m^2)", "beam.flux", "beam.exposure_s", "beam.beamsize_mm"):
        assert words in message
    message = sim.refused(expt, *arguments, "beam.flux=1e12", "beam.beamsize_mm=0.1")
    assert "the scan has none" in message and "beam.flux" not in message


@pytest.mark.parametrize("assignment", ["sampling.phisteps=2", "sampling.phistep_deg=0.1"])
def test_phi_steps_of_a_still(assignment: str, tmp_cwd: Path) -> None:
    path = sim.write_expt("still.expt", sim.still())
    assert "a still has one phi" in sim.refused(path, *sim.STILL, assignment)
    assert "without scan" in sim.refused(path, *sim.STILL, "sampling.image_range=1,1")


def test_a_run_that_would_not_end(expt: str) -> None:
    """A perfect crystal of 1 mm: the automatic oversampling is beyond all reason."""
    arguments = [*without("sampling.oversample"), "crystal.Ncells_abc=3e5,3e5,3e5"]
    assert "every pixel would take" in sim.refused(expt, *arguments)
    spread = ["crystal.mosaic.spread_deg=0.1", "crystal.mosaic.domains=100000"]
    assert "every pixel would take" in sim.refused(
        expt, *without("sampling.phisteps"), *spread, "sampling.phisteps=1000000"
    )


# ---- models


@pytest.mark.parametrize("name", ["crystal", "beam", "detector", "goniometer"])
def test_missing_models(name: str, tmp_cwd: Path) -> None:
    path = sim.write_expt("models.expt", sim.sweep(**{name: None}))
    assert f"no {name}" in sim.refused(path, *sim.QUICK)


def two_crystals(kind: str) -> str:
    one = sim.sweep(identifier="one")
    one.imageset = sim.image_sequence(one)
    two = copy.copy(one)
    two.identifier, two.crystal = "two", sim.crystal()
    if kind == "overlapping scans":
        two.scan = sim.scan(13, 3, start=7.0)
    else:
        setattr(two, kind, {"beam": Beam((0, 0, 1), 1.1), "detector": sim.detector(2)}[kind])
    return sim.write_expt("models.expt", one, two)


@pytest.mark.parametrize("kind", ["beam", "detector"])
def test_crystals_of_the_same_images_that_do_not_agree(kind: str, tmp_cwd: Path) -> None:
    said = sim.refused(two_crystals(kind), *sim.QUICK)
    assert f"do not have the same {kind}" in said and "crystal.lattices=apart" in said


def test_crystals_of_some_of_the_same_images(tmp_cwd: Path) -> None:
    said = sim.refused(two_crystals("overlapping scans"), *sim.QUICK)
    assert "share some of their images, 11 to 13 and 13 to 15" in said


def test_a_list_given_twice(expt: str) -> None:
    assert "give each list once" in sim.refused(expt, expt, *sim.QUICK)


BAD_MODELS = [
    ("beam", "wavelength", NAN),
    ("beam", "wavelength", 0),
    ("beam", "wavelength", -1),
    ("beam", "wavelength", math.inf),
    ("beam", "direction", [0, 0, 0]),
    ("beam", "direction", [NAN, 0, 1]),
    ("beam", "flux", NAN),
    ("beam", "polarization_fraction", 1.5),
    ("beam", "polarization_normal", [0, 0, 1]),
    ("panel", "pixel_size", [0, 1]),
    ("panel", "pixel_size", [-1, 1]),
    ("panel", "pixel_size", [NAN, 1]),
    ("panel", "image_size", [0, 3]),
    ("panel", "origin", [NAN, 0, 1]),
    ("panel", "fast_axis", [1, 1, 0]),
    ("panel", "gain", NAN),
    ("panel", "gain", 0),
    ("panel", "gain", -2),
    ("panel", "pedestal", NAN),
    ("panel", "trusted_range", [NAN, 3]),
    ("panel", "thickness", NAN),
    ("panel", "thickness", -1),
    ("panel", "mu", NAN),
    ("panel", "mu", -1),
    ("goniometer", "rotation_axis", [0, 0, 0]),
    ("goniometer", "rotation_axis", [NAN, 0, 0]),
    ("goniometer", "fixed_rotation", [2, 0, 0, 0, 1, 0, 0, 0, 1]),
    ("scan", "oscillation", [NAN, 1]),
    ("scan", "oscillation", [0, NAN]),
    ("scan", "oscillation", [0, -1]),
    ("scan", "image_range", [3, 1]),
    ("scan", "exposure_time", [NAN, 1, 1]),
    ("crystal", "real_space_a", [0, 0, 0]),
    ("crystal", "real_space_a", [NAN, 0, 0]),
    ("crystal", "space_group_hall_symbol", "nonsense"),
]


@pytest.mark.parametrize("model, entry, value", BAD_MODELS)
def test_bad_models(model: str, entry: str, value: object, tmp_cwd: Path) -> None:
    path = sim.write_expt("models.expt", sim.sweep())
    way = ("detector", 0, "panels", 0) if model == "panel" else (model, 0)
    sim.edit_expt(path, *way, entry, value)
    message = sim.refused(path, *sim.QUICK)
    assert (
        "models.expt" in message
        or {"panel": "panel"}.get(model, model) in message
        or ("detector" in message)
    )


def test_exposure_times_that_are_none(tmp_cwd: Path) -> None:
    path = sim.write_expt("models.expt", sim.sweep(scan=sim.scan(exposure=0.1)))
    sim.edit_expt(path, "scan", 0, "exposure_time", [0.1, -0.1, 0.1])
    arguments = [*without("beam.fluence"), "beam.flux=1e12", "beam.beamsize_mm=0.1"]
    assert "exposure time" in sim.refused(path, *arguments)


def test_scan_points_that_do_not_fit(tmp_cwd: Path) -> None:
    experiment = sim.sweep()
    experiment.crystal.set_A_at_scan_points([experiment.crystal.get_A()] * 3)
    path = sim.write_expt("models.expt", experiment)
    assert "scan-varying crystal has values at 3 scan points" in sim.refused(path, *sim.QUICK)
