"""-trace_pixel and -printout of nanobragg.classic: what was computed for a pixel."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from libtbx.utils import Sorry

from nanobragg_plugin.adapters.classic import exact
from nanobragg_plugin.adapters.classic.translate import Translated
from nanobragg_plugin.adapters.params import Plan
from nanobragg_plugin.run import trace_report

#: Pixels that -printout prints at most: each takes milliseconds and a screen.
MOST = 10_000


def check(t: Translated) -> None:
    """`Sorry` for a pixel that is not simulated, or too many of them."""
    s = t.settings
    if s.trace_pixel is not None:
        _check_pixel(t, "-trace_pixel", *s.trace_pixel)
    if s.printout_pixel is not None:
        fast, slow = s.printout_pixel
        _check_pixel(t, "-printout_pixel", slow, fast)
    elif s.printout and t.n_pixels > MOST:
        raise Sorry(
            f"-printout prints {MOST} pixels at most, here there are {t.n_pixels}: choose one with "
            "-printout_pixel, or some with -roi"
        )


def _check_pixel(t: Translated, flag: str, slow: int, fast: int) -> None:
    first_f, last_f, first_s, last_s = t.roi
    inside = first_f <= fast <= last_f and first_s <= slow <= last_s
    if not inside or (t.mask is not None and not t.mask[slow, fast]):
        raise Sorry(
            f"{flag}: the pixel of slow {slow} and fast {fast} is not simulated, which are slow "
            f"{first_s} to {last_s} and fast {first_f} to {last_f}"
            f"{', but for the mask' if t.mask is not None else ''}; choose another"
        )


def trace(t: Translated, plan: Plan) -> str:
    """-trace_pixel, as text or with -json as JSON."""
    report = _report(t, plan, *t.settings.trace_pixel)
    return report.json() if t.settings.json else report.text()


def printout(t: Translated, plan: Plan) -> Iterator[str]:
    """-printout: what nanoBragg.c prints of a pixel, of which the hkl are those of the last
    sample. Of -printout_pixel one pixel, else all that are simulated."""
    if t.settings.printout_pixel is not None:
        fast, slow = t.settings.printout_pixel
        pixels = [(slow, fast)]
    else:
        first_f, last_f, first_s, last_s = t.roi
        shown = np.zeros((t.geometry.n_slow, t.geometry.n_fast), bool)
        shown[first_s : last_s + 1, first_f : last_f + 1] = True
        pixels = np.argwhere(shown if t.mask is None else shown & t.mask).tolist()
    for slow, fast in pixels:
        yield _lines(t, _report(t, plan, slow, fast).trace, slow, fast)


def _report(t: Translated, plan: Plan, slow: int, fast: int) -> trace_report.Report:
    return trace_report.of_plan(
        plan.experiment_of_image(0),
        exact.exposure_of(t, plan),
        plan.structure_factors,
        plan.options,
        0,
        slow,
        fast,
    )


def _lines(t: Translated, trace: trace_report.Trace, slow: int, fast: int) -> str:
    point, sums = trace.last, trace.sums
    if point is None:
        return f"{fast:4d} {slow:4d} : beyond -dmin\npixel   {sums.photons:15.10g}"
    domain, sample, ray = point.domain, point.sample, point.ray
    x, y, z = (coordinate * 1e-3 for coordinate in sample.position_mm)
    # nanoBragg.c's second figure supposes a beam along x
    other = math.sin(math.atan2(math.hypot(y, z), x) / 2) / (t.settings.wavelength * 1e10)
    h, k, l = domain.hkl
    factors = trace_report.applied(sums, sample, ray)
    polar = factors["polar"]
    rows = zip("XYZ", domain.a_ang, domain.b_ang, domain.c_ang)
    return "\n".join(
        [
            f"{fast:4d} {slow:4d} : stol = {ray.stol_inv_ang * 1e10:g} or {other:g}",
            f"at {x:g} {y:g} {z:g}",
            f"hkl= {h:f} {k:f} {l:f}  hkl0= {' '.join(map(str, domain.h0k0l0))}",
            f" F_cell={domain.F_cell:g}  F_latt={domain.F_latt:g}   I = {sums.I_before_scaling:g}",
            f"I/steps {sums.I_before_scaling / sums.steps:15.10g}",
            *([] if polar is None else [f"polar   {polar:15.10g}"]),
            f"omega   {factors['omega_pixel']:15.10g}",
            f"capfrac {factors['capture_fraction']:15.10g}",
            f"pixel   {sums.photons:15.10g}",
            "real-space cell vectors (Angstrom):",
            f"     {'a':10s}  {'b':10s}  {'c':10s}",
            *(f"{axis}: {a:11.8f} {b:11.8f} {c:11.8f}" for axis, a, b, c in rows),
        ]
    )
