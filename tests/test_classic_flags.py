# ruff: noqa: E402
"""Every flag of nanoBragg.c's command line is understood, in all its spellings, or refused.

A flag that is added to adapters/classic/flags.py without an entry here fails a test.
"""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("dials")

from hypothesis import given
from hypothesis import strategies as st
from libtbx.utils import Sorry

from nanobragg_plugin.adapters.classic import flags

#: Flag -> every string that nanoBragg.c's parser looks for in the words of the command line
#: (upstream, commit 455534a, the calls of strstr and strcmp), and longer words that hold one.
SPELLINGS = {
    "-mat": "-mat -matrix",
    "-cell": "-cell",
    "-misset": "-misset",
    "-misset_seed": "-misset_seed",
    "-hkl": "-hkl -hklfile",
    "-default_F": "-default_F",
    "-dump": "-dump -dumpfile",
    "-interpolate": "-interpolate",
    "-nointerpolate": "-nointerpolate",
    "-Na": "-Na",
    "-Nb": "-Nb",
    "-Nc": "-Nc",
    "-N": "-N",
    "-xtalsize": "-xtalsize -xtal_size -samplesize -sample_size",
    "-xtal_x": "-xtal_x -xtal_thick -xtal_thickness -sample_x -sample_thick -sample_thickness",
    "-xtal_y": "-xtal_y -xtal_width -sample_y -sample_width -width",
    "-xtal_z": "-xtal_z -xtal_heigh -xtal_height -sample_z -sample_heigh -sample_height -heigh "
    "-height",
    "-square_xtal": "-square_xtal",
    "-round_xtal": "-round_xtal",
    "-gauss_xtal": "-gauss_xtal",
    "-tophat_spots": "-tophat_spots -binary_spots",
    "-fudge": "-fudge",
    "-mosaic": "-mosaic -mosaici -mosaicity -mosaic_spr -mosaic_spread",
    "-mosaic_dom": "-mosaic_dom -mosaic_domains",
    "-mosaic_seed": "-mosaic_seed",
    "-distance": "-distance",
    "-close_distance": "-close_distance",
    "-detsize": "-detsize",
    "-detsize_f": "-detsize_f",
    "-detsize_s": "-detsize_s",
    "-detpixels": "-detpixels",
    "-detpixels_f": "-detpixels_f -detpixels_x",
    "-detpixels_s": "-detpixels_s -detpixels_y",
    "-pixel": "-pixel -pixel_size",
    "-point_pixel": "-point_pixel",
    "-curved_det": "-curved_det -curved_detector",
    "-img": "-img -imgfile",
    "-mask": "-mask -maskfile",
    "-roi": "-roi",
    "-detector_abs": "-detector_abs -detector_absorb",
    "-detector_thick": "-detector_thick",
    "-detector_thicksteps": "-detector_thicksteps -thicksteps",
    "-Xbeam": "-Xbeam",
    "-Ybeam": "-Ybeam",
    "-Xclose": "-Xclose",
    "-Yclose": "-Yclose",
    "-ORGX": "-ORGX",
    "-ORGY": "-ORGY",
    "-pivot": "-pivot",
    "-mosflm": "-mosflm",
    "-xds": "-xds",
    "-adxv": "-adxv",
    "-denzo": "-denzo",
    "-dials": "-dials",
    "-fdet_vector": "-fdet_vector",
    "-sdet_vector": "-sdet_vector",
    "-odet_vector": "-odet_vector",
    "-beam_vector": "-beam_vector",
    "-polar_vector": "-polar_vector",
    "-spindle_axis": "-spindle_axis",
    "-twotheta_axis": "-twotheta_axis",
    "-pix0_vector": "-pix0_vector",
    "-twotheta": "-twotheta",
    "-detector_rotx": "-detector_rotx",
    "-detector_roty": "-detector_roty",
    "-detector_rotz": "-detector_rotz",
    "-lambda": "-lambda -wave -wavelength",
    "-energy": "-energy",
    "-dispersion": "-dispersion",
    "-dispsteps": "-dispsteps",
    "-divergence": "-divergence",
    "-hdivrange": "-hdivrange",
    "-vdivrange": "-vdivrange",
    "-hdivstep": "-hdivstep",
    "-vdivstep": "-vdivstep",
    "-hdivsteps": "-hdivsteps",
    "-vdivsteps": "-vdivsteps",
    "-divsteps": "-divsteps",
    "-round_div": "-round_div",
    "-square_div": "-square_div",
    "-sourcefile": "-sourcefile",
    "-polar": "-polar",
    "-nopolar": "-nopolar",
    "-fluence": "-fluence",
    "-flux": "-flux",
    "-exposure": "-exposure",
    "-beamsize": "-beamsize",
    "-phi": "-phi",
    "-osc": "-osc -oscillation -osc_range",
    "-phistep": "-phistep",
    "-phisteps": "-phisteps",
    "-oversample": "-oversample",
    "-oversample_thick": "-oversample_thick",
    "-oversample_polar": "-oversample_polar",
    "-oversample_omega": "-oversample_omega",
    "-dmin": "-dmin",
    "-water": "-water",
    "-floatfile": "-floatfile -floatimage",
    "-intfile": "-intfile -intimage",
    "-scale": "-scale",
    "-adc": "-adc -adc_offset",
    "-noisefile": "-noisefile -noiseimage",
    "-nonoise": "-nonoise",
    "-seed": "-seed",
    "-pgmfile": "-pgmfile -pgmimage",
    "-pgmscale": "-pgmscale",
    "-nopgm": "-nopgm",
    "-printout": "-printout",
    "-printout_pixel": "-printout_pixel",
    "-progress": "-progress",
    "-noprogress": "-noprogress",
}
#: Words of its parser and its usage text that are refused, for they do nothing there.
REFUSED = (
    "-coherent -stol -4stol -Q -stolout -density -sample_den -sample_density -MW -molec "
    "-molecular_weight -dispstep"
)
#: What this program adds.
ADDED = set(
    "-pix0_vector_mm -phi_carryover_mode -precision -device -kernel -trace_pixel -show_phil "
    "-show_expt -json -h -version".split()
)
#: A value of each kind that every flag of that kind takes.
VALUES = {"n": "0.5", "i": "3", "t": "name"}
TEXTS = {name: choices[0] for name, choices in flags.CHOICES.items()}


def values_of(flag: flags.Flag) -> list[str]:
    if flag.kinds in ("cell", "misset"):
        return ["40", "50", "60"]
    return [TEXTS.get(flag.name, VALUES[kind]) for kind in flag.kinds]


@pytest.mark.parametrize("flag", flags.ALL, ids=lambda flag: flag.name)
def test_every_spelling_is_understood(flag: flags.Flag) -> None:
    spellings = SPELLINGS.get(flag.name)
    assert (spellings is None) == (flag.name in ADDED)
    given = values_of(flag)
    for word in (spellings or flag.name).split():
        (found,) = flags.parse([word, *given])
        assert found.name == flag.name and len(found.values) == len(given)


def test_every_flag_is_listed() -> None:
    assert {flag.name for flag in flags.ALL} == ADDED | set(SPELLINGS)


@pytest.mark.parametrize("word", REFUSED.split())
def test_what_does_nothing_in_nanobragg_c_is_refused(word: str) -> None:
    with pytest.raises(Sorry, match=f"{word} is not supported: .{{20,}}; leave it out"):
        flags.parse([word, "1"])


def test_usage_lists_every_flag_with_its_help() -> None:
    text = flags.usage()
    assert max(map(len, text.splitlines())) <= 100
    words = " ".join(text.split())
    for flag in flags.ALL:
        assert len(flag.help) > 5
        names = ", ".join(spelling.replace("*", "...") for spelling in flag.spellings)
        assert f"  {names}" in text and flag.help in words


@pytest.mark.parametrize(
    "words, message",
    [
        ("-lamda 1", "the flag -lamda is unknown: did you mean -lambda?"),
        ("-Xbem 3", "did you mean -Xbeam?"),
        ("-qwertz", "nanobragg.classic -help lists the flags"),
        ("-detector_thickness 3", "the flag -detector_thickness is unknown: did you mean"),
        ("-", "the flag - is unknown"),
        ("stray", "'stray' is neither a flag nor the value of one"),
        ("-phi 1 2", "'2' is neither"),
        ("-point_pixel 3", "'3' is neither"),
        ("-cell 30 40 50 60 70 80 90", "'90' is neither"),
        ("-roi 0 5 0 5 6", "'6' is neither"),
        ("-phi", "-phi needs 1 value: degrees"),
        ("-phi -osc 1", "-phi needs 1 value: degrees"),
        ("-roi 0 3 0", "-roi needs 4 values: first and last"),
        ("-floatfile -intfile a", "-floatfile needs 1 value"),
        ("-misset 1 2", "-misset needs 3 values"),
        ("-misset foo", "-misset needs 3 values .*, or random"),
        ("-cell", "-cell needs 1 to 6 values"),
        ("-osc x", "-osc x: 'x' is no number"),
        ("-phi 0x10", "'0x10' is no number"),
        ("-phi 1_0", "'1_0' is no number"),
        ("-misset 1 2 x", "'x' is no number"),
        ("-osc nan", "-osc nan: give a finite number"),
        ("-phi inf", "-phi inf: give a finite number"),
        ("-phi -inf", "-phi -inf: give a finite number"),
        ("-detector_abs nan", "give a finite number"),
        ("-detector_abs -inf", "-detector_abs -inf: it must not be negative"),
        ("-phisteps 1e400", "give a finite number"),
        ("-N 4.9", "-N 4.9: give a whole number"),
        ("-seed 99999999999", "give a whole number of at most 2147483647"),
        ("-roi 1e30 1e31 0 5", "-roi 1e30: give a whole number"),
        ("-fluence 1e300", r"-fluence 1e300: give 0, or 1e-40 to 1e\+40"),
        ("-beamsize 1e-300", "-beamsize 1e-300: give 0, or 1e-40"),
        ("-cell 40 -50", "-cell 40 -50: lengths and angles are positive"),
        ("-cell 40 40 40 0 90 90", "lengths and angles are positive"),
        ("-polar 2", "-polar 2: the Kahn polarization factor is from -1 to 1"),
        ("-pivot foo", "-pivot foo: choose from sample, beam"),
        ("-phi_carryover_mode x", "choose from spec, c-parity"),
        ("-precision quad", "choose from double, mixed, single"),
        *[(f"{flag} 0", f"{flag} 0: it must be positive") for flag in sorted(flags.POSITIVE)],
        *[(f"{f} -1", f"{f} -1: it must not be negative") for f in sorted(flags.NOT_NEGATIVE)],
    ],
)
def test_wrong_words_are_refused(words: str, message: str) -> None:
    with pytest.raises(Sorry, match=message) as caught:
        flags.parse(words.split())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("flag", [f for f in flags.ALL if f.kinds == "t"], ids=lambda f: f.name)
@pytest.mark.parametrize("empty", ["", " "])
def test_an_empty_text_is_refused(flag: flags.Flag, empty: str) -> None:
    with pytest.raises(Sorry, match=f"{flag.name} {empty!r}: there is nothing in it"):
        flags.parse([flag.name, empty])


def test_negative_numbers_are_values() -> None:
    """-.5 and -1e-3 are no flags."""
    (phi, misset, roi) = flags.parse("-phi -.5 -misset -1e-3 -2 +3 -roi -1 -1 -1 -1".split())
    assert phi.values == (-0.5,)
    assert misset.values == (-0.001, -2.0, 3.0)
    assert roi.values == (-1, -1, -1, -1)


WORDS = st.one_of(
    st.sampled_from([s.rstrip("*") for flag in flags.ALL for s in flag.spellings]),
    st.floats().map(str),
    st.integers().map(str),
    st.text(max_size=6),
)


@given(st.lists(WORDS, max_size=8))
def test_any_words_are_understood_or_refused(words: list[str]) -> None:
    """Nothing else is raised, and no number that is not finite comes through."""
    try:
        found = flags.parse(words)
    except Sorry as error:
        assert str(error)
        return
    for one in found:
        numbers = [value for value in one.values if isinstance(value, float)]
        assert one.name == "-detector_abs" or all(map(math.isfinite, numbers))
