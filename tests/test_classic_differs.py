"""Warnings where an image is nanoBragg.c's though not physical, or is not nanoBragg.c's."""

from __future__ import annotations

import classic_helpers as classic
import pytest

pytest.importorskip("dxtbx")

ROTATION = "-default_F 9 -phi 0 -osc 1 -phisteps 2"
#: Flags, and what is said of them.
SAID = {
    ROTATION: "phi is exactly 0, as it is at step 1 of 2: its image is another",
    "-default_F 9 -phi -0.5 -osc 1 -phisteps 4": "as it is at step 3 of 4",
    "-default_F 9 -oversample_polar": "-oversample_polar: nanoBragg.c multiplies the sum",
    "-default_F 9 -oversample_omega": "-oversample_omega: nanoBragg.c multiplies the sum",
    "-default_F 9 -oversample_thick -detector_thick 100": "-oversample_thick: nanoBragg.c",
    "-default_F 9 -oversample_thick": "nanoBragg.c's image is 0",
    "-default_F 9 -nopolar -oversample_polar": "in spite of -nopolar",
    "-default_F 9 -water 1": "is not physical",
    "-default_F 9 -curved_det": "passes over a -curved_det that is its last word",
    "-default_F 9 -odet_vector 1 0 0.1": "-odet_vector is 1.00498756, not exactly 1",
    "-default_F 9 -odet_vector 0.6 0.8 0": "-odet_vector is not the normal",
    "-default_F 9 -sdet_vector 0 1 0 -odet_vector 1 0 0.1": "is upstream of the crystal",
    "-default_F 9 -sourcefile weights.txt": "does not use weights of -sourcefile",
}
#: Flags of which nothing is said: the usual, and those whose image is nanoBragg.c's after all.
SILENT = (
    f"{ROTATION} -phi_carryover_mode c-parity",
    "-default_F 9 -phi 0 -osc 1 -phisteps 1",
    "-default_F 9 -phi 0.1 -osc 1 -phisteps 4",
    "-default_F 9 -curved_det -nopgm",
    "-default_F 9 -odet_vector 1 0 0",
    "-default_F 9 -sourcefile even.txt",
)


@pytest.fixture
def printed(tmp_cwd):
    classic.place_inputs()
    (tmp_cwd / "weights.txt").write_text("-1 0 0 1\n-1 0 0.01 3\n")
    (tmp_cwd / "even.txt").write_text("-1 0 0 2\n-1 0 0.01 2\n")
    enough = "-oversample 6 -mosaic 0 -detector_thick 0"  # nothing else to be warned of
    return lambda words: classic.run(*classic.words(f"{enough} {words}")).stdout


@pytest.mark.parametrize("words", SAID)
def test_said(words, printed):
    (line,) = (line for line in printed(words).splitlines() if SAID[words] in line)
    assert line.startswith("WARNING: ")


@pytest.mark.parametrize("words", SILENT)
def test_silent(words, printed):
    assert "WARNING" not in printed(words)
