"""What nanobragg.classic does with a translated command line: simulate, say what, write files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from libtbx.utils import Sorry

from nanobragg_plugin import noise
from nanobragg_plugin.adapters import fdump, reflection_file
from nanobragg_plugin.adapters.classic import exact, phil
from nanobragg_plugin.adapters.classic.translate import Translated
from nanobragg_plugin.adapters.params import Plan
from nanobragg_plugin.constants import EV_ANGSTROM, RTD
from nanobragg_plugin.format import classic_files as files
from nanobragg_plugin.run import outputs
from nanobragg_plugin.run.experiments import write_experiments
from nanobragg_plugin.run.images import MAX_PHOTONS
from nanobragg_plugin.simulate import simulate

Say = Callable[[str], None]


def outputs_of(t: Translated) -> dict[str, Path]:
    """The files that are written, by kind."""
    s = t.settings
    named = {"float": s.floatfile, "int": s.intfile}
    if s.pgm:
        named["pgm"] = s.pgmfile
    if s.noise:
        named["noise"] = s.noisefile
    if s.dump and s.hkl:
        named["dump"] = s.dump
    return {kind: Path(name) for kind, name in named.items()}


def check_outputs(t: Translated) -> None:
    """`Sorry` unless all of them can be written, under different names and over no input. Files
    that exist are replaced, as by nanoBragg.c."""
    places = outputs_of(t)
    seen: set[Path] = set()
    for path in places.values():
        if _is_device(path):
            continue
        _check_output(t, path)
        if path.resolve() in seen:
            raise Sorry(f"two outputs would both be {path}: rename one")
        seen.add(path.resolve())
    if "dump" in places and reflection_file.kind_of_file(Path(t.settings.hkl)) != "text":
        raise Sorry(
            f"-dump is written of lines h k l F, which {t.settings.hkl} does not have: leave -dump "
            "away"
        )


def _check_output(t: Translated, path: Path) -> None:
    """`Sorry` for an input, and where no file can be made: a device would be replaced by one."""
    s = t.settings
    read = [s.matrix, s.hkl, s.sources, s.mask, s.image, None if s.hkl else s.dump]
    if path.resolve() in {Path(name).resolve() for name in read if name}:
        raise Sorry(f"{path} is an input: it would be overwritten; choose another name")
    outputs.check_writable(path, overwrite=True)


def run(t: Translated, plan: Plan, progress: Callable[[int], None] | None = None) -> Iterator[str]:
    """Simulate the image; then write it in every form, which says what it wrote."""
    experiment = plan.experiment_of_image(0)
    with torch.no_grad():
        (panel,) = simulate(
            experiment, exact.exposure_of(t, plan), plan.structure_factors, plan.options, progress
        )
    photons = panel.cpu().numpy()
    if not photons.max(initial=0.0) <= MAX_PHOTONS:
        raise Sorry(
            f"a pixel would have {photons.max():.3g} photons: lower -fluence, -flux or the "
            "structure factors"
        )
    return write(t, photons.astype(np.float32))


def write(t: Translated, photons: np.ndarray) -> Iterator[str]:
    """Write the files of an image, float32 [slow, fast]; yields what nanoBragg.c prints of it."""
    s, places = t.settings, outputs_of(t)
    stats = files.statistics(photons, t.roi, t.mask)
    _write(places["float"], files.float_bytes(photons))
    yield f"wrote {places['float']} as {photons.size} 4-byte floats"
    at = "" if stats.max_at is None else " at slow {1}, fast {0}".format(*stats.max_at)
    yield f"max_I = {stats.max_I:g}{at}"
    yield f"mean= {stats.mean:g} rms= {stats.rms:g} rmsd= {stats.rmsd:g}"
    scale = files.intfile_scale(s.scale, stats.max_I)
    header = header_of(t)
    integers = files.scaled_integers(photons, scale, s.adc, t.roi)
    _write(places["int"], files.smv_bytes(header, integers))
    yield f"wrote {places['int']}, intfile_scale = {scale:g}"
    if "pgm" in places:
        pgm_scale = files.pgm_scale(s.pgmscale, stats.rmsd, scale)
        _write(places["pgm"], files.pgm_bytes(photons, pgm_scale, t.roi))
        yield f"wrote {places['pgm']}, pgm_scale = {pgm_scale:g}"
    if "noise" in places:
        (counts,) = noise.poisson([torch.from_numpy(photons)], t.seed, 1)
        noisy, overloads = files.noise_integers(counts.numpy(), s.adc, t.roi)
        _write(places["noise"], files.smv_bytes(header, noisy))
        yield (
            f"wrote {places['noise']}, seed {t.seed}: {float(counts.sum()):.0f} photons "
            f"({overloads} overloads)"
        )
    if "dump" in places:
        hkl = reflection_file.read_hkl_text(Path(s.hkl))
        _write(places["dump"], fdump.to_bytes(*hkl, s.default_F))
        yield f"wrote {places['dump']}, the structure factors"


def header_of(t: Translated) -> files.SmvHeader:
    """The header of the SMV files, whose beam centres are those of every convention."""
    g = t.geometry
    half = g.pixel / 2
    fast, slow = g.direct_beam

    def mm(*values: float) -> tuple[float, ...]:
        return tuple(1000.0 * value for value in values)

    x, y, z = mm(*g.origin)
    return files.SmvHeader(
        fast_pixels=g.n_fast,
        slow_pixels=g.n_slow,
        pixel_size_mm=g.pixel * 1000.0,
        distance_mm=g.distance * 1000.0,
        close_distance_mm=g.close_distance * 1000.0,
        wavelength_ang=t.settings.wavelength * 1e10,
        beam_center_mm=mm(*g.beam_centre),
        adxv_center_mm=mm(fast, g.size_slow - slow),
        mosflm_center_mm=mm(slow - half, fast - half),
        denzo_beam_mm=mm(slow, fast),
        dials_origin_mm=(z, y, -x),
        xds_org=(g.nearest[0] / g.pixel + 0.5, g.nearest[1] / g.pixel + 0.5),
        phi_deg=t.settings.phi * RTD,
        osc_deg=t.phi.width * RTD,
        twotheta_deg=t.settings.twotheta * RTD,
    )


def description(t: Translated, plan: Plan) -> Iterator[str]:
    """What will be simulated."""
    s, g = t.settings, t.geometry
    yield from (f"WARNING: {text}" for text in s.warnings)
    weight = plan.experiment.beam.weight
    if bool((weight != weight[0]).any()):
        yield "WARNING: nanoBragg.c does not use weights of -sourcefile: its image is another"
    yield f"{g.convention} convention, carryover {s.phi_carryover_mode}, {s.precision} precision"
    yield from _of_crystal(t, plan)
    yield from _of_beam(t, len(weight))
    yield from _of_detector(t)
    yield (
        f"phi: {t.phi.count} steps of {t.phi.step * RTD:g} degrees from {s.phi * RTD:g}, about "
        f"{_vector(g.spindle)}"
    )
    yield plan.notes[-1]


def _of_crystal(t: Translated, plan: Plan) -> Iterator[str]:
    crystal = plan.dxtbx_experiment.crystal
    yield "Unit Cell: " + " ".join(f"{x:g}" for x in crystal.get_unit_cell().parameters())
    for name, vector in zip("abc", t.cell.real):
        yield f"  {name} (Angstrom): {_vector(vector)}"
    spread, domains = t.mosaic
    yield (
        f"{t.settings.shape} domains of {' x '.join(map(str, t.ncells))} cells, {domains} of them "
        f"over a mosaic spread of {spread * RTD:g} degrees"
    )
    yield plan.notes[2]


def _of_beam(t: Translated, sources: int) -> Iterator[str]:
    s, spread = t.settings, t.spread
    wavelength, along = s.wavelength * 1e10, _vector(t.geometry.beam)
    yield (
        f"Beam: {wavelength:g} A ({EV_ANGSTROM / wavelength:g} eV) along {along}; "
        + ("no polarization" if s.nopolar else f"Kahn factor {s.polarization:g}")
    )
    if s.sources is None:
        yield (
            f"  divergence {spread.horizontal.width * 1e3:g} x {spread.vertical.width * 1e3:g} "
            f"mrad, dispersion {spread.dispersion.width * 100:g} %: {sources} source(s)"
        )
    else:
        yield f"  {sources} source(s) of {s.sources}"
    yield f"  {t.fluence:.6g} photons/m^2"


def _of_detector(t: Translated) -> Iterator[str]:
    g = t.geometry
    yield (
        f"Detector: {g.n_fast} x {g.n_slow} pixels (fast x slow) of {g.pixel * 1e3:g} mm, distance "
        f"{g.distance * 1e3:g} mm"
    )
    yield (
        f"  direct beam at {g.direct_beam[0] * 1e3:g} mm along fast, {g.direct_beam[1] * 1e3:g} mm "
        "along slow"
    )
    for name in ("fast", "slow", "normal"):
        yield f"  {name}: {_vector(getattr(g, name))}"
    yield f"  origin (mm): {_vector(g.origin * 1e3)}"
    step, layers, mu = t.sensor
    if layers:
        yield f"  sensor: {layers} layers of {step * 1e6:g} um, attenuation depth {1e6 / mu:g} um"
    if t.n_pixels < g.n_fast * g.n_slow:
        yield (
            f"  {t.n_pixels} pixels are simulated: fast {t.roi[0]} to {t.roi[1]}, slow {t.roi[2]} "
            f"to {t.roi[3]}{', but for the mask' if t.mask is not None else ''}"
        )


def _vector(values: np.ndarray) -> str:
    return " ".join(f"{x + 0.0:.9g}" for x in values)


def show(t: Translated, say: Say) -> None:
    """-show_phil and -show_expt: PHIL, with all else as its comments."""
    if t.settings.show_expt is not None:
        _check_output(t, Path(t.settings.show_expt))
    for text in [*t.settings.warnings, *exact.not_held(t)]:
        say(f"# WARNING: {text}")
    if t.settings.show_expt is not None:
        experiment = exact.experiment_of(t)
        if t.mask is not None:
            exact.with_mask(experiment, t.mask)
        write_experiments(t.settings.show_expt, [experiment], "nanobragg.classic")
        say(f"# wrote {t.settings.show_expt}, the models")
    if t.settings.show_phil:
        say("\n".join(phil.phil_of(t)))
        if t.settings.show_expt is None:
            say("# the models, -cell, -distance and so on, are written by -show_expt FILE")


def _is_device(path: Path) -> bool:
    """/dev/null and its like, and /dev/stdout whatever it leads to."""
    special = str(path.absolute()).startswith(("/dev/", "/proc/"))
    return path.exists() and not path.is_dir() and (special or not path.is_file())


def _write(path: Path, content: bytes) -> None:
    if _is_device(path):
        path.write_bytes(content)
        return
    # a link stays one, to another disk maybe
    with outputs.whole(path.resolve()) as temporary:
        temporary.write_bytes(content)
