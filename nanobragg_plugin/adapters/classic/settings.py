"""What a command line of nanoBragg.c sets: its variables, in its order, from its defaults.

Units are those of nanoBragg.c's variables (m, radians), so that what rounding decides is decided
alike. A flag may set more than its own variable (a beam centre chooses the pivot), and a later
flag overrides an earlier one: hence the order.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from libtbx.utils import Sorry

from nanobragg_plugin.adapters.classic.flags import Given
from nanobragg_plugin.constants import CLASSIC_FLUENCE, EV_ANGSTROM, RTD

Vector = tuple[float, float, float]

#: Vectors before a convention or a flag sets them: mosflm's, but for the 2theta axis.
VECTORS: dict[str, Vector] = {
    "beam": (1.0, 0.0, 0.0),
    "fast": (0.0, 0.0, 1.0),
    "slow": (0.0, -1.0, 0.0),
    "normal": (1.0, 0.0, 0.0),
    "e_vector": (0.0, 0.0, 1.0),
    "spindle": (0.0, 0.0, 1.0),
    "twotheta": (0.0, 1.0, 0.0),
}
VECTOR_FLAGS = {
    "-beam_vector": "beam",
    "-fdet_vector": "fast",
    "-sdet_vector": "slow",
    "-odet_vector": "normal",
    "-polar_vector": "e_vector",
    "-spindle_axis": "spindle",
    "-twotheta_axis": "twotheta",
}
#: Conventions, and what they make the detector's rotations about until another flag says.
PIVOTS = {"mosflm": "beam", "xds": "sample", "adxv": "beam", "denzo": "beam", "dials": "beam"}


@dataclass
class Settings:
    """nanoBragg.c's variables; None where it has "not given" (NaN or a negative number)."""

    # crystal
    ncells: list[int] = field(default_factory=lambda: [1, 1, 1])
    size_m: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    cell: tuple[float, ...] | None = None  # Angstrom, degrees
    matrix: str | None = None
    misset: Vector | str | None = None  # radians, or "random"
    misset_seed: int | None = None
    shape: str = "square"
    fudge: float = 1.0
    mosaic_spread: float | None = None
    mosaic_domains: int = -1
    mosaic_seed: int = 12345678
    # structure factors
    hkl: str | None = None
    default_F: float = 0.0
    dump: str | None = None
    interpolate: bool | None = None
    # beam
    wavelength: float = 1e-10
    fluence: float = CLASSIC_FLUENCE
    flux: float = 0.0
    exposure: float = 1.0
    beamsize: float = 1e-4
    polarization: float = 0.0
    nopolar: bool = False
    dispersion: float = 0.0
    dispsteps: int = -1
    hdivrange: float | None = None
    hdivstep: float | None = None
    hdivsteps: int = -1
    vdivrange: float | None = None
    vdivstep: float | None = None
    vdivsteps: int = -1
    round_div: bool = True
    sources: str | None = None
    water: float = 0.0
    # detector
    convention: str = "mosflm"
    pivot: str = "beam"
    vectors: dict[str, Vector] = field(default_factory=lambda: dict(VECTORS))
    pix0: Vector | None = None
    distance: float = 0.1
    close_distance: float | None = None
    xbeam: float | None = None
    ybeam: float | None = None
    xclose: float | None = None
    yclose: float | None = None
    orgx: float | None = None  # pixels
    orgy: float | None = None
    twotheta: float = 0.0
    rotation: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    pixel: float = 1e-4
    detsize: list[float] = field(default_factory=lambda: [0.1024, 0.1024])  # fast, slow
    pixels: list[int] = field(default_factory=lambda: [0, 0])
    point_pixel: bool = False
    curved: bool = False
    mu: float | None = None  # 1/m
    thickness: float = 0.0
    thicksteps: int = -1
    mask: str | None = None
    image: str | None = None
    roi: tuple[int, int, int, int] | None = None
    # sampling
    phi: float = 0.0
    osc: float | None = None
    phistep: float | None = None
    phisteps: int = -1
    oversample: int = -1
    oversample_thick: bool = False
    oversample_polar: bool = False
    oversample_omega: bool = False
    d_min: float = 0.0
    # output
    floatfile: str = "floatimage.bin"
    intfile: str = "intimage.img"
    noisefile: str = "noiseimage.img"
    noise: bool = True
    pgmfile: str = "image.pgm"
    pgm: bool = True
    scale: float = 0.0
    pgmscale: float = 0.0
    adc: float = 40.0
    seed: int | None = None
    printout: bool = False
    printout_pixel: tuple[int, int] | None = None
    progress: bool | None = None
    # of this program
    phi_carryover_mode: str = "spec"
    precision: str = "double"
    device: str = "cpu"
    kernel: str = "dense"
    trace_pixel: tuple[int, int] | None = None
    show_phil: bool = False
    show_expt: str | None = None
    json: bool = False
    warnings: list[str] = field(default_factory=list)
    given: set[str] = field(default_factory=set)


#: Flag -> variable that takes its value as it is.
PLAIN = {
    "-mat": "matrix",
    "-hkl": "hkl",
    "-dump": "dump",
    "-img": "image",
    "-mask": "mask",
    "-sourcefile": "sources",
    "-floatfile": "floatfile",
    "-intfile": "intfile",
    "-noisefile": "noisefile",
    "-pgmfile": "pgmfile",
    "-cell": "cell",
    "-roi": "roi",
    **{
        f"-{name}": name
        for name in (
            "misset_seed mosaic_seed dispsteps hdivsteps vdivsteps phisteps oversample seed device "
            "phi_carryover_mode precision kernel trace_pixel show_expt fudge default_F exposure "
            "flux fluence scale pgmscale adc"
        ).split()
    },
    "-mosaic_dom": "mosaic_domains",
    "-detector_thicksteps": "thicksteps",
    "-polar": "polarization",
    "-pivot": "pivot",
    "-ORGX": "orgx",
    "-ORGY": "orgy",
}
#: Flag -> variable and divisor: nanoBragg.c divides, which rounds otherwise than a product.
DIVIDED = {
    "-distance": ("distance", 1000.0),
    "-close_distance": ("close_distance", 1000.0),
    "-pixel": ("pixel", 1000.0),
    "-Xbeam": ("xbeam", 1000.0),
    "-Ybeam": ("ybeam", 1000.0),
    "-Xclose": ("xclose", 1000.0),
    "-Yclose": ("yclose", 1000.0),
    "-twotheta": ("twotheta", RTD),
    "-lambda": ("wavelength", 1e10),
    "-beamsize": ("beamsize", 1000.0),
    "-dispersion": ("dispersion", 100.0),
    "-hdivrange": ("hdivrange", 1000.0),
    "-vdivrange": ("vdivrange", 1000.0),
    "-hdivstep": ("hdivstep", 1000.0),
    "-vdivstep": ("vdivstep", 1000.0),
    "-mosaic": ("mosaic_spread", RTD),
    "-phi": ("phi", RTD),
    "-osc": ("osc", RTD),
    "-phistep": ("phistep", RTD),
    "-dmin": ("d_min", 1e10),
    "-detector_thick": ("thickness", 1e6),
    "-water": ("water", 1e6),
}
#: Flag -> what it sets, without a value.
SWITCHES: dict[str, dict[str, Any]] = {
    "-point_pixel": {"point_pixel": True},
    "-curved_det": {"curved": True},
    "-nopolar": {"nopolar": True},
    "-oversample_thick": {"oversample_thick": True},
    "-oversample_polar": {"oversample_polar": True},
    "-oversample_omega": {"oversample_omega": True},
    "-round_div": {"round_div": True},
    "-square_div": {"round_div": False},
    "-nonoise": {"noise": False},
    "-nopgm": {"pgm": False},
    "-printout": {"printout": True},
    "-progress": {"progress": True},
    "-noprogress": {"progress": False},
    "-interpolate": {"interpolate": True},
    "-nointerpolate": {"interpolate": False},
    "-square_xtal": {"shape": "square"},
    "-round_xtal": {"shape": "round"},
    "-gauss_xtal": {"shape": "gauss_star"},
    "-tophat_spots": {"shape": "tophat_star"},
    "-show_phil": {"show_phil": True},
    "-json": {"json": True},
    **{f"-{name}": {"convention": name, "pivot": pivot} for name, pivot in PIVOTS.items()},
}
#: What a flag sets besides its own variable.
BESIDES = {
    **dict.fromkeys(("-Xbeam", "-Ybeam", "-distance"), {"pivot": "beam"}),
    **dict.fromkeys(
        ("-Xclose", "-Yclose", "-ORGX", "-ORGY", "-close_distance", "-twotheta"),
        {"pivot": "sample"},
    ),
    "-polar": {"nopolar": False},
    "-noisefile": {"noise": True},
    **dict.fromkeys(("-pgmfile", "-pgmscale"), {"pgm": True}),
    **dict.fromkeys((*VECTOR_FLAGS, "-pix0_vector", "-pix0_vector_mm"), {"convention": "custom"}),
}


def settings_of(given: Iterable[Given], header: dict[str, Any]) -> Settings:
    """The variables after a command line; header: what the headers of -mask and -img set before
    any other flag."""
    settings = Settings()
    for name, value in header.items():
        setattr(settings, name, value)
    for flag in given:
        settings.given.add(flag.name)
        _apply(settings, flag.name, flag.values)
    return settings


def _apply(s: Settings, name: str, values: tuple) -> None:
    value = values[0] if len(values) == 1 else values
    if name in DIVIDED:
        variable, divisor = DIVIDED[name]
        setattr(s, variable, value / divisor)
    elif name in SWITCHES:
        for variable, setting in SWITCHES[name].items():
            setattr(s, variable, setting)
    elif name in PLAIN:
        setattr(s, PLAIN[name], values if name == "-cell" else value)
    elif name in VECTOR_FLAGS:
        _vector(s, name, values)
    else:
        _special(s, name, value)
    for variable, setting in BESIDES.get(name, {}).items():
        setattr(s, variable, setting)


def _vector(s: Settings, name: str, values: tuple) -> None:
    if not any(values):
        raise Sorry(f"{name} 0 0 0: give it a direction")
    s.vectors[VECTOR_FLAGS[name]] = values
    if name == "-twotheta_axis":  # whose name begins with -twotheta's
        before, s.twotheta, s.pivot = s.twotheta, values[0] / RTD, "sample"
        if before != s.twotheta:
            s.warnings.append(
                "nanoBragg.c takes the first number of -twotheta_axis for -twotheta too: it is "
                f"{values[0]:g} degrees now, unless -twotheta comes after it"
            )


def _special(s: Settings, name: str, value: Any) -> None:
    """Flags that set several variables, or one in an unusual way."""
    if name in ("-Na", "-Nb", "-Nc"):
        s.ncells["abc".index(name[2])] = value
    elif name == "-N":
        s.ncells = [value] * 3
    elif name == "-xtalsize":
        s.size_m = [value / 1000] * 3
    elif name in ("-xtal_x", "-xtal_y", "-xtal_z"):
        s.size_m["xyz".index(name[-1])] = value / 1000
    elif name == "-misset":
        s.misset = tuple(angle / RTD for angle in value) if value else "random"
    elif name in ("-detector_rotx", "-detector_roty", "-detector_rotz"):
        s.rotation["xyz".index(name[-1])] = value / RTD
    elif name == "-detsize":
        s.detsize = [value / 1000] * 2
    elif name in ("-detsize_f", "-detsize_s"):
        s.detsize["fs".index(name[-1])] = value / 1000
    elif name == "-detpixels":
        s.pixels = [value] * 2
    elif name in ("-detpixels_f", "-detpixels_s"):
        s.pixels["fs".index(name[-1])] = value
    elif name == "-detector_abs":
        if value in (0, float("inf")):
            s.thickness = s.mu = 0.0
        else:
            s.mu = 1 / (value * 1e-6)
    elif name in ("-pix0_vector", "-pix0_vector_mm"):
        s.pix0 = tuple(x * (1e-3 if name.endswith("mm") else 1.0) for x in value)
    elif name == "-energy":
        s.wavelength = EV_ANGSTROM / value / 1e10
    elif name == "-divergence":
        s.hdivrange = s.vdivrange = value / 1000
    elif name == "-divsteps":
        s.hdivsteps = s.vdivsteps = value
    elif name == "-printout_pixel":
        s.printout, s.printout_pixel = True, value
    else:
        raise AssertionError(f"{name} is listed and sets nothing")
