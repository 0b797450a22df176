"""Where nanoBragg.c puts the detector: conventions, beam centres, pivots.

Lengths in m, vectors in its laboratory frame, which the convention chooses. The order of the
steps is nanoBragg.c's ("initialize detector origin from a beam center and distance").
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

import numpy as np
from libtbx.utils import Sorry
from scipy.spatial.transform import Rotation

from nanobragg_plugin.adapters.classic.settings import Settings

#: Vectors of the conventions: beam, fast, slow, detector normal, E vector, spindle, 2theta axis.
CONVENTIONS = {
    "mosflm": ((1, 0, 0), (0, 0, 1), (0, -1, 0), (1, 0, 0), (0, 0, 1), (0, 0, 1), (0, 0, -1)),
    "denzo": ((1, 0, 0), (0, 0, 1), (0, -1, 0), (1, 0, 0), (0, 0, 1), (0, 0, 1), (0, 0, -1)),
    "adxv": ((0, 0, 1), (1, 0, 0), (0, -1, 0), (0, 0, 1), (1, 0, 0), (1, 0, 0), (-1, 0, 0)),
    "xds": ((0, 0, 1), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 0), (1, 0, 0), (1, 0, 0)),
    "dials": ((0, 0, 1), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 1, 0), (0, 1, 0), (0, 1, 0)),
}
NAMES = ("beam", "fast", "slow", "normal", "e_vector", "spindle", "twotheta")
#: Sine of the angle by which -odet_vector may be off the normal of fast and slow, and cosine of
#: that between fast and slow (rounding to a few digits makes it 1e-6).
NORMAL_TOLERANCE, SKEW_TOLERANCE = 1e-4, 1e-3
#: How far the length of a vector that was rounded may be from 1.
ROUNDED = 1e-2
#: Pixels are counted by C's int.
MAX_PIXELS = 2**31 - 1
#: Flags that a convention reads for nothing but the header of the images.
BEAM_CENTRES = ("-Xbeam", "-Ybeam", "-Xclose", "-Yclose", "-ORGX", "-ORGY")


@dataclass(frozen=True)
class Geometry:
    """The detector, m, and the directions (unit vectors); the figures of the images' headers.

    origin: the first pixel's corner; distance along the beam, close_distance along the normal;
    beam_centre: as the convention has it (Xbeam, Ybeam), direct_beam: along fast and slow,
    nearest: the point nearest to the crystal along fast and slow.
    """

    beam: np.ndarray
    fast: np.ndarray
    slow: np.ndarray
    normal: np.ndarray
    e_vector: np.ndarray
    spindle: np.ndarray
    origin: np.ndarray
    pixel: float
    n_fast: int
    n_slow: int
    size_slow: float
    distance: float
    close_distance: float
    beam_centre: tuple[float, float]
    direct_beam: tuple[float, float]
    nearest: tuple[float, float]
    convention: str

    @property
    def off_normal(self) -> float:
        """How far `normal` is from the unit normal of fast and slow, up to its sign."""
        unit = np.cross(self.fast, self.slow)
        unit /= np.linalg.norm(unit)
        return float(np.linalg.norm(self.normal - np.copysign(1, self.normal @ unit) * unit))


@dataclass(frozen=True)
class _Centres:
    """Xbeam, Ybeam; the direct beam and the nearest point along fast and slow; the pivot."""

    beam_centre: tuple[float, float]
    direct: tuple[float, float]
    nearest: tuple[float, float]
    pivot: str


def geometry_of(s: Settings) -> Geometry:
    """The detector of a command line."""
    n_fast, n_slow, size = _size(s)
    vectors = _vectors(s)
    centres = _centres(s, size)
    beam, spindle, e_vector = (vectors[name] for name in ("beam", "spindle", "e_vector"))
    turn = Rotation.from_euler("xyz", s.rotation)
    fast, slow, normal = (
        _swing(s, vectors, turn.apply(vectors[name])) for name in ("fast", "slow", "normal")
    )
    # of the detector before the 2theta swing, as nanoBragg.c has it
    ratio = float(beam @ turn.apply(vectors["normal"])) or sys.float_info.min
    close = abs(ratio * s.distance) if s.close_distance is None else s.close_distance
    if centres.pivot == "sample":
        straight = -centres.nearest[0] * vectors["fast"] - centres.nearest[1] * vectors["slow"]
        origin = _swing(s, vectors, turn.apply(straight + close * vectors["normal"]))
    else:
        origin = -centres.direct[0] * fast - centres.direct[1] * slow + close / ratio * beam
    if s.pix0 is not None:
        origin = _given_origin(s, origin)
    close = float(origin @ normal)
    to_beam = close / ratio * beam - origin
    geometry = Geometry(
        *(beam, fast, slow, normal, e_vector, spindle, origin, s.pixel, n_fast, n_slow, size[1]),
        distance=close / ratio,
        close_distance=close,
        beam_centre=centres.beam_centre,
        direct_beam=(float(fast @ to_beam), float(slow @ to_beam)),
        nearest=(-float(origin @ fast), -float(origin @ slow)),
        convention=s.convention,
    )
    _check(geometry, s)
    return geometry


def _swing(s: Settings, vectors: dict[str, np.ndarray], v: np.ndarray) -> np.ndarray:
    """A vector turned by 2theta (Rodrigues). nanoBragg.c does not make the axis a unit vector: one
    that is rounded to a few digits turns as it does there."""
    axis, angle = vectors["twotheta"], s.twotheta
    along = axis * (axis @ v) * (1 - math.cos(angle))
    return along + v * math.cos(angle) + np.cross(axis, v) * math.sin(angle)


def _size(s: Settings) -> tuple[int, int, list[float]]:
    """Pixels along fast and slow, and the sizes, m."""
    size = [s.pixel * n if n else given for n, given in zip(s.pixels, s.detsize)]
    n_fast, n_slow = (math.ceil(edge / s.pixel - 0.5) for edge in size)
    if min(n_fast, n_slow) < 1:
        raise Sorry(
            f"a detector of {size[0] * 1e3:g} x {size[1] * 1e3:g} mm has no pixels of "
            f"{s.pixel * 1e3:g} mm: give -detpixels or a larger -detsize"
        )
    if n_fast * n_slow > MAX_PIXELS:
        raise Sorry(
            f"a detector of {n_fast} x {n_slow} pixels has more than {MAX_PIXELS}, nanoBragg.c's "
            "largest number: make it smaller, or the pixels larger"
        )
    return n_fast, n_slow, size


def _vectors(s: Settings) -> dict[str, np.ndarray]:
    """The directions of the convention, or those of the flags where they were given."""
    named = CONVENTIONS.get(s.convention)
    given = s.vectors if named is None else dict(zip(NAMES, named))
    vectors = {name: np.array(vector, float) for name, vector in given.items()}
    length = {name: float(np.linalg.norm(vector)) for name, vector in vectors.items()}
    unit = {name: vector / length[name] for name, vector in vectors.items()}
    if abs(length["twotheta"] - 1) < ROUNDED:
        unit["twotheta"] = vectors["twotheta"]
    elif s.twotheta:
        s.warnings.append("-twotheta_axis is made a unit vector, which nanoBragg.c does not")
    if length["normal"] != 1:  # nanoBragg.c makes its own unless the length is exactly 1
        asked = unit["normal"]
        unit["normal"] = np.cross(unit["fast"], unit["slow"])
        unit["normal"] /= np.linalg.norm(unit["normal"]) or 1
        if "-odet_vector" in s.given and unit["normal"] @ asked < 1 - NORMAL_TOLERANCE:
            s.warnings.append(
                f"the length of -odet_vector is {length['normal']:.9g}, not exactly 1: as in "
                "nanoBragg.c it is replaced by fast x slow, "
                f"{' '.join(f'{x + 0.0:g}' for x in unit['normal'])}"
            )
    if np.linalg.norm(np.cross(unit["beam"], unit["e_vector"])) < 1e-9:
        raise Sorry(
            "-polar_vector is along the beam: the E vector is at right angles to it; give both, "
            "-beam_vector and -polar_vector"
        )
    if s.convention == "custom":
        return unit
    used = [flag for flag in s.given if flag.endswith(("_vector", "_axis", "_vector_mm"))]
    if used:
        s.warnings.append(
            f"-{s.convention} after {', '.join(sorted(used))} overrides all vectors: give it first"
        )
    return unit


def _centres(s: Settings, size: list[float]) -> _Centres:
    """Where the beam centre of each convention is on the detector."""
    pixel, (size_f, size_s) = s.pixel, size
    close_f = size_f / 2 if s.orgx is None else (s.orgx - 0.5) * pixel
    close_s = size_s / 2 if s.orgy is None else (s.orgy - 0.5) * pixel
    x, y, used = s.xbeam, s.ybeam, ("-Xbeam", "-Ybeam")
    nearest, pivot = (close_f, close_s), "beam"
    if s.convention == "adxv":
        x = (size_f + pixel) / 2 if x is None else x
        y = (size_s - pixel) / 2 if y is None else y
        direct = (x, size_s - y)
    elif s.convention in ("mosflm", "denzo"):
        x = (size_s + pixel) / 2 if x is None else x
        y = (size_f + pixel) / 2 if y is None else y
        half = pixel / 2 if s.convention == "mosflm" else 0.0
        direct = (y + half, x + half)
    else:
        if x is None:
            x = close_f if s.xclose is None else s.xclose
        if y is None:
            y = close_s if s.yclose is None else s.yclose
        direct = (x, y)
        if s.convention == "custom":
            nearest, pivot, used = direct, s.pivot, BEAM_CENTRES
        else:  # xds and dials: the nearest point counts, not the direct beam
            pivot, used = "sample", ("-ORGX", "-ORGY")
    _warn_unused(s, [*used, *(["-pivot"] if s.convention == "custom" else [])], pivot)
    return _Centres((x, y), direct, nearest, pivot)


def _warn_unused(s: Settings, used: list[str], pivot: str) -> None:
    idle = s.given & {*BEAM_CENTRES, "-pivot"} - set(used)
    if idle - ({"-pivot"} if s.pivot == pivot else set()):
        s.warnings.append(
            f"{', '.join(sorted(idle))} moves nothing in the {s.convention} convention (in "
            f"nanoBragg.c neither), whose detector turns about the {pivot} and is placed by "
            f"{', '.join(u for u in used if u != '-pivot')}"
        )


def _given_origin(s: Settings, from_centre: np.ndarray) -> np.ndarray:
    """-pix0_vector, unless a beam centre says where the detector is."""
    centre = s.given & set(BEAM_CENTRES)
    if s.convention != "custom" or centre:
        why = "the beam centre of " + ", ".join(sorted(centre)) if centre else "the convention"
        s.warnings.append(f"-pix0_vector is not used: {why} overrides it, as in nanoBragg.c")
        return from_centre
    return np.array(s.pix0)


def _check(g: Geometry, s: Settings) -> None:
    """`Sorry` for a detector that is none."""
    if abs(g.fast @ g.slow) > SKEW_TOLERANCE:
        raise Sorry(
            f"-fdet_vector and -sdet_vector are {math.degrees(math.acos(g.fast @ g.slow)):.3f} "
            "degrees apart: pixels are rectangular; give vectors at right angles"
        )
    if g.distance < 0:
        s.warnings.append(
            "the detector is upstream of the crystal, where nanoBragg.c puts one whose normal, "
            "-odet_vector or fast x slow, points against the beam"
        )
    if g.off_normal > NORMAL_TOLERANCE:
        normal = " ".join(f"{x + 0.0:g}" for x in np.cross(g.fast, g.slow))  # 0, not -0
        s.warnings.append(
            f"-odet_vector is not the normal of the detector, fast x slow = {normal}: solid angles "
            "and sensor layers are nanoBragg.c's, and wrong; give that, or its opposite"
        )
    if abs(g.close_distance) < 1e-9:
        raise Sorry("the detector's plane goes through the crystal: move it with -distance")
    if g.close_distance < 0:
        raise Sorry(
            "the detector turns its back to the crystal: its normal, -odet_vector, must point "
            "away from the crystal, after -twotheta and the -detector_rot angles too"
        )
