"""-trace_pixel, -json and -printout of nanobragg.classic."""

from __future__ import annotations

import json

import classic_helpers as classic
import golden
import numpy as np
import pytest

pytest.importorskip("dxtbx")

import nanobragg_plugin

CASE = golden.cases()["phi_from_zero"]
#: What nanoBragg.c (455534a) prints of the case with -printout_pixel 30 40: fast, slow.
PRINTED = """\
  30   40 : stol = 4.0294e+08 or 0.040294
at 0.1 0.003225 -0.007225
hkl= 3.035476 1.440085 -2.629859  hkl0= 3 1 -3
 F_cell=249.845  F_latt=0.943147   I = 6.37568e+07
I/steps     199240.1328
polar       0.996516379
omega   1.583307779e-05
capfrac               1
pixel       3.143595219
real-space cell vectors (Angstrom):
     a           b           c
X: 63.84621969 -35.85200745 14.52417389
Y: 38.05998552 69.31700638  0.89516354
Z: -27.05379334 12.90721457 35.53599661"""


def run(*more: str) -> classic.Outcome:
    CASE.place_files()
    parity = ("-phi_carryover_mode", "c-parity", "-nonoise", "-nopgm")
    return classic.run(*CASE.words, *parity, *more)


def test_printout_of_a_pixel_is_nanobragg_cs(tmp_cwd):
    """But for the last digits of the pixel, which there is rounded to float32."""
    lines = run("-printout_pixel", "30", "40").stdout.splitlines()
    start = next(i for i, line in enumerate(lines) if " : stol = " in line)
    expected = PRINTED.splitlines()
    found = lines[start : start + len(expected)]
    at = next(i for i, line in enumerate(expected) if line.startswith("pixel"))
    theirs, ours = (float(part[at].split()[1]) for part in (expected, found))
    assert ours == pytest.approx(theirs, rel=6e-8)
    del found[at], expected[at]
    assert [line.rstrip() for line in found] == expected
    assert sum(" : stol = " in line for line in lines) == 1


def test_printout_of_all_pixels_is_of_those_simulated(tmp_cwd):
    printed = run("-printout", "-roi", "30", "31", "40", "42").stdout.splitlines()
    heads = [line.split(" : ")[0].split() for line in printed if " : stol = " in line]
    assert heads == [[str(fast), str(slow)] for slow in (40, 41, 42) for fast in (30, 31)]
    assert not any(" : stol = " in line for line in run().stdout.splitlines())


def test_trace_as_text_and_as_json(tmp_cwd):
    """The image is simulated as well; with -json nothing else is on standard output."""
    text = run("-trace_pixel", "40", "30")
    image = np.frombuffer(text.files[golden.FLOAT], "<f4").reshape(CASE.shape)
    assert f"photons_float32         {image[40, 30]:.12g}  photons" in text.stdout
    traced = json.loads(run("-trace_pixel", "40", "30", "-json").stdout)
    assert traced == json.loads(run("-trace_pixel", "40", "30", "--json").stdout)
    assert traced["sums"]["photons_float32"] == image[40, 30]
    last = traced["samples"][-1]["sources"][-1]["steps"][-1]["domains"][-1]
    assert last["h0k0l0"] == [3, 1, -3]  # as PRINTED


@pytest.mark.parametrize(
    "words, message",
    [
        ("-trace_pixel 96 0", "-trace_pixel: the pixel of slow 96 and fast 0 is not simulated"),
        ("-printout_pixel 0 96", "-printout_pixel: the pixel of slow 96 and fast 0 is not"),
        ("-trace_pixel 40 30 -roi 0 9 0 9", "slow 0 to 9 and fast 0 to 9"),
        ("-printout -detpixels 200", "-printout prints 10000 pixels at most"),
    ],
)
def test_refused(words, message, tmp_cwd):
    CASE.place_files()
    assert message in classic.refused(*CASE.words, *words.split())


def test_help_and_version(tmp_cwd):
    for word in ("-h", "-help", "--help"):
        assert classic.run(word).stdout.startswith("usage: nanobragg.classic")
    for word in ("-version", "--version"):
        assert classic.run(word).stdout.split()[1] == nanobragg_plugin.__version__
