"""A command line of nanoBragg.c as parameters of nanobragg.simulate."""

from __future__ import annotations

from libtbx.phil.tokenizer import escape_python_str

from nanobragg_plugin.adapters.classic import steps
from nanobragg_plugin.adapters.classic.translate import Translated
from nanobragg_plugin.constants import RTD

#: Photons; what -kernel sparse or auto may leave out of a pixel.
SPARSE_TOLERANCE = 1e-3


def phil_of(t: Translated) -> list[str]:
    """Assignments to the parameters of nanobragg.simulate."""
    return [
        *_structure_factors(t),
        *_crystal(t),
        *_beam(t),
        *_sampling(t),
        f"noise.poisson={t.settings.noise}",
        *([] if t.settings.seed is None else [f"noise.seed={t.seed}"]),
        f"background.water_c={_water(t)!r}",
        f"compute.precision={t.settings.precision}",
        f"compute.device={_quoted(t.settings.device)}",
        f"compute.kernel={t.settings.kernel}",
        f"compute.tolerance={0 if t.settings.kernel == 'dense' else SPARSE_TOLERANCE}",
    ]


def _quoted(name: str) -> str:
    """A file's name in PHIL, which takes $ for a variable unless single quotes are around it."""
    return f"'{escape_python_str(chr(39), name)}'"


def _structure_factors(t: Translated) -> list[str]:
    s = t.settings
    file = s.hkl or s.dump
    return [
        *([f"structure_factors.file={_quoted(file)}"] if file else []),
        f"structure_factors.default_F={s.default_F!r}",
        f"structure_factors.interpolate={steps.interpolates(s)}",
    ]


def _crystal(t: Translated) -> list[str]:
    s = t.settings
    fudge = s.fudge
    if s.shape.endswith("_star"):  # it multiplies a squared length
        fudge *= t.cell.star_scale**2
    spread, domains = t.mosaic
    lines = [
        "crystal.Ncells_abc=" + ",".join(map(str, t.ncells)),
        f"crystal.xtal_shape={s.shape}",
        f"crystal.fudge={fudge!r}",
        "crystal.mosaic.distribution=cap",
        "crystal.mosaic.frame=lab",
    ]
    if spread > 0:
        lines += [
            f"crystal.mosaic.spread_deg={spread * RTD!r}",
            f"crystal.mosaic.domains={domains}",
            # nanoBragg.c begins with 1 where the seed is not positive
            f"crystal.mosaic.seed={max(1, s.mosaic_seed)}",
        ]
    return lines


def _beam(t: Translated) -> list[str]:
    s = t.settings
    lines = [
        f"beam.fluence={t.fluence!r}",
        f"beam.polarization_correction={not s.nopolar or s.oversample_polar}",
    ]
    if s.sources is not None:
        return [*lines, f"beam.source_file={_quoted(s.sources)}"]
    for name, grid, unit in (
        ("hdiv", t.spread.horizontal, 1e3),
        ("vdiv", t.spread.vertical, 1e3),
    ):
        if grid.width:
            lines += [
                f"beam.{name}range_mrad={grid.width * unit!r}",
                f"beam.{name}step_mrad={grid.step * unit!r}",
                f"beam.{name}steps={grid.count}",
            ]
    if t.spread.dispersion.width:
        grid = t.spread.dispersion
        lines += [
            f"beam.dispersion_percent={grid.width * 100!r}",
            f"beam.dispstep_percent={grid.step * 100!r}",
            f"beam.dispsteps={grid.count}",
        ]
    return [*lines, f"beam.round_div={t.spread.round}"]


def _sampling(t: Translated) -> list[str]:
    s = t.settings
    lines = [
        f"sampling.oversample={t.oversample}",
        *(
            f"sampling.oversample_{name}={getattr(s, f'oversample_{name}')}"
            for name in ("thick", "polar", "omega")
        ),
        f"sampling.point_pixel={s.point_pixel}",
        f"sampling.phi_carryover_mode={s.phi_carryover_mode}",
        "sampling.phi_sampling=start",
        "sampling.thick_sampling=start",
    ]
    if t.phi.width and t.phi.step:
        lines.append(f"sampling.phisteps={t.phi.count}")
        if t.phi.step != t.phi.width / t.phi.count:
            lines.append(f"sampling.phistep_deg={t.phi.step * RTD!r}")
    step, layers, _ = t.sensor
    if layers:
        lines += [f"sampling.thicksteps={layers}", f"sampling.thickstep_mm={step * 1e3!r}"]
        if not s.oversample_thick:
            lines.append("sampling.thick_capture=last")
    if s.d_min > 0:
        lines.append(f"sampling.d_min={s.d_min * 1e10!r}")
    if s.curved and along_x(t):
        lines.append("sampling.curved_detector=True")
    if s.roi is not None:
        lines.append("sampling.roi=" + ",".join(map(str, t.roi)))
    return lines


def along_x(t: Translated) -> bool:
    """Whether the beam is where sampling.curved_detector wants it."""
    return bool(t.geometry.beam[0] >= 0.5)


def _water(t: Translated) -> float:
    """Micrometres. Steps of phi that are all alike are simulated once; nanoBragg.c divides the
    water, the cube of this figure, by their number."""
    alike = t.phi.count if not (t.phi.width and t.phi.step) else 1
    return t.settings.water * 1e6 / alike ** (1 / 3)
