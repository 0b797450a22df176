"""nanoBragg.c's reference images as dxtbx models.

`data/golden` holds the command lines and the images (see its README). Here a command line is
turned into the models of dxtbx and the options of the C program: what a user of dxtbx would
build to simulate the same experiment. Only what those command lines use is understood, and an
unknown flag is an error.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parent / "data" / "golden"

#: nanoBragg.c's frames: beam, fast, slow, detector normal, E vector, spindle, 2theta axis.
CONVENTIONS = {
    "mosflm": ((1, 0, 0), (0, 0, 1), (0, -1, 0), (1, 0, 0), (0, 0, 1), (0, 0, 1), (0, 0, -1)),
    "denzo": ((1, 0, 0), (0, 0, 1), (0, -1, 0), (1, 0, 0), (0, 0, 1), (0, 0, 1), (0, 0, -1)),
    "adxv": ((0, 0, 1), (1, 0, 0), (0, -1, 0), (0, 0, 1), (1, 0, 0), (1, 0, 0), (-1, 0, 0)),
    "xds": ((0, 0, 1), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 0), (1, 0, 0), (1, 0, 0)),
    "dials": ((0, 0, 1), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 1, 0), (0, 1, 0), (0, 1, 0)),
}
#: A flag and how many values it takes.
FLAGS = {
    **dict.fromkeys("hkl mat lambda energy distance pixel default_F N Na Nb Nc".split(), 1),
    **dict.fromkeys("detpixels detpixels_x detpixels_y fudge phi osc phisteps mosaic".split(), 1),
    **dict.fromkeys("mosaic_dom mosaic_seed oversample detector_rotx detector_roty".split(), 1),
    **dict.fromkeys("detector_rotz twotheta pivot Xclose Yclose ORGX ORGY Xbeam Ybeam".split(), 1),
    **dict.fromkeys("detector_abs detector_thick detector_thicksteps polar mask flux".split(), 1),
    **dict.fromkeys("exposure beamsize xtalsize".split(), 1),
    **dict.fromkeys("nointerpolate round_xtal gauss_xtal tophat_spots xds adxv denzo".split(), 0),
    **dict.fromkeys("dials nopolar oversample_thick oversample_omega oversample_polar".split(), 0),
    **{"cell": 6, "misset": 3, "roi": 4, "spindle_axis": 3},
}
#: Cases that wait for nanoBragg's own command line (the issue names them).
LATER = {
    *"curved_detector point_pixel interpolate dmin water_background".split(),
    *"divergence_round divergence_square dispersion sourcefile phi_from_zero_sources".split(),
}


@dataclass
class Case:
    """One command line: its images, and the flags as a dict of lists of words."""

    name: str
    flags: dict[str, list[str]]
    modes: list[str]
    images: dict[str, np.ndarray] = field(default_factory=dict)

    def number(self, flag: str, default: float | None = None) -> float | None:
        return float(self.flags[flag][0]) if flag in self.flags else default

    def expected(self, mode: str) -> np.ndarray:
        """Float photons [slow, fast] of `spec` (fresh rotations) or `c-parity`."""
        if mode == "spec" and "spec_image" in self.images:
            return self.images["spec_image"]
        return self.images["float_image"]


def listed() -> list[dict]:
    """`cases.json`."""
    return json.loads((GOLDEN / "cases.json").read_text())


def cases() -> list[Case]:
    """Every case that dxtbx models describe."""
    return [
        Case(entry["name"], parse(entry["args"]), entry["modes"])
        for entry in listed()
        if entry["name"] not in LATER
    ]


def load_images(case: Case) -> Case:
    with np.load(GOLDEN / f"{case.name}.npz") as arrays:
        case.images = {key: arrays[key] for key in arrays.files}
    return case


def parse(line: str) -> dict[str, list[str]]:
    words, flags = line.split(), {}
    while words:
        flag = words.pop(0).lstrip("-")
        count = FLAGS[flag]
        flags[flag], words = words[:count], words[count:]
    return flags


def axis_rotation(axis, angle: float) -> np.ndarray:
    """Right-handed rotation matrix."""
    axis = np.asarray(axis, float) / np.linalg.norm(axis)
    k = np.cross(np.eye(3), axis)
    return np.eye(3) + math.sin(angle) * k + (1 - math.cos(angle)) * k @ k


def xyz_rotation(degrees) -> np.ndarray:
    """nanoBragg.c's `rotate`: about x, then y, then z."""
    rx, ry, rz = (axis_rotation(e, math.radians(d)) for e, d in zip(np.eye(3), degrees))
    return rz @ ry @ rx


def mask(case: Case) -> list[np.ndarray] | None:
    """The pixels of -mask: bool [slow, fast], True where its image is not 0."""
    if "mask" not in case.flags:
        return None
    raw = (GOLDEN / case.flags["mask"][0]).read_bytes()[512:]
    n_fast, n_slow = image_size(case)
    return [np.frombuffer(raw, "<u2").reshape(n_slow, n_fast) != 0]


def image_size(case: Case) -> tuple[int, int]:
    """(fast, slow) pixels."""
    square = case.number("detpixels", 0)
    return int(case.number("detpixels_x", square)), int(case.number("detpixels_y", square))


def beam_center(case: Case, convention: str) -> tuple[float, float]:
    """Where the direct beam (xds, dials: the plane's nearest point) is on the fast and slow
    axes, mm from the first pixel's corner."""
    pixel = case.number("pixel")
    size_f, size_s = (n * pixel for n in image_size(case))
    x, y = case.number("Xbeam"), case.number("Ybeam")
    if "mask" in case.flags:  # the header of a mask sets the beam centre
        header = (GOLDEN / case.flags["mask"][0]).read_bytes()[:512].decode("ascii")
        values = dict(line.rstrip(";").split("=") for line in header.splitlines() if "=" in line)
        x, y = float(values["BEAM_CENTER_X"]), size_s - float(values["BEAM_CENTER_Y"])
    if convention == "adxv":
        x = (size_f + pixel) / 2 if x is None else x
        y = (size_s - pixel) / 2 if y is None else y
        return x, size_s - y
    if convention in ("mosflm", "denzo") and "spindle_axis" not in case.flags:
        x = (size_s + pixel) / 2 if x is None else x
        y = (size_f + pixel) / 2 if y is None else y
        half = pixel / 2 if convention == "mosflm" else 0.0
        return y + half, x + half
    return (
        (case.number("ORGX") - 0.5) * pixel if "ORGX" in case.flags else size_f / 2,
        (case.number("ORGY") - 0.5) * pixel if "ORGY" in case.flags else size_s / 2,
    )


def experiment(case: Case):
    """The command line's experiment as dxtbx models (a dxtbx Experiment)."""
    from dxtbx.model import Beam, Crystal, Detector, Experiment, GoniometerFactory, ScanFactory

    convention = next((c for c in CONVENTIONS if c in case.flags), "mosflm")
    beam, fast, slow, normal, e_vector, spindle, swing = (
        np.array(v, float) for v in CONVENTIONS[convention]
    )
    if "spindle_axis" in case.flags:
        spindle = np.array([float(x) for x in case.flags["spindle_axis"]])
        spindle /= np.linalg.norm(spindle)
    turn = axis_rotation(swing, math.radians(case.number("twotheta", 0.0)))
    turn = turn @ xyz_rotation([case.number(f"detector_rot{e}", 0.0) for e in "xyz"])
    center_f, center_s = beam_center(case, convention)
    distance = case.number("distance")
    if convention in ("xds", "dials"):  # the detector turns about the sample
        origin = turn @ (-center_f * fast - center_s * slow + distance * normal)
    else:  # about the direct beam
        origin = -center_f * (turn @ fast) - center_s * (turn @ slow) + distance * beam

    detector = Detector()
    panel = detector.add_panel()
    panel.set_frame(*(tuple(map(float, v)) for v in (turn @ fast, turn @ slow, origin)))
    panel.set_image_size(image_size(case))
    panel.set_pixel_size((case.number("pixel"),) * 2)
    panel.set_trusted_range((-1, 1e9))
    if "detector_thick" in case.flags:
        panel.set_thickness(case.number("detector_thick") * 1e-3)
        panel.set_mu(1e3 / case.number("detector_abs"))
        panel.set_material("Si")
    wavelength = case.number("lambda")
    if wavelength is None:
        wavelength = 12398.42 / case.number("energy")
    dxtbx_beam = Beam(tuple(-beam), wavelength)
    dxtbx_beam.set_polarization_fraction((case.number("polar", 0.0) + 1) / 2)
    dxtbx_beam.set_polarization_normal(tuple(np.cross(beam, e_vector)))
    width = case.number("osc", 0.0)
    goniometer = scan = None
    if width:
        goniometer = GoniometerFactory.make_goniometer(tuple(spindle), (1, 0, 0, 0, 1, 0, 0, 0, 1))
        scan = ScanFactory.make_scan((1, 1), [1.0], (case.number("phi", 0.0), width), {0: 0.0})
    a_matrix, _ = reciprocal_matrix(case, wavelength)
    a, b, c = np.linalg.inv(a_matrix)
    crystal = Crystal(tuple(a), tuple(b), tuple(c), space_group_symbol="P1")
    return Experiment(
        beam=dxtbx_beam, detector=detector, goniometer=goniometer, scan=scan, crystal=crystal
    )


def reciprocal_matrix(case: Case, wavelength: float) -> tuple[np.ndarray, float]:
    """Columns a*, b*, c*, 1/Angstrom, and the factor by which the C program's own a*, b*, c*
    (of the `_star` shapes) are longer.

    A mosflm matrix, or a cell whose a* lies along x and b* in the xy plane, turned by -misset.
    Of a triclinic cell nanoBragg.c takes c*_z = c* V/(a b c sin gamma*) where sin gamma is meant,
    then gives a, b, c their right lengths again: its angles are not those asked for.
    """
    if "mat" in case.flags:
        return np.loadtxt(GOLDEN / case.flags["mat"][0]) / wavelength, 1.0
    a, b, c, *angles = (float(x) for x in case.flags["cell"])
    ca, cb, cg = np.cos(np.radians(angles))
    sa, sb, sg = np.sin(np.radians(angles))
    volume = a * b * c * math.sqrt(1 - ca**2 - cb**2 - cg**2 + 2 * ca * cb * cg)
    a_star, b_star, c_star = b * c * sa / volume, c * a * sb / volume, a * b * sg / volume
    ca_star, cb_star, cg_star = (
        (cb * cg - ca) / (sb * sg),
        (cg * ca - cb) / (sg * sa),
        (ca * cb - cg) / (sa * sb),
    )
    sg_star = math.sqrt(1 - cg_star**2)
    upper = np.array(
        [
            [a_star, b_star * cg_star, c_star * cb_star],
            [0, b_star * sg_star, c_star * (ca_star - cb_star * cg_star) / sg_star],
            [0, 0, c_star * volume / (a * b * c * sg_star)],
        ]
    )
    turned = xyz_rotation([float(x) for x in case.flags["misset"]]) @ upper
    real = np.linalg.inv(turned)
    real *= (np.array([a, b, c]) / np.linalg.norm(real, axis=1))[:, None]
    return np.linalg.inv(real), abs(np.linalg.det(real)) / volume


def phil(case: Case) -> list[str]:
    """The options of the C program, as assignments to our PHIL parameters."""
    number, flags = case.number, case.flags
    cells = [number(f"N{e}", number("N", 1)) for e in "abc"]
    if "xtalsize" in flags:  # mm; ceil of size/cell edge
        edges = [float(x) for x in flags["cell"][:3]]
        cells = [math.ceil(number("xtalsize") * 1e7 / edge) for edge in edges]
    shapes = {"round_xtal": "round", "gauss_xtal": "gauss_star", "tophat_spots": "tophat_star"}
    fudge = number("fudge", 1)
    if "gauss_xtal" in flags or "tophat_spots" in flags:
        fudge *= reciprocal_matrix(case, 1.0)[1] ** 2  # it multiplies a squared length
    given = [
        "crystal.Ncells_abc=" + ",".join(str(int(n)) for n in cells),
        "crystal.xtal_shape=" + next((shapes[f] for f in shapes if f in flags), "square"),
        f"crystal.fudge={fudge!r}",
        "crystal.mosaic.distribution=cap",
        "crystal.mosaic.frame=lab",
        "sampling.phi_sampling=start",
        "sampling.thick_sampling=start",
        f"sampling.phisteps={int(number('phisteps', 1))}",
        *(
            f"sampling.{name}={name in flags}"
            for name in ("oversample_omega", "oversample_polar", "oversample_thick")
        ),
        f"beam.polarization_correction={'nopolar' not in flags}",
        f"structure_factors.default_F={number('default_F', 0)!r}",
        "compute.precision=double",
        "compute.tolerance=0",
        "noise.poisson=False",
    ]
    if "hkl" in flags:
        given.append(f"structure_factors.file={GOLDEN / flags['hkl'][0]}")
    if "mosaic" in flags:
        given.append(f"crystal.mosaic.spread_deg={number('mosaic')!r}")
        given.append(f"crystal.mosaic.domains={int(number('mosaic_dom', 10))}")
        if "mosaic_seed" in flags:
            given.append(f"crystal.mosaic.seed={int(number('mosaic_seed'))}")
    if "oversample" in flags:
        given.append(f"sampling.oversample={int(number('oversample'))}")
    if "detector_thick" in flags:  # its layers are thickness/(thicksteps - 1) thick, two at least
        steps = max(2, int(number("detector_thicksteps")))
        step = number("detector_thick") * 1e-3 / (steps - 1)
        given += [f"sampling.thicksteps={steps}", f"sampling.thickstep_mm={step!r}"]
        if "oversample_thick" not in flags:
            given.append("sampling.thick_capture=last")
    if "flux" in flags:
        given += [
            f"beam.flux={number('flux')!r}",
            f"beam.exposure_s={number('exposure')!r}",
            f"beam.beamsize_mm={number('beamsize')!r}",
        ]
    else:
        given.append("beam.fluence=125932015286227086360700780544.0")
    if "roi" in flags:
        given.append("sampling.roi=" + ",".join(flags["roi"]))
    return given
