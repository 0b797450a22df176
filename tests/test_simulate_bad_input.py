# ruff: noqa: E402
"""nanobragg.simulate refuses what it cannot do: one sentence, no traceback, nothing left behind."""

from __future__ import annotations

import copy
import json
import math
import os
import pickle
import resource
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("dials")

import simulate_helpers as sim
from libtbx.utils import Sorry
from scitbx.array_family import flex

from nanobragg_plugin.adapters import load
from nanobragg_plugin.run import sweep as run_sweep

NAN = float("nan")
LOG = "nanobragg.simulate.log"
COMMAND = str(Path(sys.executable).with_name("nanobragg.simulate"))


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
    ("crystal.Ncells_abc=None", "crystal.Ncells_abc=None: give a value"),
    ("crystal.domain_size_ang=0", "crystal.domain_size_ang .* less than the minimum"),
    ("crystal.spot_scale=0", "crystal.spot_scale=0: it must be positive"),
    ("crystal.spot_scale=nan", "crystal.spot_scale=nan"),
    ("crystal.fudge=0", "crystal.fudge=0: it must be positive"),
    ("crystal.fudge=None", "crystal.fudge=None: give a value, or leave it at its default, 1"),
    ("crystal.xtal_shape=cube", "Not a possible choice for crystal.xtal_shape: cube"),
    ("crystal.xtal_shape=None", "crystal.xtal_shape=None"),
    ("crystal.mosaic.spread_deg=-1", "crystal.mosaic.spread_deg .* less than the minimum"),
    ("crystal.mosaic.spread_deg=nan", "crystal.mosaic.spread_deg=nan"),
    ("crystal.mosaic.domains=0", "crystal.mosaic.domains .* less than the minimum"),
    ("crystal.mosaic.domains=3", "domains=3 without crystal.mosaic.spread_deg"),
    ("crystal.mosaic.seed=1.5", "crystal.mosaic.seed"),
    ("background.level=-1", "background.level .* less than the minimum"),
    ("background.level=nan", "background.level=nan"),
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
    ("beam.fluenz=1", "'beam.fluenz=1': is unknown"),
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
    ("geometry.detector.panel.id=3", "panel.id=3: the detector has 1 panels"),
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
        ([a for a in sim.GEOMETRY if "wavelength" not in a], "No wavelength set"),
        ([a for a in sim.GEOMETRY if "direction" not in a], "No beam direction set"),
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


# ---- files


def text_of(expt: str) -> str:
    return Path(expt).read_text()


BAD_FILES = {
    "empty.expt": ("", "empty.expt is empty"),
    "truncated.expt": (lambda text: text[: len(text) // 2], "truncated.expt is not an experiment"),
    "garbage.expt": (bytes(range(128, 256)), "garbage.expt is not an experiment list"),
    "object.expt": ('{"a": 1}', "object.expt is not an experiment list"),
    "list.expt": ("[1, 2]", "list.expt is not an experiment list"),
    "number.expt": ("3", "number.expt is not an experiment list"),
    "null.expt": ("null", "null.expt is not an experiment list"),
    "none.expt": ('{"__id__": "ExperimentList", "experiment": []}', "none.expt holds no exp"),
    "dangling.expt": (
        '{"__id__": "ExperimentList", "experiment": [{"beam": 7}], "beam": []}',
        "dangling.expt is not an experiment list",
    ),
    "syntax.phil": ("beam { fluence = ", "syntax.phil is not a PHIL file: .*line 1"),
    "quote.phil": ("beam.fluence = '1e24", "quote.phil is not a PHIL file"),
    "binary.phil": (bytes(range(128, 256)), "binary.phil is not a PHIL file"),
    "empty.phil": ("", "empty.phil is empty"),
    "unknown.phil": ("beam { fluenz = 3 }", "not recognised .*fluenz = 3"),
    "value.phil": ("beam.fluence = lots", 'beam.fluence="lots"'),
    "preset.phil": ("preset = nosuch", "there is no preset 'nosuch'"),
    "F.mtz": ("garbage", "F.mtz"),
    "strong.refl": (bytes(range(128, 256)), "strong.refl is binary"),
    "F.hkl": ("1 2 3 4\n1 2 x 4\n", "F.hkl"),
    "F.cif": ("data_x\n_cell_length_a 3\n", "F.cif"),
    "image.png": (b"\x89PNG\r\n\x1a\n" + bytes(50), "image.png"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files(name: str, expt: str) -> None:
    content, words = BAD_FILES[name]
    content = content(text_of(expt)) if callable(content) else content
    content = content.encode() if isinstance(content, str) else content
    Path(name).write_bytes(content)
    models = [] if name.endswith(".expt") else [expt]
    arguments = [a for a in sim.QUICK if not (name == "value.phil" and "fluence" in a)]
    with pytest.raises(Sorry, match=words):
        raise Sorry(sim.refused(*models, name, *arguments))
    if name.endswith(".expt"):
        with pytest.raises(Sorry, match=words):
            raise Sorry(sim.refused(f"input.experiments={name}", *arguments))


def test_two_files_of_structure_factors(expt: str) -> None:
    for name in ("a.hkl", "b.hkl"):
        Path(name).write_text("1 2 3 4\n")
    message = sim.refused(expt, "a.hkl", "b.hkl", *sim.QUICK)
    assert "given twice, as a.hkl and as b.hkl" in message


def test_phil_file_of_an_option(expt: str) -> None:
    assert "nowhere.phil" in sim.refused(expt, *sim.QUICK, "--phil", "nowhere.phil")


def test_unreadable_files(expt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As root every file is readable, so that the refusal is made up."""
    Path("F.mtz").write_text("x")
    opened = Path.open

    def deny(path: Path, *args: object, **named: object) -> object:
        if path.name == "F.mtz":
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *args, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", deny)
        with pytest.raises(Sorry, match="F.mtz cannot be read: Permission denied"):
            sim.simulate(expt, "F.mtz", *sim.QUICK)


# ---- models


@pytest.mark.parametrize("name", ["crystal", "beam", "detector", "goniometer"])
def test_missing_models(name: str, tmp_cwd: Path) -> None:
    path = sim.write_expt("models.expt", sim.sweep(**{name: None}))
    assert f"no {name}" in sim.refused(path, *sim.QUICK)


def two_crystals(kind: str) -> str:
    one = sim.sweep(identifier="one")
    if kind != "no images":
        one.imageset = sim.image_sequence(one)
    two = copy.copy(one)
    two.identifier, two.crystal = "two", sim.crystal()
    if kind == "overlapping scans":
        two.scan = sim.scan(13, 3, start=7.0)
    path = sim.write_expt("models.expt", one, two)
    if kind == "two image sets":
        imagesets = json.loads(text_of(path))["imageset"]
        sim.edit_expt(path, "imageset", imagesets * 2)
        sim.edit_expt(path, "experiment", 1, "imageset", 1)
    return path


@pytest.mark.parametrize("kind", ["no images", "images", "two image sets", "overlapping scans"])
def test_several_crystals_of_the_same_images(kind: str, tmp_cwd: Path) -> None:
    message = sim.refused(two_crystals(kind), *sim.QUICK)
    assert "experiments 0 and 1 of the list are crystals of the same images" in message


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


# ---- masks


class Malicious:
    def __reduce__(self) -> tuple:
        return (os.mkdir, ("broken_into",))


def good(n_fast: int = 24, n_slow: int = 18, kind: type = flex.bool, value: float = 1) -> object:
    return kind(flex.grid(n_slow, n_fast), bool(value) if kind is flex.bool else value)


BAD_LOOKUPS = {
    "missing": ("mask", None, "cannot be read: No such file"),
    "garbage": ("mask", b"garbage", "is not a mask as DIALS writes it"),
    "empty": ("mask", b"", "is not a mask as DIALS writes it"),
    "truncated": ("mask", pickle.dumps((good(),))[:-20], "is not a mask"),
    "malicious": ("mask", pickle.dumps(Malicious()), "it holds a .*mkdir"),
    "of another kind": ("mask", pickle.dumps((good(kind=flex.double),)), "it holds a .*double"),
    "a number": ("mask", pickle.dumps(3), "is not a mask"),
    "strings": ("mask", pickle.dumps(("a", "b")), "is not a mask"),
    "of wrong shape": ("mask", pickle.dumps((good(18, 24),)), "24x18 pixels .* detector 18x24"),
    "of two panels": ("mask", pickle.dumps((good(), good())), "18x24, 18x24 pixels"),
    "flat": ("mask", pickle.dumps((flex.bool(18 * 24),)), "432 pixels"),
    "gain of 0": ("gain", pickle.dumps((good(kind=flex.double, value=0),)), "no gain"),
    "gain a mask": ("gain", pickle.dumps((good(),)), "it holds a .*bool"),
    "pedestal of wrong shape": (
        "pedestal",
        pickle.dumps((good(18, 24, flex.double),)),
        "the pedestal .* has 24x18 pixels",
    ),
}


@pytest.mark.parametrize("name", BAD_LOOKUPS)
def test_bad_masks_gains_and_pedestals(name: str, expt: str) -> None:
    what, content, words = BAD_LOOKUPS[name]
    if content is not None:
        Path("lookup.pickle").write_bytes(content)
    sim.edit_expt(expt, "imageset", 0, what, str(Path("lookup.pickle").resolve()))
    with pytest.raises(Sorry, match=words):
        raise Sorry(sim.refused(expt, *sim.QUICK))
    assert not Path("broken_into").exists()


def test_masks_of_random_bytes(expt: str) -> None:
    """Whatever a pickle machine makes of any bytes, it is a Sorry."""
    sim.edit_expt(expt, "imageset", 0, "mask", str(Path("lookup.pickle").resolve()))
    experiment = sim.load(expt)[0]
    whole = pickle.dumps((good(),))
    rng = np.random.default_rng(7)
    refusals = 0
    for _ in range(400):
        damaged = bytearray(whole)
        for place in rng.integers(0, len(whole), 3):
            damaged[place] = rng.integers(256)
        Path("lookup.pickle").write_bytes(damaged)
        try:
            mask = load.lookup(experiment).mask
        except Sorry:
            refusals += 1
        else:  # the damage was to the values
            assert [tile.shape for tile in mask] == [(18, 24)]
    assert refusals > 100


# ---- outputs

OUTPUTS = ["simulated.nxs", "simulated.expt", "simulated.provenance.json", "picture.png"]


@pytest.mark.parametrize("name", OUTPUTS)
def test_outputs_that_exist(name: str, expt: str) -> None:
    Path(name).write_text("precious")
    arguments = (expt, *sim.QUICK, "output.preview=picture.png")
    assert f"{name} exists: use output.overwrite=True" in sim.refused(*arguments)
    sim.simulate(*arguments, "output.overwrite=True")
    assert Path(name).read_bytes() != b"precious"


@pytest.mark.parametrize("name", OUTPUTS)
def test_outputs_that_are_folders(name: str, expt: str) -> None:
    Path(name).mkdir()
    arguments = (expt, *sim.QUICK, "output.preview=picture.png", "output.overwrite=True")
    assert f"cannot write {name}: it is a folder" in sim.refused(*arguments)


def test_outputs_that_are_no_files(expt: str) -> None:
    """As root, replacing a device by a file would succeed."""
    os.mkfifo("pipe")
    message = sim.refused(expt, *sim.QUICK, "output.provenance=pipe", "output.overwrite=True")
    assert "it is a device, not a file" in message and stat.S_ISFIFO(os.stat("pipe").st_mode)


def test_a_dangling_link_is_not_replaced(expt: str) -> None:
    Path("simulated.nxs").symlink_to("elsewhere.nxs")
    with pytest.raises(Sorry, match="simulated.nxs exists"):
        sim.simulate(expt, *sim.QUICK)
    assert Path("simulated.nxs").is_symlink()


@pytest.mark.parametrize(
    "assignment",
    [f"output.{name}={{}}" for name in ("experiments", "provenance", "preview", "log")],
)
def test_inputs_are_never_overwritten(assignment: str, expt: str) -> None:
    """Not even with output.overwrite=True, nor by the log, which replaces older ones."""
    Path("F.hkl").write_text("1 2 3 4\n")
    for name in (expt, "F.hkl"):
        arguments = [expt, "F.hkl", *sim.QUICK, "output.overwrite=True", assignment.format(name)]
        assert f"{name} is an input" in sim.refused(*arguments)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no /proc")
@pytest.mark.parametrize(
    "assignment",
    [
        "output.prefix=/proc/x",
        "output.experiments=/proc/x",
        "output.provenance=/proc/x",
        "output.preview=/proc/x",
        "output.log=/proc/x",
    ],
)
def test_folders_that_cannot_be_written_to(assignment: str, expt: str) -> None:
    """Nobody, not even root, can make a file in /proc."""
    assert "cannot write /proc/x" in sim.refused(expt, *sim.QUICK, assignment)


@pytest.mark.parametrize("when", ["write", "close"])
@pytest.mark.parametrize(
    "failure, words",
    [
        (OSError(28, "No space left on device"), "No space left on device"),
        (MemoryError(), "not enough memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "not enough memory"),
    ],
)
def test_failures_while_writing(when, failure, words, expt, monkeypatch) -> None:
    def fail(*args: object) -> None:
        raise failure

    Path("simulated.nxs").write_text("precious")
    monkeypatch.setattr(run_sweep.NXmxWriter, when, fail)
    assert words in sim.refused(expt, *sim.QUICK, "output.overwrite=True")


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_stopped_in_the_second_sweep(stop, tmp_cwd: Path, monkeypatch) -> None:
    """The first sweep, though whole, does not appear either; what was there stays."""
    path = sim.write_expt("two.expt", sim.sweep(identifier="a"), sim.sweep(identifier="b"))
    Path("simulated_1.nxs").write_text("precious")
    before = sim.contents(Path.cwd())
    images = []

    def simulate(*args: object) -> list:
        images.append(1)
        if len(images) == 5:
            raise stop
        return [torch.ones(18, 24)]

    monkeypatch.setattr(run_sweep, "simulate", simulate)
    with pytest.raises(stop):
        sim.simulate(path, *sim.QUICK, "output.overwrite=True")
    after = sim.contents(Path.cwd())
    after.pop(LOG)
    assert len(images) == 5 and after == before


# ---- through the real command


def run_command(*args: str, limit: int | None = None) -> subprocess.CompletedProcess:
    def lower() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.run(
        [COMMAND, *args],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=None if limit is None else lower,
    )


def test_exit_status_and_message(expt: str) -> None:
    done = run_command(expt, *sim.QUICK, "beam.fluence=-1")
    assert done.returncode == 1
    assert done.stderr.startswith("Sorry: ") and done.stderr.count("\n") == 1
    # made of another error, which is not shown
    done = run_command(*sim.GEOMETRY, *sim.QUICK, "geometry.crystal.space_group=P17")
    assert done.returncode == 1
    assert done.stderr == "Sorry: geometry.crystal.space_group=P17 is no space group\n"
    assert sorted(os.listdir()) == ["models.expt", LOG]


def test_a_full_disk(expt: str) -> None:
    """A limit on the size of files stands for the disk's. (Debian's HDF5 may crash when the
    process ends, after all is said and done: so much is said of the exit status alone.)"""
    done = run_command(
        expt, *sim.QUICK, "geometry.detector.panel.image_size=300,300", "output.compression=none",
        limit=200_000,
    )  # fmt: skip
    assert done.returncode != 0
    said = "Sorry: the images cannot be written: File too large; make room, or write elsewhere\n"
    assert done.stderr.startswith(said)
    assert "Please report" not in done.stderr
    assert sorted(os.listdir()) == ["models.expt", LOG]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_killed_half_way(number: int, expt: str) -> None:
    """2000 images would take some time; the signal comes when the hidden folder is there."""
    arguments = [expt, *sim.QUICK, "geometry.scan.image_range=1,20000"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [COMMAND, *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    for _ in range(600):
        if any(name.endswith(".part") for name in os.listdir()) or process.poll() is not None:
            break
        time.sleep(0.1)
    time.sleep(0.3)
    process.send_signal(number)
    process.communicate(timeout=60)
    expected = (143, -number) if number == signal.SIGTERM else (-number, 1, 130)
    assert process.returncode in expected
    assert sorted(os.listdir()) == ["models.expt", LOG]
