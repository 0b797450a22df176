# ruff: noqa: E402
"""Every parameter of nanobragg.simulate acts, each within a run where it should.

A parameter that is added to phil/ without an entry here fails a test.
"""

from __future__ import annotations

import contextlib
import json
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import h5py
import miller_files as mf
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("dials")

import simulate_helpers as sim
from dials.array_family import flex
from dxtbx.model import Beam, Crystal, Detector, Goniometer

from nanobragg_plugin.run import cluster, processes
from nanobragg_plugin.run.maker import Maker
from nanobragg_plugin.simulate import Simulator

# ---- experiment lists and files to act on


def hierarchical() -> Detector:
    """Two panels in a group."""
    flat, result = sim.detector(2), Detector()
    group = result.hierarchy().add_group()
    for panel in flat:
        group.add_panel(panel)
    return result


def orthorhombic(cell: tuple = (30.0, 40.0, 50.0)) -> Crystal:
    a, b, c = cell
    return Crystal((0, a, 0), (b, 0, 0), (0, 0, -c), space_group_symbol="P1")


def small_cell() -> Crystal:
    """That of miller_files' P 1 structure, which its files are of."""
    orthogonalize = mf.symmetry("P 1").unit_cell().orthogonalization_matrix()
    vectors = np.array(orthogonalize).reshape(3, 3).T
    return Crystal(*(tuple(map(float, v)) for v in vectors), space_group_symbol="P1")


def along_x() -> dict:
    """The photons along +x, as in nanoBragg.c's mosflm convention, and a detector there."""
    detector = sim.detector()
    detector[0].set_frame((0, 0, 1), (0, -1, 0), (40, 6, -5))
    return {
        "beam": Beam((-1, 0, 0), 1.0),
        "detector": detector,
        "goniometer": Goniometer((0, 0, 1)),
    }


EXPERIMENTS = {
    "sweep": sim.sweep,
    "panels": lambda: sim.sweep(detector=sim.detector(2)),
    "hierarchy": lambda: sim.sweep(detector=hierarchical()),
    "through zero": lambda: sim.sweep(scan=sim.scan(start=-0.5)),
    "timed": lambda: sim.sweep(scan=sim.scan(exposure=0.1)),
    "orthorhombic": lambda: sim.sweep(crystal=orthorhombic()),
    "small cell": lambda: sim.sweep(crystal=small_cell()),
    "along x": lambda: sim.sweep(**along_x()),
    "lattices": lambda: sim.lattices(),
}


def files() -> None:
    """Structure factors of miller_files' structure in P 1, by every way a parameter needs; a list
    of sources."""
    atoms = mf.structure("P 1")
    Path("model.pdb").write_text(atoms.as_pdb_file())
    f_calc = abs(atoms.structure_factors(d_min=2.1).f_calc())
    f_calc.as_mtz_dataset("F").mtz_object().write("one.mtz")
    two = f_calc.as_mtz_dataset("F")
    two.add_miller_array(f_calc.customized_copy(data=2 * f_calc.data()), "G")
    two.mtz_object().write("two.mtz")
    cell = list(f_calc.unit_cell().parameters())
    cell[0] *= 1.03
    f_calc.customized_copy(unit_cell=cell).as_mtz_dataset("F").mtz_object().write("longer.mtz")
    with open("shelx.hkl", "w") as stream:
        f_calc.customized_copy(sigmas=f_calc.data() / 10).export_as_shelx_hklf(stream)
    Path("one.stol").write_text("0 3\n0.2 5\n0.6 2\n")
    Path("other.stol").write_text("# another\n0 3\n0.2 6\n0.6 2\n")
    Path("radial.txt").write_text("0 1e4\n0.5 2e4\n")
    np.save("flat.npy", np.ones((18, 24)))
    with open("gain.pickle", "wb") as stream:
        pickle.dump(flex.double(flex.grid(18, 24), 3.0), stream)
    Path("one.spectrum").write_text("12300 0\n12400 2\n12500 0\n")
    Path("other.spectrum").write_text("12300 1\n12400 2\n12500 0\n")
    Path("one.scan").write_text("6000 5 9\n13000 -5 9\n")
    Path("other.scan").write_text("6000 5 4\n13000 -5 4\n")
    Path("scales.txt").write_text("1\n2\n0.5\n")
    Path("sources.txt").write_text("0 0 1 2\n0.01 0 1 1 1.02e-10\n")


@dataclass(frozen=True)
class Act:
    """A parameter acts: `change` of it, an assignment or (with braces) a PHIL file's text, alters
    `what` of a run with the experiment list `models` (None: dxtbx's own parameters) and the usual
    arguments but those that begin with `without`, and `base`.

    what: pixels (values, shape or mask), models (what the .expt has), storage (type and
    compression), files, threads, batches, processes (how many simulate), compiled (whether that is
    wanted); refused (the change ends in a Sorry), allowed (without the change it does).
    """

    change: str
    what: str = "pixels"
    models: str | None = "sweep"
    base: tuple[str, ...] = ()
    without: tuple[str, ...] = ()


IN_BEAM = ("beam.fluence=1e22", "beam.beamsize_mm=0.1,0.1")


def in_beam(name: str) -> tuple[str, ...]:
    """The usual material of that name."""
    scope = f"background.{name}."
    own = f"{scope}thickness_mm=1", f"{scope}density_g_cm3=1", f"{scope}molecular_weight=18"
    more = {"other": "stol_file=one.stol", "ice": "fwhm_inv_ang=0.05"}  # pixels are large here
    return (*own, f"{scope}{more[name]}") if name in more else own


PANEL, HIERARCHY = "geometry.detector.panel.", "geometry.detector.hierarchy."
POINT_SPREAD, BAD = "detector.point_spread.", "detector.bad_pixels."
STOP, GAPS = "background.beam_stop.", "detector.gaps."
GONIOMETER = "geometry.goniometer."
NO_FLUENCE = ("beam.fluence",)
FLUX = ("beam.flux=1e12", "beam.exposure_s=0.1", "beam.beamsize_mm=0.01")
SPREAD = ("crystal.mosaic.spread_deg=0.5", "crystal.mosaic.domains=3")
DIFFUSE = ("crystal.diffuse.sigma_ang=0.5,0.5,0.4", "crystal.diffuse.gamma_ang=20,20,40")
HORIZONTAL, VERTICAL = ("beam.hdivrange_mrad=12",), ("beam.vdivrange_mrad=8",)
DISPERSION = ("beam.dispersion_percent=2",)
GAUSSIAN_SPECTRUM = (
    "beam.spectrum.shape=gaussian",
    "beam.spectrum.fwhm_percent=3",
    "beam.spectrum.samples=5",
)
COLOURS = ("beam.spectrum.shape=two_colour", "beam.spectrum.separation_ev=200")
FINE = ("sampling.oversample=2", "compute.precision=double")
MODEL = ("structure_factors.file=model.pdb", "structure_factors.d_min=3")
ANOMALOUS = (*MODEL, "structure_factors.model.wavelength=1.9")
MEASURED = tuple(
    f"structure_factors.model.anomalous.measured_{value}"
    for value in ("file=one.scan", "element=C")
)
SPARSE = ("compute.kernel=sparse", "compute.tolerance=100")
TWO_AXES = ("geometry.goniometer.axes=0,1,0,1,0,0", "geometry.goniometer.angles=10,20")

ACTS = {
    "preset": Act("preset=pilatus_6m", without=("background.level",)),
    "geometry.detector.panel.id": Act("geometry.detector.panel { id=1; gain=2 }", models="panels"),
    "geometry.detector.panel.name": Act(f"{PANEL}name=other", "models"),
    "geometry.detector.panel.type": Act(f"{PANEL}type=SENSOR_PAD", "models"),
    "geometry.detector.panel.gain": Act(f"{PANEL}gain=2"),
    "geometry.detector.panel.pedestal": Act(f"{PANEL}pedestal=10"),
    "geometry.detector.panel.pixel_size": Act(f"{PANEL}pixel_size=0.4,0.3"),
    "geometry.detector.panel.image_size": Act(f"{PANEL}image_size=20,14"),
    "geometry.detector.panel.trusted_range": Act(f"{PANEL}trusted_range=-1,999", "models"),
    "geometry.detector.panel.thickness": Act(f"{PANEL}thickness=0.1"),
    "geometry.detector.panel.material": Act(f"{PANEL}material=CdTe"),
    "geometry.detector.panel.fast_axis": Act(f"{PANEL}fast_axis=0.8,0,0.6"),
    "geometry.detector.panel.slow_axis": Act(f"{PANEL}slow_axis=0,-0.8,0.6"),
    "geometry.detector.panel.origin": Act(f"{PANEL}origin=-6,6,-40"),
    "geometry.detector.panel.parallax_correction": Act(
        f"{PANEL}parallax_correction=True", "models"
    ),
    "geometry.detector.hierarchy.name": Act(f"{HIERARCHY}name=other", "models"),
    "geometry.detector.hierarchy.fast_axis": Act(f"{HIERARCHY}fast_axis=0.8,0,0.6"),
    "geometry.detector.hierarchy.slow_axis": Act(f"{HIERARCHY}slow_axis=0,0.8,0.6"),
    "geometry.detector.hierarchy.origin": Act(f"{HIERARCHY}origin=0,0,-5"),
    "geometry.detector.hierarchy.group.id": Act(
        f"{HIERARCHY}group {{ id=7; name=x }}", "refused", "hierarchy"
    ),
    **{
        f"geometry.detector.hierarchy.group.{name}": Act(
            f"{HIERARCHY}group {{ id=0; {name}={value} }}", what, "hierarchy"
        )
        for name, value, what in (
            ("name", "other", "models"),
            ("fast_axis", "0.8,0,0.6", "pixels"),
            ("slow_axis", "0,0.8,0.6", "pixels"),
            ("origin", "0,0,-5", "pixels"),
            ("panel", "0", "refused"),
        )
    },
    "geometry.detector.mosflm_beam_centre": Act("geometry.detector.mosflm_beam_centre=5,5"),
    "geometry.detector.distance": Act("geometry.detector.distance=50"),
    "geometry.detector.fast_slow_beam_centre": Act("geometry.detector.fast_slow_beam_centre=10,9"),
    "geometry.detector.slow_fast_beam_centre": Act("geometry.detector.slow_fast_beam_centre=9,10"),
    "geometry.beam.wavelength": Act("geometry.beam.wavelength=1.1"),
    "geometry.beam.direction": Act("geometry.beam.direction=0.1,0,1"),
    "geometry.beam.polarization_normal": Act("geometry.beam.polarization_normal=1,0,0"),
    "geometry.beam.polarization_fraction": Act("geometry.beam.polarization_fraction=0.5"),
    "geometry.beam.transmission": Act("geometry.beam.transmission=0.5", "models"),
    "geometry.beam.flux": Act(
        "geometry.beam.flux=3e12",
        base=("geometry.beam.flux=1e12", *FLUX[1:]),
        without=NO_FLUENCE,
    ),
    "geometry.goniometer.axis": Act(f"{GONIOMETER}axis=0,1,0"),
    "geometry.goniometer.axes": Act(f"{GONIOMETER}axes=0,1,0"),
    "geometry.goniometer.angles": Act(f"{GONIOMETER}angles=10,40", models=None, base=TWO_AXES),
    "geometry.goniometer.names": Act(
        f"{GONIOMETER}names=phi,omega", "models", models=None, base=TWO_AXES
    ),
    "geometry.goniometer.scan_axis": Act(f"{GONIOMETER}scan_axis=1", models=None, base=TWO_AXES),
    "geometry.goniometer.fixed_rotation": Act(f"{GONIOMETER}fixed_rotation=0,1,0,-1,0,0,0,0,1"),
    "geometry.goniometer.setting_rotation": Act(f"{GONIOMETER}setting_rotation=0,1,0,-1,0,0,0,0,1"),
    "geometry.goniometer.invert_rotation_axis": Act(f"{GONIOMETER}invert_rotation_axis=True"),
    "geometry.scan.image_range": Act("geometry.scan.image_range=11,12"),
    "geometry.scan.extrapolate_scan": Act(
        "geometry.scan.extrapolate_scan=True",
        "models",
        models="timed",
        base=("geometry.scan.image_range=11,15",),
    ),
    "geometry.scan.oscillation": Act("geometry.scan.oscillation=7,0.5"),
    "geometry.scan.batch_offset": Act("geometry.scan.batch_offset=100", "models"),
    "geometry.crystal.unit_cell": Act("geometry.crystal.unit_cell=30,40,60,90,90,90"),
    "geometry.crystal.space_group": Act(
        "geometry.crystal.space_group=P222", "models", "orthorhombic"
    ),
    "geometry.crystal.misset_deg": Act("geometry.crystal.misset_deg=1,2,3"),
    "geometry.crystal.A_matrix": Act("geometry.crystal.A_matrix=.03,0,0,0,.02,0,0,0,.03"),
    "structure_factors.file": Act("structure_factors.file=one.mtz", models="small cell"),
    "structure_factors.labels": Act(
        "structure_factors.labels=G", "allowed", "small cell", ("structure_factors.file=two.mtz",)
    ),
    "structure_factors.observation_type": Act(
        "structure_factors.observation_type=intensities",
        models="small cell",
        base=("structure_factors.file=shelx.hkl", "structure_factors.observation_type=amplitudes"),
    ),
    "structure_factors.default_F": Act("structure_factors.default_F=50"),
    "structure_factors.d_min": Act(
        "structure_factors.d_min=8", models="small cell", base=("structure_factors.file=one.mtz",)
    ),
    "structure_factors.interpolate": Act(
        "structure_factors.interpolate=True",
        models="small cell",
        base=("structure_factors.file=one.mtz",),
    ),
    "structure_factors.cell_tolerance_percent": Act(
        "structure_factors.cell_tolerance_percent=5",
        "allowed",
        "small cell",
        ("structure_factors.file=longer.mtz",),
    ),
    **{
        f"structure_factors.model.{change.split('=')[0]}": Act(
            f"structure_factors.model.{change}", models="small cell", base=MODEL
        )
        for change in (
            "bulk_solvent=False",
            "k_sol=0.2",
            "b_sol=10",
            "wavelength=0.98",
        )
    },
    "structure_factors.model.algorithm": Act(
        "structure_factors.model.algorithm=fft",
        models="small cell",
        base=(*MODEL, "structure_factors.model.algorithm=direct"),
    ),
    **{
        f"structure_factors.model.anomalous.{change.split('=')[0]}": Act(
            f"structure_factors.model.anomalous.{change}", what, "small cell", base
        )
        for change, what, base in (
            ("elements=N", "pixels", ANOMALOUS),
            ("table=henke", "pixels", ANOMALOUS),
            ("measured_file=other.scan", "pixels", (*ANOMALOUS, *MEASURED)),
            ("measured_element=N", "pixels", (*ANOMALOUS, *MEASURED)),
            (
                "tolerance=9",
                "pixels",
                (*MODEL, "structure_factors.model.wavelength=Auto", *MEASURED, *COLOURS),
            ),
        )
    },
    "crystal.Ncells_abc": Act("crystal.Ncells_abc=9,5,4"),
    "crystal.domain_size_ang": Act("crystal.domain_size_ang=400"),
    "crystal.domain_size_spread_percent": Act("crystal.domain_size_spread_percent=20"),
    "crystal.xtal_shape": Act("crystal.xtal_shape=square"),
    "crystal.fudge": Act("crystal.fudge=2"),
    "crystal.size_mm": Act("crystal.size_mm=0.01,0.01,0.01", without=("crystal.spot_scale",)),
    "crystal.spot_scale": Act("crystal.spot_scale=2e4"),
    "crystal.lattices": Act("crystal.lattices=apart", models="lattices"),
    "crystal.lattice_scales": Act("crystal.lattice_scales=1,2", models="lattices"),
    "crystal.mosaic.spread_deg": Act("crystal.mosaic.spread_deg=1", base=SPREAD),
    "crystal.mosaic.spread_abc_deg": Act("crystal.mosaic.spread_abc_deg=0.5,0,1"),
    "crystal.cell_spread_percent": Act("crystal.cell_spread_percent=1"),
    "crystal.diffuse.sigma_ang": Act("crystal.diffuse.sigma_ang=0.6,0.5,0.4", base=DIFFUSE),
    "crystal.diffuse.gamma_ang": Act("crystal.diffuse.gamma_ang=20,30,40", base=DIFFUSE),
    "crystal.diffuse.stencil": Act("crystal.diffuse.stencil=2", base=DIFFUSE),
    "crystal.damage.b_per_image": Act("crystal.damage.b_per_image=9"),
    "crystal.damage.loss_per_image": Act("crystal.damage.loss_per_image=0.1"),
    "crystal.mosaic.domains": Act("crystal.mosaic.domains=4", base=SPREAD),
    "crystal.mosaic.distribution": Act("crystal.mosaic.distribution=cap", base=SPREAD),
    "crystal.mosaic.frame": Act("crystal.mosaic.frame=lab", base=SPREAD),
    "crystal.mosaic.seed": Act("crystal.mosaic.seed=5", base=SPREAD),
    "beam.fluence": Act("beam.fluence=2e24"),
    "beam.flux": Act("beam.flux=2e12", base=FLUX, without=NO_FLUENCE),
    "beam.exposure_s": Act("beam.exposure_s=0.2", base=FLUX, without=NO_FLUENCE),
    "beam.beamsize_mm": Act("beam.beamsize_mm=0.01,0.02", base=FLUX, without=NO_FLUENCE),
    "beam.polarization_correction": Act("beam.polarization_correction=False"),
    "beam.hdivrange_mrad": Act("beam.hdivrange_mrad=12"),
    "beam.hdivsteps": Act("beam.hdivsteps=3", base=HORIZONTAL),
    "beam.hdivstep_mrad": Act("beam.hdivstep_mrad=4", base=HORIZONTAL),
    "beam.vdivrange_mrad": Act("beam.vdivrange_mrad=8"),
    "beam.vdivsteps": Act("beam.vdivsteps=3", base=VERTICAL),
    "beam.vdivstep_mrad": Act("beam.vdivstep_mrad=4", base=VERTICAL),
    "beam.round_div": Act("beam.round_div=False", base=(*HORIZONTAL, *VERTICAL)),
    "beam.dispersion_percent": Act("beam.dispersion_percent=2"),
    "beam.dispsteps": Act("beam.dispsteps=3", base=DISPERSION),
    "beam.dispstep_percent": Act("beam.dispstep_percent=1", base=DISPERSION),
    "beam.image_scale_file": Act("beam.image_scale_file=scales.txt"),
    "beam.spectrum.shape": Act(
        "beam.spectrum.shape=pink", base=(*GAUSSIAN_SPECTRUM, "beam.spectrum.low_side=0.9")
    ),
    "beam.spectrum.fwhm_percent": Act("beam.spectrum.fwhm_percent=2", base=GAUSSIAN_SPECTRUM),
    "beam.spectrum.low_side": Act(
        "beam.spectrum.low_side=1",
        base=("beam.spectrum.shape=pink", "beam.spectrum.fwhm_percent=3"),
    ),
    "beam.spectrum.separation_ev": Act("beam.spectrum.separation_ev=300", base=COLOURS),
    "beam.spectrum.second_share": Act("beam.spectrum.second_share=0.1", base=COLOURS),
    "beam.spectrum.spectrum_file": Act(
        "beam.spectrum.spectrum_file=other.spectrum",
        base=("beam.spectrum.shape=spectrum_file", "beam.spectrum.spectrum_file=one.spectrum"),
    ),
    "beam.spectrum.samples": Act("beam.spectrum.samples=9", base=GAUSSIAN_SPECTRUM),
    "beam.source_file": Act("beam.source_file=sources.txt"),
    "stills.count": Act("stills.count=2", without=("sampling.phisteps",)),
    **{
        f"stills.{change.split('=')[0]}": Act(
            f"stills.{change}", base=("stills.count=2",), without=("sampling.phisteps",)
        )
        for change in (
            "seed=1",
            "orientations=model",
            "cell_sigma_percent=2",
            "domain_sigma_percent=30",
            "fluence_sigma_percent=30",
            "wavelength_sigma_percent=2",
            "direction_sigma_mrad=5",
        )
    },
    "sampling.oversample": Act("sampling.oversample=2"),
    "sampling.subpixels": Act("sampling.subpixels=moments", base=FINE),
    "sampling.oversample_omega": Act("sampling.oversample_omega=False", base=FINE),
    "sampling.oversample_polar": Act("sampling.oversample_polar=False", base=FINE),
    "sampling.oversample_thick": Act("sampling.oversample_thick=False", base=FINE),
    "sampling.point_pixel": Act("sampling.point_pixel=True"),
    "sampling.phisteps": Act("sampling.phisteps=3"),
    "sampling.phi_sampling": Act("sampling.phi_sampling=start"),
    "sampling.phistep_deg": Act("sampling.phistep_deg=0.2"),
    "sampling.phi_carryover_mode": Act(
        "sampling.phi_carryover_mode=c-parity",
        models="through zero",
        base=("sampling.phi_sampling=start",),
    ),
    "sampling.thicksteps": Act("sampling.thicksteps=3"),
    "sampling.thick_sampling": Act("sampling.thick_sampling=start"),
    "sampling.thick_capture": Act(
        "sampling.thick_capture=last", base=("sampling.oversample_thick=False",)
    ),
    "sampling.thickstep_mm": Act("sampling.thickstep_mm=0.1"),
    "sampling.d_min": Act("sampling.d_min=8"),
    "sampling.curved_detector": Act("sampling.curved_detector=True", models="along x"),
    "sampling.roi": Act("sampling.roi=2,9,3,11"),
    "sampling.image_range": Act("sampling.image_range=12,13"),
    "compute.precision": Act("compute.precision=double"),
    "compute.kernel": Act("compute.kernel=dense", base=SPARSE),
    "compute.tolerance": Act("compute.tolerance=200", base=SPARSE),
    "compute.compile": Act("compute.compile=always", "compiled"),
    "compute.device": Act("compute.device=nosuch", "refused"),
    "compute.nthreads": Act("compute.nthreads=3", "threads"),
    "compute.batch_steps": Act(
        "compute.batch_steps=100", "batches", base=("compute.kernel=dense",)
    ),
    "noise.poisson": Act("noise.poisson=True", "storage"),
    "noise.seed": Act("noise.seed=1", base=("noise.poisson=True",)),
    "noise.flicker": Act("noise.flicker=0.5"),
    "noise.calibration": Act("noise.calibration=0.5"),
    "noise.calibration_seed": Act("noise.calibration_seed=1", base=("noise.calibration=0.5",)),
    "noise.readout_noise_adu": Act("noise.readout_noise_adu=5"),
    "noise.zingers": Act("noise.zingers=9"),
    "noise.zinger_photons": Act("noise.zinger_photons=50", base=("noise.zingers=9",)),
    "detector.quantum_gain": Act("detector.quantum_gain=3"),
    "detector.gain_file": Act("detector.gain_file=gain.pickle"),
    "detector.adc_offset_adu": Act("detector.adc_offset_adu=40"),
    "detector.saturation_adu": Act("detector.saturation_adu=4"),
    "detector.dead_time_ns": Act("detector.dead_time_ns=1e6", models="timed"),
    "detector.dead_time_model": Act(
        "detector.dead_time_model=paralyzable", models="timed", base=("detector.dead_time_ns=1e6",)
    ),
    "detector.point_spread.shape": Act(
        "detector.point_spread.shape=fiber",
        base=(f"{POINT_SPREAD}shape=gauss", f"{POINT_SPREAD}fwhm_mm=1"),
    ),
    "detector.point_spread.fwhm_mm": Act(
        "detector.point_spread.fwhm_mm=2",
        base=(f"{POINT_SPREAD}shape=gauss", f"{POINT_SPREAD}fwhm_mm=1"),
    ),
    "detector.gaps.module_size": Act(
        "detector.gaps.module_size=4,18", base=(f"{GAPS}module_size=9,18", f"{GAPS}width=6,3")
    ),
    "detector.gaps.width": Act(
        "detector.gaps.width=6,0", base=(f"{GAPS}module_size=4,18", f"{GAPS}width=1,0")
    ),
    "detector.bad_pixels.dead": Act("detector.bad_pixels.dead=0.1"),
    "detector.bad_pixels.hot": Act("detector.bad_pixels.hot=0.1"),
    "detector.bad_pixels.hot_adu": Act("detector.bad_pixels.hot_adu=99", base=(f"{BAD}hot=0.1",)),
    "detector.bad_pixels.seed": Act("detector.bad_pixels.seed=1", base=(f"{BAD}dead=0.1",)),
    "detector.bad_pixels.masked": Act("detector.bad_pixels.masked=False", base=(f"{BAD}dead=0.1",)),
    "background.level": Act("background.level=4"),
    "background.water_c": Act("background.water_c=5"),
    "background.profile_file": Act("background.profile_file=radial.txt"),
    "background.profile_scale": Act(
        "background.profile_scale=2", base=("background.profile_file=radial.txt",)
    ),
    "background.image_file": Act("background.image_file=flat.npy"),
    "background.image_scale": Act(
        "background.image_scale=2", base=("background.image_file=flat.npy",)
    ),
    **{
        f"background.{name}.{change.split('=')[0]}": Act(
            f"background.{name}.{change}", base=(*IN_BEAM, *in_beam(name))
        )
        for name in ("water", "air", "ice", "other")
        for change in ("thickness_mm=2", "centre_mm=-9", "density_g_cm3=3", "molecular_weight=40")
    },
    "background.beam_stop.radius_mm": Act(
        "background.beam_stop.radius_mm=3", base=(f"{STOP}radius_mm=1", f"{STOP}distance_mm=20")
    ),
    "background.beam_stop.distance_mm": Act(
        "background.beam_stop.distance_mm=40", base=(f"{STOP}radius_mm=3", f"{STOP}distance_mm=20")
    ),
    "background.ice.fwhm_inv_ang": Act(
        "background.ice.fwhm_inv_ang=0.08", base=(*IN_BEAM, *in_beam("ice"))
    ),
    "background.other.stol_file": Act(
        "background.other.stol_file=other.stol", base=(*IN_BEAM, *in_beam("other"))
    ),
    "output.prefix": Act("output.prefix=other", "files"),
    "output.experiments": Act("output.experiments=other.expt", "files"),
    "output.provenance": Act("output.provenance=other.json", "files"),
    "output.log": Act("output.log=other.log", "files"),
    "output.maps": Act("output.maps=True", "datasets"),
    "output.truth": Act("output.truth=True", "files"),
    "output.overwrite": Act("output.overwrite=True", "allowed", base=("output.log=simulated.txt",)),
    "output.preview": Act("output.preview=other.png", "files"),
    "output.timings": Act("output.timings=other.json", "files"),
    "output.compression": Act("output.compression=none", "storage"),
    "output.format": Act("output.format=raw", "files"),
    "output.joined": Act("output.joined=False", "files"),
    "output.images_per_part": Act(
        "output.images_per_part=2", "files", base=("output.joined=False",)
    ),
    "mp.nproc": Act("mp.nproc=2", "processes"),
    "mp.scheduler": Act("mp.scheduler=tcp://127.0.0.1:1", "refused"),
    "mp.memory_gb": Act("mp.memory_gb=0.001", "refused"),
    "output.expected": Act("output.expected=True", "datasets"),
}


def test_every_parameter_is_listed() -> None:
    """(The parser adds input.experiments, which every test uses.)"""
    defined = {item.path for item in sim.command.phil_scope.all_definitions()}
    assert set(ACTS) == defined
    for path, act in ACTS.items():
        last = path.split(".")[-1]
        assert act.change.split("=")[0] == path or f" {last}=" in act.change


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all experiment lists and structure factors."""
    folder = tmp_path_factory.mktemp("material")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, make in EXPERIMENTS.items():
            made = make()
            sim.write_expt(f"{name}.expt", *(made if isinstance(made, list) else [made]))
        files()
    return folder


@dataclass(frozen=True)
class Outcome:
    pixels: tuple
    models: str
    storage: tuple
    datasets: tuple
    files: tuple
    threads: int
    batches: int
    compiled: bool
    processes: int = 0


@cache
def outcome(folder: Path, arguments: tuple[str, ...]) -> Outcome:
    """What a run in `folder` makes; made once for the same arguments."""
    counted: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(torch, "set_num_threads", counted.append)
        batches, compiled = count_batches(patch), count_compilations(patch)
        crews = []
        patch.setattr(processes, "run", make_here(crews))
        with made_here(folder) as made:
            sim.simulate(*arguments)
            return replace(outcome_of(made(), counted, batches, compiled), processes=sum(crews))


@contextlib.contextmanager
def made_here(folder: Path) -> Iterator[Callable[[], list[Path]]]:
    """Lists what has been made in the folder since; removes it in the end."""
    before = set(folder.iterdir())

    def made() -> list[Path]:
        return sorted(set(folder.iterdir()) - before)

    try:
        yield made
    finally:
        for path in made():
            path.unlink()


def outcome_of(
    made: list[Path], counted: list[int], batches: list[int], compiled: list[int]
) -> Outcome:
    (listed,) = (path for path in made if path.suffix == ".expt")
    images = [path for path in made if path.suffix == ".nxs"]
    if not images:  # of another format, which tests of its own look into
        files = tuple(path.name for path in made)
        return Outcome((), models_of(listed), (), (), files, (counted or [0])[0], 0, False)
    with h5py.File(images[0]) as handle:
        data = handle["/entry/data/data"]
        values = data[()]
        mask = handle["/entry/instrument/detector"].get("pixel_mask")
        mask = None if mask is None else mask[()].tobytes()
        storage = (data.dtype, data.compression)
        datasets = tuple(handle["/entry/nanobragg"])
    return Outcome(
        (values.shape, values.tobytes(), mask),
        models_of(listed),
        storage,
        datasets,
        tuple(path.name for path in made),
        (counted or [0])[0],
        len(batches),
        bool(compiled),
    )


def make_here(crews: list[int]) -> Callable[..., None]:
    """In place of other processes, which take seconds to begin (test_mp.py has them): makes their
    parts here, and notes how many they would be."""

    def run(job, parts, crew, progress, done) -> None:
        crews.append(crew.processes)
        maker = Maker(job)
        for part in parts:
            maker.make(part)
            done(part)

    return run


def count_batches(patch: pytest.MonkeyPatch) -> list:
    """A list that grows with each call of the kernel."""
    calls: list[int] = []
    module = Simulator.image.__globals__
    original = module["dense"].Kernel.__call__

    def counting(*args: object) -> object:
        calls.append(1)
        return original(*args)

    patch.setattr(module["dense"].Kernel, "__call__", counting)
    return calls


def count_compilations(patch: pytest.MonkeyPatch) -> list:
    """A list that grows where code is to be compiled; it is not, which takes long."""
    asked: list[int] = []
    kernel = Simulator.image.__globals__["dense"].Kernel
    patch.setattr(kernel, "compile", lambda self, for_sparse, slopes: bool(asked.append(1)))
    return asked


def models_of(path: Path) -> str:
    content = json.loads(path.read_text())
    names = ("beam", "detector", "goniometer", "scan", "crystal")
    return json.dumps({name: content[name] for name in names}, sort_keys=True)


@pytest.mark.parametrize("path", ACTS)
def test_parameter_acts(path: str, material: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "TIMEOUT_S", 1)
    act = ACTS[path]
    usual = [*sim.QUICK, "noise.poisson=False"]
    usual = [a for a in usual if not a.startswith(act.without)]
    models = list(sim.GEOMETRY) if act.models is None else [f"{act.models}.expt"]
    if act.models is None:
        models = [a for a in models if not a.startswith(f"{GONIOMETER}axis")]
    base = (*models, *usual, *act.base)
    monkeypatch.chdir(material)
    change = act.change
    if "{" in change:
        change = f"{path}.phil"
        Path(change).write_text(act.change)
    if act.what == "refused":
        outcome(material, base)
        with made_here(material):
            sim.refused(*base, change)
    elif act.what == "allowed":
        with made_here(material):
            if path == "output.overwrite":
                Path("simulated.nxs").write_text("old")
            sim.refused(*base)
            sim.simulate(*base, change)
            assert h5py.is_hdf5("simulated.nxs")
    else:
        before, after = outcome(material, base), outcome(material, (*base, change))
        assert getattr(before, act.what) != getattr(after, act.what)
        if act.what in (
            "files",
            "datasets",
            "threads",
            "batches",
            "storage",
            "compiled",
            "processes",
        ):
            assert before.models == after.models
        if act.what == "models":
            assert before.pixels == after.pixels


def test_a_change_of_nothing_changes_nothing(material: Path) -> None:
    """So that the tests above mean what they say: the same run twice, a default given."""
    base = ("sweep.expt", *sim.QUICK, "noise.poisson=False")
    before = outcome(material, base)
    after = outcome(material, (*base, "crystal.fudge=1"))
    assert before.pixels == after.pixels and before.models == after.models
    assert before.files == after.files and before.storage == after.storage


@pytest.mark.parametrize("change", ["compute.kernel=auto", "compute.compile=auto"])
def test_auto_may_be_given(change: str, material: Path) -> None:
    """libtbx has an object of its own for the word."""
    base = ("sweep.expt", *sim.QUICK, "noise.poisson=False")
    assert outcome(material, (*base, change)).pixels == outcome(material, base).pixels


@pytest.mark.parametrize("shape", ["square", "round", "gauss", "tophat", "gauss_star"])
def test_every_choice_of_shape_acts(shape: str, material: Path) -> None:
    base = ("sweep.expt", *sim.QUICK, "noise.poisson=False")
    other = outcome(material, (*base, "crystal.xtal_shape=tophat_star"))
    assert outcome(material, (*base, f"crystal.xtal_shape={shape}")).pixels != other.pixels


def test_every_parameter_has_a_type_and_help() -> None:
    """Of ours; dxtbx's have their own."""
    for item in sim.command.phil_scope.all_definitions():
        if item.path.startswith("geometry.") and not item.path.startswith("geometry.crystal."):
            continue
        assert item.object.type is not None, item.path
        assert item.object.help, item.path
