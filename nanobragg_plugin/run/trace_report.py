"""A trace of a pixel as text for people and as JSON for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from libtbx.utils import Sorry

from nanobragg_plugin.models import Experiment, Exposure, SimulationOptions
from nanobragg_plugin.structure_factors import StructureFactors
from nanobragg_plugin.trace import check_pixel, trace_pixel
from nanobragg_plugin.traced import Ray, Sample, Source, Sums, Trace, Vector

#: The unit that the end of a name says, the longest ends first.
UNITS = {
    "_photons_per_m2": "photons/m^2",
    "_inv_ang": "1/Angstrom",
    "_ang": "Angstrom",
    "_deg": "degrees",
    "_mm": "mm",
    "_um": "micrometres",
    "_sr": "sr",
    "_m2": "m^2",
}
#: Units that names do not say.
OTHER_UNITS = {
    "photons": "photons",
    "photons_float32": "photons",
    "I_before_scaling": "electrons^2",
    "I_weighted": "electrons^2",
    "water": "electrons^2",
    "polarization_axis": "unit vector",
    "fast_axis": "unit vector",
    "slow_axis": "unit vector",
    "normal": "unit vector",
    "s0_unit": "unit vector",
    "s1_unit": "unit vector",
}
#: Columns of the tables of terms: those of scattering, those of the domains' cells.
SCATTERING = "h k l h0 k0 l0 F_latt_a F_latt_b F_latt_c F_latt F_cell intensity".split()
CELLS = [f"{axis}_{xyz}" for axis in "abc" for xyz in "xyz"]


@dataclass(frozen=True)
class Report:
    """image: its number in the scan, or None; notes: lines for the text."""

    trace: Trace
    image: int | None = None
    notes: tuple[str, ...] = ()

    def values(self) -> dict[str, Any]:
        """All of it as dicts and lists; None for what is not a number."""
        trace = asdict(self.trace)
        inputs = {"image": self.image, **trace["inputs"]}
        return _finite({**trace, "inputs": inputs, "nanoBragg_c": nanobragg_c(self.trace)})

    def json(self) -> str:
        """`values`, with every digit."""
        return json.dumps(self.values(), indent=1, allow_nan=False)

    def text(self) -> str:
        """For people."""
        return "\n".join(_lines(self))


def of_plan(
    experiment: Experiment,
    exposure: Exposure,
    structure_factors: StructureFactors,
    options: SimulationOptions,
    panel: int,
    slow: int,
    fast: int,
) -> Report:
    """The report of a pixel; `Sorry` where it is not simulated."""
    try:
        check_pixel(experiment, panel, slow, fast)
    except ValueError as error:
        raise Sorry(str(error)) from None
    return Report(trace_pixel(experiment, exposure, structure_factors, options, panel, slow, fast))


def nanobragg_c(trace: Trace) -> dict[str, Any]:
    """The trace in the names, units and order of the instrumented nanoBragg.c's (its lines
    TRACE_C): of the first term that d_min leaves in. Its scattering vector is in 1/m."""
    inputs, sums = trace.inputs, trace.sums
    point = trace.first
    sample = trace.samples[0] if point is None else point.sample
    ray = sample.sources[0].rays[0] if point is None else point.ray
    domain = None if point is None else point.domain

    def of_domain(name: str) -> Any:
        return None if domain is None else getattr(domain, name)

    gratings = of_domain("F_latt_abc") or (None,) * 3
    r_e = math.sqrt(inputs.r_e_sqr_m2)
    return {
        "pix0_vector_meters": _metres(inputs.origin_mm),
        "fdet_vec": inputs.fast_axis,
        "sdet_vec": inputs.slow_axis,
        "pixel_pos_meters": _metres(sample.position_mm),
        "R_distance_meters": sample.distance_mm / 1e3,
        "omega_pixel_sr": sample.omega_pixel_sr,
        "close_distance_meters": sample.close_distance_mm / 1e3,
        "obliquity_factor": sample.close_distance_mm / sample.distance_mm,
        "diffracted_vec": sample.s1_unit,
        "incident_vec": ray.s0_unit,
        "lambda_meters": ray.wavelength_ang * 1e-10,
        "lambda_angstroms": ray.wavelength_ang,
        "scattering_vec_A_inv": tuple(x * 1e10 for x in ray.q_inv_ang),
        "rot_a_angstroms": of_domain("a_ang"),
        "rot_b_angstroms": of_domain("b_ang"),
        "rot_c_angstroms": of_domain("c_ang"),
        "rot_a_star_A_inv": inputs.a_star_inv_ang,
        "rot_b_star_A_inv": inputs.b_star_inv_ang,
        "rot_c_star_A_inv": inputs.c_star_inv_ang,
        "hkl_frac": of_domain("hkl"),
        "hkl_rounded": of_domain("h0k0l0"),
        "F_latt_a": gratings[0],
        "F_latt_b": gratings[1],
        "F_latt_c": gratings[2],
        "F_latt": of_domain("F_latt"),
        "F_cell": of_domain("F_cell"),
        "I_before_scaling": sums.I_before_scaling,
        "r_e_meters": r_e,
        "r_e_sqr": inputs.r_e_sqr_m2,
        "fluence_photons_per_m2": inputs.fluence_photons_per_m2,
        "steps": sums.steps,
        "oversample_thick": int(inputs.oversample_thick),
        "oversample_polar": int(inputs.oversample_polar),
        "oversample_omega": int(inputs.oversample_omega),
        **applied(sums, sample, ray),
        "cos_2theta": ray.cos_2theta,
        "I_pixel_final": sums.photons,
        "floatimage_accumulated": sums.photons_float32,
    }


def applied(sums: Sums, sample: Sample, ray: Ray) -> dict[str, float | None]:
    """The factors of a pixel where it has one, else those of a sample of it."""
    return {
        name: own if once is None else once
        for name, own, once in (
            ("capture_fraction", sample.capture_fraction, sums.capture_fraction),
            ("polar", ray.polar, sums.polar),
            ("omega_pixel", sample.omega_pixel_sr, sums.omega_pixel_sr),
        )
    }


def _metres(mm: Vector) -> Vector:
    return tuple(x / 1e3 for x in mm)


def _finite(value: Any) -> Any:
    """A tree with None for numbers that JSON does not have."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _lines(report: Report) -> Iterator[str]:
    values, trace = report.values(), report.trace
    inputs = trace.inputs
    where = f"Pixel slow {inputs.slow}, fast {inputs.fast} of panel {inputs.panel}"
    yield where if report.image is None else f"{where}, image {report.image}"
    yield from report.notes
    yield from ("", "Inputs", *_pairs(values["inputs"], 1))
    for number, sample in enumerate(trace.samples):
        yield from ("", f"Sample {number + 1} of {len(trace.samples)}")
        yield from _sample_lines(sample, values["samples"][number])
    yield from ("", "Sums", *_pairs(values["sums"], 1))
    if trace.sums.left_out:
        yield f"  images lack {trace.sums.left_out:.3g} photons of it, less than the tolerance"
    yield f"  photons = {_formula(trace)}"
    yield ""
    yield "The first term (first layer, sub-pixel, source, phi step, domain) and the sums, in the"
    yield "names and units of an instrumented nanoBragg.c, whose scattering_vec_A_inv is in 1/m"
    for name, value in values["nanoBragg_c"].items():
        yield f"TRACE: {name} {_words(value, 15)}"


def _formula(trace: Trace) -> str:
    """How the photons follow from the sums, of which some factors may be within."""
    sums = trace.sums
    factors = ["r_e_sqr", "fluence"]
    scattered = "I_weighted * spot_scale"
    factors.append(scattered if sums.water == 0 else f"({scattered} + water)")
    factors += ["omega_pixel"] if sums.omega_pixel_sr is not None else []
    factors += ["polar"] if sums.polar is not None else []
    factors += ["spots_left"] if sums.spots_left != 1 else []
    return " * ".join(factors) + " / steps (the capture_fraction is within I_weighted)"


def _sample_lines(sample: Sample, values: dict[str, Any]) -> Iterator[str]:
    yield from _pairs(values, 1)
    for number, source in enumerate(sample.sources):
        yield from ("", f"  Source {number + 1} of {len(sample.sources)}")
        yield from _pairs(values["sources"][number], 2)
        rays = values["sources"][number]["rays"]
        for k, ray in enumerate(rays):
            if len(rays) > 1:
                yield f"    Beam of step {k + 1}"
            yield from _pairs(ray, 2 if len(rays) == 1 else 3)
        yield from _source_tables(source)


def _source_tables(source: Source) -> Iterator[str]:
    """A line for each phi step and domain: what it scatters, and its cell."""
    scattering, cells = [], []
    for k, step in enumerate(source.steps):
        for number, domain in enumerate(step.domains):
            head = [str(k + 1), f"{step.phi_deg:.10g}", "yes" if step.stale else "no"]
            head.append(str(number + 1))
            gratings = domain.F_latt_abc or (None, None, None)
            row = [*domain.hkl, *domain.h0k0l0, *gratings, domain.F_latt, domain.F_cell]
            scattering.append([*head, *(_words(value, 10) for value in (*row, domain.intensity))])
            axes = (*domain.a_ang, *domain.b_ang, *domain.c_ang)
            cells.append([*head, *(_words(value, 10) for value in axes)])
        if not step.domains:
            scattering.append([str(k + 1), f"{step.phi_deg:.10g}", "-", "none within d_min"])
    yield ""
    yield "    phi in degrees, F_cell in electrons, intensity = F_cell^2 F_latt^2; stale: with the"
    yield "    cell of the step before"
    yield from _table(["step", "phi", "stale", "domain", *SCATTERING], scattering)
    if cells:
        yield "    Cell vectors in the laboratory, Angstrom"
        yield from _table(["step", "phi", "stale", "domain", *CELLS], cells)


def _table(heads: list[str], rows: list[list[str]]) -> Iterator[str]:
    table = [heads, *rows]
    widths = [max(len(row[i]) for row in table if i < len(row)) for i in range(len(heads))]
    for row in table:
        yield "    " + "  ".join(cell.rjust(width) for cell, width in zip(row, widths))


def _pairs(values: dict[str, Any], depth: int) -> Iterator[str]:
    """Name, value and unit, a line each; what lies deeper is left to others."""
    for name, value in values.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            continue
        ending = next((end for end in UNITS if name.endswith(end)), "")
        unit = UNITS.get(ending) or OTHER_UNITS.get(name, "")
        name = name[: len(name) - len(ending)]
        yield f"{'  ' * depth}{name:<24}{_words(value, 12)}  {unit}".rstrip()


def _words(value: Any, digits: int) -> str:
    """A value, or the values of a vector, in so many digits; - for none."""
    if isinstance(value, (list, tuple)):
        return " ".join(_words(item, digits) for item in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.{digits}g}"
    return "-" if value is None else str(value)
