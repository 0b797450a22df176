"""Warnings of flags that do nothing in the company, or for want, of others.

They do nothing in nanoBragg.c either, which does not say so.
"""

from __future__ import annotations

from collections.abc import Iterator

from nanobragg_plugin.adapters.classic.settings import Settings
from nanobragg_plugin.adapters.classic.steps import grid

DIVERGENCE = "-divergence -hdivrange -vdivrange -hdivstep -vdivstep -hdivsteps -vdivsteps -divsteps"
DISPERSION = "-dispersion -dispsteps"


def idle(s: Settings) -> Iterator[str]:
    """A sentence for each group of given flags that does nothing."""
    for flags, does_nothing, why in (*_of_beam(s), *_of_crystal(s), *_of_detector(s), *_rest(s)):
        given = sorted(s.given & set(flags.split()))
        if given and does_nothing:
            neither = "in nanoBragg.c neither" if given != ["-json"] else "here"
            do = "do" if len(given) > 1 else "does"
            yield f"{', '.join(given)} {do} nothing, {neither}: {why}"


def _of_beam(s: Settings) -> Iterator[tuple[str, bool, str]]:
    """(flags, whether they do nothing, why)."""
    clips = s.beamsize < max(s.size_m[1:])
    yield "-fluence", bool(s.flux), "-flux overrides it"
    yield "-exposure", not s.flux, "there is no -flux"
    yield "-beamsize", not s.flux and not clips, "there is no -flux, and no -xtalsize beyond it"
    yield "-polar", s.nopolar and not s.oversample_polar, "-nopolar comes after it"
    yield (
        f"{DIVERGENCE} {DISPERSION} -square_div",
        s.sources is not None,
        "-sourcefile overrides it",
    )
    if s.sources is None:
        yield "-dispsteps", s.dispersion == 0, "there is no -dispersion"
        yield "-dispsteps", s.dispersion > 0 and s.dispsteps == 1, "it takes 2 at least"
        for axis in "hv":
            width, step, n = (getattr(s, f"{axis}div{name}") for name in ("range", "step", "steps"))
            flags = f"-{axis}divsteps -divsteps"
            yield flags, width is None and bool(step), f"of a -{axis}divstep alone it takes 2"
            yield flags, bool(width) and not step and n == 1, "it takes 2 at least"
        horizontal = grid(s.hdivrange, s.hdivstep, s.hdivsteps)
        vertical = grid(s.vdivrange, s.vdivstep, s.vdivsteps)
        flat = not (horizontal.width and vertical.width)
        yield "-square_div", flat, "the divergence is not both horizontal and vertical"


def _of_crystal(s: Settings) -> Iterator[tuple[str, bool, str]]:
    seedless = not s.mosaic_spread or s.mosaic_domains == 1
    yield "-mosaic", bool(s.mosaic_spread) and s.mosaic_domains == 1, "one domain is not turned"
    yield "-mosaic_seed", seedless, "there are not several domains over a -mosaic"
    yield "-fudge", s.shape == "square", "domains are square (-square_xtal)"
    yield "-interpolate", not (s.hkl or s.dump), "there is neither -hkl nor -dump"
    for i, axis in enumerate("abc"):
        edge = f"-xtalsize or -xtal_{'xyz'[i]}"
        yield f"-N{axis}", s.size_m[i] > 0, f"{edge} overrides it"
    yield "-N", min(s.size_m) > 0, "-xtalsize overrides it"


def _of_detector(s: Settings) -> Iterator[tuple[str, bool, str]]:
    no_sensor = s.thickness == 0
    close = s.close_distance is not None
    yield "-distance", close, "-close_distance, or an image's, overrides it"
    yield "-detsize", all(s.pixels), "-detpixels, or an image's, overrides it"
    for i, axis in enumerate("fs"):
        yield f"-detsize_{axis}", s.pixels[i] > 0, "-detpixels, or an image's, overrides it"
    yield "-detector_thicksteps", no_sensor, "there is no -detector_thick"
    yield "-detector_abs", no_sensor and bool(s.mu), "there is no -detector_thick"


def _rest(s: Settings) -> Iterator[tuple[str, bool, str]]:
    yield "-phisteps", s.osc is None and bool(s.phistep), "of a -phistep without -osc it takes 2"
    yield "-noisefile", not s.noise, "-nonoise comes after it"
    yield "-pgmfile -pgmscale", not s.pgm, "-nopgm comes after it"
    yield "-json", s.trace_pixel is None, "it is the form of -trace_pixel, which is not given"
    yield "-seed", not s.noise and s.misset != "random", "-nonoise is given"
