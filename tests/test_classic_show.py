# ruff: noqa: E402
"""nanobragg.simulate on what nanobragg.classic -show_phil -show_expt writes makes the same image.

Expected values: nanoBragg.c's images (`data/golden`, `data/golden_more`), and dxtbx's own masks.
"""

from __future__ import annotations

import re
from pathlib import Path

import golden
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("dials")

import simulate_helpers as sim
from dxtbx.model import Experiment, Scan
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from libtbx.phil import parse

from nanobragg_plugin.adapters import models
from nanobragg_plugin.adapters.classic import exact
from nanobragg_plugin.adapters.classic.phil import phil_of
from nanobragg_plugin.adapters.classic.translate import translate
from nanobragg_plugin.adapters.params import master_scope
from nanobragg_plugin.command_line import classic as command

CASES = golden.cases()
#: c-parity: where the carryover shows, and every second of the other cases, but for the one that
#: takes as long as thirty of them.
PARITY = [name for name, case in CASES.items() if "c-parity" in case.modes]
CARRYOVER = [name for name in PARITY if CASES[name].spec_differs > 1e-3]
OTHERS = [name for name in PARITY if name not in (*CARRYOVER, "xtalsize")]
RUNS = [
    *((name, "spec") for name in CASES),
    *((name, "c-parity") for name in (*CARRYOVER, *OTHERS[::2])),
]
#: Of the maximum. Measured worst case 3e-15: both are float32, whose rounding is 6e-8.
TOLERANCE = 1e-7
#: Cases with what dxtbx's models do not hold: the words that say so, and the largest difference
#: that it makes, of the maximum (measured, a little rounded up).
NOT_HELD = {
    # fast and slow, rounded to five digits, are 1.3e-6 off the right angle
    "vectors_five_digits": ("-sdet_vector, which are not at right angles", 1.2e-4),
    # the E vector is 1.6 degrees off the right angle: the beam diverges along and across it
    "div_tilted_beam": ("-polar_vector, which is not at right angles to the beam", 1.7e-3),
}


def shown(words: list[str] | tuple[str, ...], capsys: pytest.CaptureFixture) -> str:
    """What the command prints of a command line; the models are in models.expt."""
    capsys.readouterr()
    command.run([*words, "-show_phil", "-show_expt", "models.expt"])
    return capsys.readouterr().out


def simulated(text: str) -> np.ndarray:
    """Photons [slow, fast] of nanobragg.simulate on what was shown."""
    Path("shown.phil").write_text(text)
    sim.simulate("models.expt", "shown.phil", "noise.poisson=False", "output.overwrite=True")
    (image,) = sim.pixels()
    return image.astype(float)


def classic(*words: str) -> np.ndarray:
    """Photons, as they lie in classic's -floatfile."""
    command.run([*words, "-nonoise", "-nopgm"])
    return np.fromfile(golden.FLOAT, "<f4").astype(float)


def warnings_of(text: str) -> list[str]:
    """What the models do not hold."""
    return re.findall(r"^# WARNING: the models do not hold (.*)$", text, re.MULTILINE)


@pytest.mark.parametrize("name, mode", RUNS)
def test_the_image_is_nanobragg_c_s(name, mode, tmp_cwd, capsys):
    case = CASES[name]
    case.place_files()
    text = shown([*case.words, "-phi_carryover_mode", mode], capsys)
    assert "# wrote models.expt, the models\n" in text
    words, difference = NOT_HELD.get(name, ("", 0.0))
    assert [words in warning for warning in warnings_of(text)] == ([True] if words else [])
    expected = case.expected(mode).astype(float)
    found = np.abs(simulated(text) - expected).max() / expected.max()
    assert found <= difference + TOLERANCE
    assert not difference or found > difference / 2


# ---- beyond the reference images: command lines against classic's own image

SMALL = (
    "-cell 50 60 70 80 95 100 -misset 10 20 30 -default_F 50 -N 4 -lambda 1.1 -distance 60 "
    "-pixel 0.9 -detpixels_x 14 -detpixels_y 11 -oversample 1 -nointerpolate -polar 0.9"
).split()
TILTED = "-fdet_vector 0 0 1 -sdet_vector 0 -1 0 -odet_vector 0.96 0.28 0".split()


@pytest.mark.parametrize(
    "flags, words",
    [
        (["-curved_det", "-xds"], "-curved_det of a beam that is not along x"),
        (TILTED, "-odet_vector, which is not the detector's normal"),
        (
            "-spindle_axis 0 0 1 -twotheta_axis 0.6 0.795 0 -twotheta 20".split(),
            "the lengths of the detector's vectors",
        ),
        (
            "-polar_vector 0.1 0 1 -vdivrange 60 -vdivsteps 3".split(),
            "-polar_vector, which is not at right angles",
        ),
    ],
)
def test_what_the_models_do_not_hold_is_said(flags, words, tmp_cwd, capsys):
    """And is true: the image is another one."""
    text = shown([*SMALL, *flags], capsys)
    assert any(words in warning for warning in warnings_of(text))
    expected = classic(*SMALL, *flags)
    assert np.abs(simulated(text).ravel() - expected).max() > 1e-5 * expected.max()


def test_a_curved_detector_of_another_convention_is_shown_flat(tmp_cwd, capsys):
    text = shown([*SMALL, "-curved_det", "-xds"], capsys)
    expected = classic(*SMALL, "-xds")
    assert np.abs(simulated(text).ravel() - expected).max() <= TOLERANCE * expected.max()


@pytest.mark.parametrize(
    "flags",
    [
        "-misset random -seed 5",
        "-mosaic 0.5 -phi 3 -osc 1 -phisteps 2 -exposure 0.2 -flux 1e15",
        "-roi 2 9 3 8 -dials -twotheta 10",
        "-denzo -curved_det -detector_roty 4",
        "-precision single",
        "-water 3 -phi 5 -phisteps 4 -osc 0 -fluence 1e24",
        "-tophat_spots -kernel sparse",
        "-kernel sparse -phi -1 -osc 2 -phisteps 2 -phi_carryover_mode c-parity -fluence 1e27",
        "-kernel auto -round_xtal -mosaic 0.5 -mosaic_domains 3",
        "-polar_vector 0.1 0 1 -dispersion 2 -hdivrange 60",
    ],
)
def test_more_command_lines(flags, tmp_cwd, capsys):
    """Measured worst case 0."""
    words = [*SMALL, *flags.split()]
    text = shown(words, capsys)
    assert not warnings_of(text)
    expected = classic(*words)
    assert expected.max() > 0
    assert np.abs(simulated(text).ravel() - expected).max() <= TOLERANCE * expected.max()


@pytest.mark.parametrize("name", ["my file", "a#b;{c}", "it's", 'a"b', "$a $(b)", "back\\"])
def test_files_of_any_name(name, tmp_cwd, capsys):
    Path(f"{name}.hkl").write_text("".join(f"{h} 0 1 {50 + h}\n" for h in range(-3, 4)))
    Path(name).write_text("-10 0 0.05 1 1.1e-10\n-10 0.05 0 2 1.12e-10\n")
    words = [*SMALL, "-hkl", f"{name}.hkl", "-sourcefile", name]
    text = shown(words, capsys)
    expected = classic(*words)
    assert np.abs(simulated(text).ravel() - expected).max() <= TOLERANCE * expected.max()
    plain = classic(*SMALL)
    assert np.abs(expected - plain).max() > 0.1 * plain.max()


def test_phil_alone_and_models_alone(tmp_cwd, capsys):
    command.run([*SMALL, "-show_phil"])
    alone = capsys.readouterr().out
    assert not Path("models.expt").exists() and "crystal.Ncells_abc=4,4,4" in alone
    hint = "# the models, -cell, -distance and so on, are written by -show_expt FILE\n"
    assert alone.endswith(hint)
    without = shown(SMALL, capsys).replace("# wrote models.expt, the models\n", "")
    assert without + hint == alone
    command.run([*SMALL, "-show_expt", "other.expt"])
    assert "crystal." not in capsys.readouterr().out
    assert sim.load("other.expt")[0].crystal == sim.load("models.expt")[0].crystal
    assert not Path(golden.FLOAT).exists()


SCOPE = master_scope()
DEGREES = st.integers(1, 30000).map(lambda n: n / 10000)


@settings(max_examples=60)
@given(step=DEGREES, steps=st.integers(1, 20), zero=st.integers(0, 20), given_step=st.booleans())
def test_phi_that_is_0_stays_0(step, steps, zero, given_step):
    """Whether phi is exactly 0 decides about the carryover; dxtbx's scan is in degrees."""
    flags = f"-phi {-step * min(zero, steps - 1)!r} -osc {step * steps!r} -phisteps {steps}".split()
    t = translate([*SMALL, *flags, *(["-phistep", repr(step)] if given_step else [])])
    expected = [t.settings.phi + t.phi.step * k for k in range(steps)]
    sampling = SCOPE.fetch(parse("\n".join(phil_of(t)))).extract().sampling
    scan = Scan.from_dict(exact.experiment_of(t).scan.to_dict())
    found = models.exposure(scan, 0, sampling.phisteps, "start", sampling.phistep_deg).phi
    assert [phi == 0 for phi in found] == [phi == 0 for phi in expected]
    assert found == pytest.approx(expected, abs=1e-15)


# ---- masks


@given(bad=arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_rectangles_of_a_mask(bad):
    """They cover each bad pixel once and nothing else; dxtbx's mask of them is the mask."""
    covered = np.zeros(bad.shape, int)
    found = exact.rectangles(bad)
    for slow, first_fast, end_fast, rows in found:
        assert 0 <= slow < slow + rows <= len(bad)
        assert 0 <= first_fast < end_fast <= bad.shape[1]
        covered[slow : slow + rows, first_fast:end_fast] += 1
    assert np.array_equal(covered, bad.astype(int))
    detector = sim.detector()
    detector[0].set_image_size(bad.shape[::-1])
    (panel,) = exact.with_mask(Experiment(detector=detector), ~bad).detector
    assert np.array_equal(panel.get_untrusted_rectangle_mask().as_numpy_array(), ~bad)


def test_rectangles_are_joined_where_rows_repeat_them():
    bad = np.zeros((40, 60), bool)
    bad[5:30, 10:20] = bad[:, 40] = True
    assert sorted(exact.rectangles(bad)) == [(0, 40, 41, 40), (5, 10, 20, 25)]
