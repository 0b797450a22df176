"""The flags of nanoBragg.c's command line: how they are spelled and what they take.

nanoBragg.c looks for a flag's name anywhere in a word, and passes over words it does not know;
here a word is a flag as it is listed (`*`: or with more letters, as in -pixel_size), or an error.
"""

from __future__ import annotations

import difflib
import math
import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from libtbx.utils import Sorry

#: Flag (its spellings), values it takes (n: number, i: whole number, t: text), help, unit first.
FLAGS = """
-mat*|t|mosflm matrix: a*, b*, c* in columns, times the wavelength
-cell|cell|Angstrom, degrees. a b c alpha beta gamma; from the second on may be left out
-misset|misset|degrees. Turns of the crystal about x, y, z; or `random`
-misset_seed|i|seed of -misset random. Default: that of -seed
-hkl*|t|text file of h k l F in P1
-default_F|n|electrons. Amplitude of reflections that -hkl lacks
-dump*|t|binary file of the amplitudes of -hkl: written with -hkl, read without
-interpolate|| amplitudes between the indices. Default: where a domain has under 3 cells
-nointerpolate||amplitude of the nearest index
-Na|i|cells of a domain along a
-Nb|i|cells along b
-Nc|i|cells along c
-N|i|cells along a, b and c
-xtalsize -xtal_size -samplesize -sample_size|n|mm. Edge of the domain, in place of -N
-xtal_x -xtal_thick* -sample_x -sample_thick*|n|mm. Edge of the domain along a
-xtal_y -xtal_width -sample_y -sample_width -width|n|mm. Edge along b
-xtal_z -xtal_heigh* -sample_z -sample_heigh* -heigh*|n|mm. Edge along c
-square_xtal||domains are parallelepipeds (default)
-round_xtal||domains are ellipsoids
-gauss_xtal||gaussian spots, narrow (xtal_shape=gauss_star)
-tophat_spots -binary_spots||flat-topped spots, narrow (xtal_shape=tophat_star)
-fudge|n|factor on the squared distance from the peak
-mosaic -mosaici* -mosaic_spr*|n|degrees. Largest angle of a mosaic domain
-mosaic_dom*|i|mosaic domains. Default: 10 where there is a spread
-mosaic_seed|i|seed of the mosaic domains. Default: 12345678
-distance|n|mm. From the crystal to the detector, along the beam
-close_distance|n|mm. From the crystal to the nearest point of the detector's plane
-detsize|n|mm. Edge of the detector
-detsize_f|n|mm. Size along the fast axis
-detsize_s|n|mm. Size along the slow axis
-detpixels|i|pixels along both edges
-detpixels_f -detpixels_x|i|pixels along the fast axis
-detpixels_s -detpixels_y|i|pixels along the slow axis
-pixel*|n|mm. Edge of a pixel
-point_pixel||inverse square law in place of the solid angle of a pixel
-curved_det*||all pixels at the same distance
-img*|t|SMV image whose header gives the camera's parameters
-mask*|t|SMV image, 0 where a pixel is not simulated; its header counts as that of -img
-roi|iiii|first and last fast, first and last slow pixel, all inclusive
-detector_abs*|n|micrometres. Attenuation depth of the sensor; inf: no sensor
-detector_thick|n|micrometres. Thickness of the sensor
-detector_thicksteps -thicksteps|i|sensor layers
-Xbeam|n|mm. Direct beam, as the convention has it
-Ybeam|n|mm. Direct beam, as the convention has it
-Xclose|n|mm. Point nearest to the crystal, along fast
-Yclose|n|mm. Point nearest to the crystal, along slow
-ORGX|n|pixels. XDS's origin along fast
-ORGY|n|pixels. XDS's origin along slow
-pivot|t|sample or beam: what detector rotations are about
-mosflm||mosflm's convention (default): beam along x
-xds||XDS's convention: beam along z
-adxv||ADXV's convention: beam along z
-denzo||Denzo's convention: beam along x
-dials||DIALS's convention: beam along z
-fdet_vector|nnn|direction of the fast axis. It and the next six: a convention of your own
-sdet_vector|nnn|direction of the slow axis
-odet_vector|nnn|direction of increasing detector distance
-beam_vector|nnn|direction of the beam
-polar_vector|nnn|direction of the E vector
-spindle_axis|nnn|axis of the phi rotation
-twotheta_axis|nnn|axis of the detector's 2theta
-pix0_vector|nnn|m. From the crystal to the first pixel's corner; unless a beam centre is given
-pix0_vector_mm|nnn|mm. The same in mm
-twotheta|n|degrees. Swing of the detector
-detector_rotx|n|degrees. Turn of the detector about x
-detector_roty|n|degrees. Turn about y
-detector_rotz|n|degrees. Turn about z
-lambda -wave*|n|Angstrom. Wavelength
-energy|n|eV. In place of -lambda
-dispersion|n|percent. Full relative width of the wavelength
-dispsteps|i|wavelengths
-divergence|n|mrad. Horizontal and vertical divergence
-hdivrange|n|mrad. Horizontal divergence, along the E vector
-vdivrange|n|mrad. Vertical divergence
-hdivstep|n|mrad. Horizontal step
-vdivstep|n|mrad. Vertical step
-hdivsteps|i|horizontal steps
-vdivsteps|i|vertical steps
-divsteps|i|horizontal and vertical steps
-round_div||divergence cut to an ellipse (default)
-square_div||divergence on the full grid
-sourcefile*|t|text file of sources: X Y Z from the crystal, weight, wavelength in m
-polar|n|Kahn polarization factor, -1 to 1. Default: 0
-nopolar||no polarization correction
-fluence|n|photons/m^2
-flux|n|photons/s. With -exposure and -beamsize in place of -fluence
-exposure|n|s. Default: 1
-beamsize|n|mm. Default: 0.1
-phi|n|degrees. First phi
-osc*|n|degrees. Width of the image
-phistep|n|degrees. Step of phi
-phisteps|i|steps of phi
-oversample|i|sub-pixels along a pixel's edge. Default: from the size of the domain
-oversample_thick||sensor absorption at every sub-pixel
-oversample_polar||polarization at every sub-pixel
-oversample_omega||solid angle at every sub-pixel
-dmin|n|Angstrom. Nothing beyond this resolution
-water|n|micrometres of water (nanoBragg.c's figure, which is not physical)
-floatfile -floatimage|t|expected photons, raw float32. Default: floatimage.bin
-intfile -intimage|t|expected photons, scaled, SMV. Default: intimage.img
-scale|n|scale of -intfile. Default: 55000/brightest pixel
-adc*|n|added to the pixels of -intfile and -noisefile. Default: 40
-noisefile -noiseimage|t|photons with Poisson noise, SMV. Default: noiseimage.img
-nonoise||no noise image
-seed|i|seed of the noise. Default: from the time
-pgmfile -pgmimage|t|picture, PGM. Default: image.pgm
-pgmscale|n|scale of the picture. Default: from the rmsd
-nopgm||no picture
-printout||print every pixel
-printout_pixel|ii|print the pixel of this fast and slow index
-progress||progress meter (default on a terminal)
-noprogress||no progress meter
-phi_carryover_mode|t|spec (default), or c-parity: nanoBragg.c's defect at phi 0
-precision|t|double (default), mixed or single
-device|t|torch device: cpu (default), cuda, ...
-kernel|t|dense (default); sparse leaves out up to 0.001 photons of a pixel; auto: the faster
-trace_pixel|ii|print all that is computed for the pixel of this slow and fast index
-show_phil||print the parameters of nanobragg.simulate that are the same, and stop
-show_expt|t|write the models as an experiment list, and stop
-json --json||-trace_pixel as JSON
-h -help --help||print this
-version --version||print the version
"""

#: Flags of nanoBragg.c that act on nothing there, and why they are refused here.
REFUSED = {
    "-coherent": "nanoBragg.c reads it and does nothing with it: waves of different sources, phi "
    "and domains are always added incoherently",
    **dict.fromkeys(
        ("-stol", "-4stol", "-Q"),
        "nanoBragg.c reads the file and uses nothing of it: there is no scattering of amorphous "
        "material but -water",
    ),
    "-stolout": "nanoBragg.c writes no such file",
    **dict.fromkeys(
        ("-density", "-sample_den*", "-MW", "-molec*"),
        "nanoBragg.c overwrites it: no pixel depends on it",
    ),
    "-dispstep": "nanoBragg.c passes over it; give the number of wavelengths, -dispsteps",
}
#: What must not be below 0, and what must be above.
NOT_NEGATIVE = set(
    "-osc -phistep -mosaic -hdivrange -vdivrange -hdivstep -vdivstep -divergence -dispersion -dmin "
    "-water -fluence -flux -detector_abs -detector_thick -default_F -fudge -xtalsize -xtal_x "
    "-xtal_y -xtal_z -scale -pgmscale -N -Na -Nb -Nc".split()
)
POSITIVE = set(
    "-distance -close_distance -detsize -detsize_f -detsize_s -detpixels -detpixels_f "
    "-detpixels_s -pixel -lambda -energy -exposure -beamsize".split()
)
#: Words that a flag takes instead of any text.
CHOICES = {
    "-pivot": ("sample", "beam"),
    "-phi_carryover_mode": ("spec", "c-parity"),
    "-precision": ("double", "mixed", "single"),
    "-kernel": ("auto", "dense", "sparse"),
}
#: Beyond these, products and squares of numbers overflow; whole numbers are C's int.
SMALLEST, LARGEST, LARGEST_WHOLE = 1e-40, 1e40, 2**31 - 1
_NUMBER = re.compile(r"[+-]?(\d|\.\d|inf|nan)", re.IGNORECASE)


@dataclass(frozen=True)
class Flag:
    """A flag: its spellings (the first is its name), the kinds of its values, its help."""

    spellings: tuple[str, ...]
    kinds: str
    help: str

    @property
    def name(self) -> str:
        return self.spellings[0].rstrip("*")

    def spells(self, word: str) -> bool:
        """Whether a word of the command line is this flag."""
        return any(_spells(spelling, word) for spelling in self.spellings)


@dataclass(frozen=True)
class Given:
    """A flag of a command line, by its name, with its values (numbers, whole numbers, texts)."""

    name: str
    values: tuple


def _spells(spelling: str, word: str) -> bool:
    if not spelling.endswith("*"):
        return word == spelling
    stem = spelling[:-1]
    rest = word[len(stem) :].replace("_", "")
    return word == stem or (word.startswith(stem) and rest.isalpha())


def _listed() -> tuple[Flag, ...]:
    lines = [line.split("|") for line in FLAGS.strip().splitlines()]
    return tuple(Flag(tuple(words.split()), kinds, text.strip()) for words, kinds, text in lines)


ALL = _listed()


def parse(words: Sequence[str]) -> list[Given]:
    """The flags of a command line in their order; `Sorry` for anything that is none."""
    left = list(words)
    return list(_parse(left))


def _parse(left: list[str]) -> Iterator[Given]:
    while left:
        word = left.pop(0)
        flag = _flag(word)
        if flag.kinds in ("cell", "misset"):
            yield Given(flag.name, _cell(left) if flag.kinds == "cell" else _misset(left))
            continue
        if len(left) < len(flag.kinds) or any(map(_is_flag, left[: len(flag.kinds)])):
            n = len(flag.kinds)
            raise Sorry(f"{word} needs {n} value{'s' * (n > 1)}: {flag.help}")
        values = [_value(word, kind, left.pop(0)) for kind in flag.kinds]
        _check(flag.name, values)
        yield Given(flag.name, tuple(values))


def _flag(word: str) -> Flag:
    exact = [flag for flag in ALL if word in flag.spellings]
    spelled = exact or [flag for flag in ALL if flag.spells(word)]
    if spelled:
        return spelled[0]
    for spelling, reason in REFUSED.items():
        if _spells(spelling, word):
            raise Sorry(f"{word} is not supported: {reason}; leave it out")
    if not word.startswith("-"):
        raise Sorry(f"{word!r} is neither a flag nor the value of one")
    known = [spelling.rstrip("*") for flag in ALL for spelling in flag.spellings]
    if word in ("-hdiv", "-vdiv"):
        raise Sorry(
            f"the flag {word} is unknown: did you mean {word}range? nanoBragg.c knows no other"
        )
    near = difflib.get_close_matches(word, known, 1, 0.75)
    hint = f"did you mean {near[0]}?" if near else "nanobragg.classic -help lists the flags"
    raise Sorry(f"the flag {word} is unknown: {hint}")


def _is_flag(word: str) -> bool:
    return word.startswith("-") and not _NUMBER.match(word)


def _value(word: str, kind: str, text: str) -> float | int | str:
    if kind == "t":
        if not text.strip():
            raise Sorry(f"{word} {text!r}: there is nothing in it")
        return text
    try:
        number = float(text.replace("_", "?"))  # 1_0 is Python's alone
    except ValueError:
        raise Sorry(f"{word} {text}: {text!r} is no number") from None
    if math.isnan(number) or (math.isinf(number) and not word.startswith("-detector_abs")):
        raise Sorry(f"{word} {text}: give a finite number")
    if kind == "n":
        if number and not SMALLEST <= abs(number) <= LARGEST and math.isfinite(number):
            raise Sorry(f"{word} {text}: give 0, or {SMALLEST:g} to {LARGEST:g}")
        return number
    if number != int(number) or abs(number) > LARGEST_WHOLE:
        raise Sorry(f"{word} {text}: give a whole number of at most {LARGEST_WHOLE}")
    return int(number)


def _cell(left: list[str]) -> tuple[float, ...]:
    """1 to 6 positive numbers."""
    values: list[float] = []
    while left and len(values) < 6 and not _is_flag(left[0]):
        values.append(_value("-cell", "n", left.pop(0)))
    if not values:
        raise Sorry("-cell needs 1 to 6 values: a b c (Angstrom) alpha beta gamma (degrees)")
    if min(values) <= 0:
        raise Sorry(f"-cell {' '.join(f'{v:g}' for v in values)}: lengths and angles are positive")
    return tuple(values)


def _misset(left: list[str]) -> tuple:
    """Three numbers, or nothing for `random`."""
    if left and left[0].startswith("rand"):
        left.pop(0)
        return ()
    if len(left) < 3 or any(map(_is_flag, left[:3])):
        raise Sorry("-misset needs 3 values (degrees about x, y, z), or random")
    return tuple(_value("-misset", "n", left.pop(0)) for _ in range(3))


def _check(name: str, values: list) -> None:
    """`Sorry` for a value that the flag cannot have."""
    if name in CHOICES and values[0] not in CHOICES[name]:
        raise Sorry(f"{name} {values[0]}: choose from {', '.join(CHOICES[name])}")
    if name in POSITIVE and values[0] <= 0:
        raise Sorry(f"{name} {values[0]:g}: it must be positive")
    if name in NOT_NEGATIVE and values[0] < 0:
        raise Sorry(f"{name} {values[0]:g}: it must not be negative")
    if name == "-polar" and not -1 <= values[0] <= 1:
        raise Sorry(f"-polar {values[0]:g}: the Kahn polarization factor is from -1 to 1")


#: What a kind of value is called in the help.
VALUES = {"cell": "a b c al be ga", "misset": "x y z", "": ""}


def usage() -> str:
    """Every flag, its values and its help."""
    lines = [
        "usage: nanobragg.classic -mat auto.mat -hkl Fs.hkl [flags]",
        "",
        "n: a number, i: a whole number, t: a text; spellings that end in ... may go on.",
        "",
    ]
    for flag in ALL:
        names = ", ".join(spelling.replace("*", "...") for spelling in flag.spellings)
        values = VALUES.get(flag.kinds, " ".join(flag.kinds))
        head = f"  {names} {values}".rstrip()
        text = textwrap.wrap(flag.help, 66)
        if len(head) > 30:
            lines.append(head)
            head = ""
        lines += [f"{start:32}{part}" for start, part in zip([head, *[""] * len(text)], text)]
    return "\n".join(lines)
