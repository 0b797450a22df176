# ruff: noqa: E402
"""Every flag of nanobragg.classic acts, each within a run where it should, or is warned of.

A flag that is added to adapters/classic/flags.py without an entry here fails a test.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("dials")

import classic_helpers as classic

from nanobragg_plugin.adapters.classic import flags


@dataclass(frozen=True)
class Act:
    """A flag acts: `change` alters `what` of a run with BASE, without some of its flags (`drop`)
    and with those of `base`.

    what: the end of a file's name (bin, float photons, changes the others too), files (which ones
    are made), stdout, stderr; refused (the change ends in a Sorry).
    """

    change: str
    base: str = ""
    what: str = "bin"
    drop: str = ""


#: Vectors of one's own begin from these, mosflm's.
CUSTOM = "-odet_vector 1 0 0"
SENSOR = "-detector_thick 300 -detector_abs 300"
SQUARE = "-divergence 10 -divsteps 4"
FLUX = "-flux 1e12"

ACTS = {
    "-mat": Act("-mat A.mat"),
    "-cell": Act("-cell 31 40 50 80 95 100"),
    "-misset": Act("-misset 11 20 30"),
    "-misset_seed": Act("-misset_seed 5", "-misset random"),
    "-hkl": Act("-hkl other.hkl"),
    "-default_F": Act("-default_F 50"),
    "-dump": Act("-dump F.bin", what="files"),
    "-interpolate": Act("-interpolate"),
    "-nointerpolate": Act("-nointerpolate", "-interpolate"),
    "-Na": Act("-Na 4"),
    "-Nb": Act("-Nb 4"),
    "-Nc": Act("-Nc 4"),
    "-N": Act("-N 4"),
    "-xtalsize": Act("-xtalsize 0.00002"),
    "-xtal_x": Act("-xtal_x 0.00002"),
    "-xtal_y": Act("-xtal_y 0.00002"),
    "-xtal_z": Act("-xtal_z 0.00002"),
    "-square_xtal": Act("-square_xtal", "-round_xtal"),
    "-round_xtal": Act("-round_xtal"),
    "-gauss_xtal": Act("-gauss_xtal"),
    "-tophat_spots": Act("-tophat_spots"),
    "-fudge": Act("-fudge 2", "-round_xtal"),
    "-mosaic": Act("-mosaic 1"),
    "-mosaic_dom": Act("-mosaic_domains 3", "-mosaic 1 -mosaic_domains 2"),
    "-mosaic_seed": Act("-mosaic_seed 5", "-mosaic 1"),
    "-distance": Act("-distance 41"),
    "-close_distance": Act("-close_distance 39"),
    "-detsize": Act("-detsize 5", drop="-detpixels_f -detpixels_s"),
    "-detsize_f": Act("-detsize_f 5", "-detsize 6", drop="-detpixels_f -detpixels_s"),
    "-detsize_s": Act("-detsize_s 5", "-detsize 6", drop="-detpixels_f -detpixels_s"),
    "-detpixels": Act("-detpixels 11"),
    "-detpixels_f": Act("-detpixels_f 11"),
    "-detpixels_s": Act("-detpixels_s 9"),
    "-pixel": Act("-pixel 0.4"),
    "-point_pixel": Act("-point_pixel"),
    "-curved_det": Act("-curved_det"),
    "-img": Act("-img header.img", drop="-distance"),
    "-mask": Act("-mask mask.img"),
    "-roi": Act("-roi 2 9 1 8"),
    "-detector_abs": Act("-detector_abs 200", SENSOR),
    "-detector_thick": Act("-detector_thick 300"),
    "-detector_thicksteps": Act("-detector_thicksteps 4", SENSOR),
    "-Xbeam": Act("-Xbeam 3"),
    "-Ybeam": Act("-Ybeam 2.5"),
    "-Xclose": Act("-Xclose 2.5", CUSTOM),
    "-Yclose": Act("-Yclose 3", CUSTOM),
    "-ORGX": Act("-ORGX 5", "-xds"),
    "-ORGY": Act("-ORGY 7", "-xds"),
    "-pivot": Act("-pivot sample", f"{CUSTOM} -detector_roty 10"),
    "-mosflm": Act("-mosflm", "-xds"),
    "-xds": Act("-xds"),
    "-adxv": Act("-adxv"),
    "-denzo": Act("-denzo"),
    "-dials": Act("-dials"),
    "-fdet_vector": Act("-fdet_vector 0 0 -1", CUSTOM),
    "-sdet_vector": Act("-sdet_vector 0 1 0", CUSTOM),
    "-odet_vector": Act("-odet_vector -1 0 0", CUSTOM),
    "-beam_vector": Act("-beam_vector 1 0.02 0", CUSTOM),
    "-polar_vector": Act("-polar_vector 0 1 0", f"{CUSTOM} -polar 0.9"),
    "-spindle_axis": Act("-spindle_axis 0 1 0", f"{CUSTOM} -phi 10"),
    "-twotheta_axis": Act("-twotheta_axis 0 0 -1 -twotheta 5", f"{CUSTOM} -twotheta 5"),
    "-pix0_vector": Act("-pix0_vector 0.04 0.003 -0.003", CUSTOM),
    "-pix0_vector_mm": Act("-pix0_vector_mm 40 3 -3", CUSTOM),
    "-twotheta": Act("-twotheta 5"),
    "-detector_rotx": Act("-detector_rotx 5"),
    "-detector_roty": Act("-detector_roty 5"),
    "-detector_rotz": Act("-detector_rotz 5"),
    "-lambda": Act("-lambda 1.1"),
    "-energy": Act("-energy 12000"),
    "-dispersion": Act("-dispersion 5"),
    "-dispsteps": Act("-dispsteps 4", "-dispersion 5"),
    "-divergence": Act("-divergence 10"),
    "-hdivrange": Act("-hdivrange 10"),
    "-vdivrange": Act("-vdivrange 10"),
    "-hdivstep": Act("-hdivstep 2.5", "-hdivrange 10"),
    "-vdivstep": Act("-vdivstep 2.5", "-vdivrange 10"),
    "-hdivsteps": Act("-hdivsteps 3", "-hdivrange 10"),
    "-vdivsteps": Act("-vdivsteps 3", "-vdivrange 10"),
    "-divsteps": Act("-divsteps 3", "-divergence 10"),
    "-round_div": Act("-round_div", f"{SQUARE} -square_div"),
    "-square_div": Act("-square_div", SQUARE),
    "-sourcefile": Act("-sourcefile sources.txt"),
    "-polar": Act("-polar 0.9"),
    "-nopolar": Act("-nopolar"),
    "-fluence": Act("-fluence 1e28"),
    "-flux": Act(FLUX),
    "-exposure": Act("-exposure 2", FLUX),
    "-beamsize": Act("-beamsize 0.2", FLUX),
    "-phi": Act("-phi 5"),
    "-osc": Act("-osc 1"),
    "-phistep": Act("-phistep 0.3", "-osc 1"),
    "-phisteps": Act("-phisteps 3", "-osc 1"),
    "-oversample": Act("-oversample 2"),
    "-oversample_thick": Act("-oversample_thick", f"-oversample 2 {SENSOR}"),
    "-oversample_polar": Act("-oversample_polar", "-oversample 2"),
    "-oversample_omega": Act("-oversample_omega", "-oversample 2"),
    "-dmin": Act("-dmin 12"),
    "-water": Act("-water 50"),
    "-floatfile": Act("-floatfile f", what="files"),
    "-intfile": Act("-intfile i", what="files"),
    "-scale": Act("-scale 3", what="intimage.img"),
    "-adc": Act("-adc 10", what="noiseimage.img"),
    "-noisefile": Act("-noisefile n", what="files"),
    "-nonoise": Act("-nonoise", what="files"),
    "-seed": Act("-seed 2", what="noiseimage.img"),
    "-pgmfile": Act("-pgmfile p", what="files"),
    "-pgmscale": Act("-pgmscale 3", what="pgm"),
    "-nopgm": Act("-nopgm", what="files"),
    "-progress": Act("-progress", what="stderr"),
    "-noprogress": Act("-noprogress", "-progress", what="stderr"),
    "-phi_carryover_mode": Act("-phi_carryover_mode c-parity", "-phi -1 -osc 2 -phisteps 2"),
    "-precision": Act("-precision single"),
    "-device": Act("-device nosuch", what="refused"),
    "-kernel": Act("-kernel sparse", "-fluence 1e25"),
    "-show_phil": Act("-show_phil", what="stdout"),
    "-show_expt": Act("-show_expt models.expt", what="files"),
}
#: Tested with the trace, and those that need no run.
ELSEWHERE = {"-trace_pixel", "-json", "-printout", "-printout_pixel", "-h", "-version"}


def test_every_flag_has_an_act() -> None:
    assert set(ACTS) | ELSEWHERE == {flag.name for flag in flags.ALL}
    for name, act in ACTS.items():
        assert name in [given.name for given in flags.parse(act.change.split())]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], classic.Outcome]:
    """What a run with a change makes, in a folder of its own with all inputs; once for each."""

    @cache
    def made(change: str, drop: str = "") -> classic.Outcome:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(tmp_path_factory.mktemp("run"))
            classic.place_inputs()
            return classic.run(*classic.words(change, drop))

    return made


def seen(found: classic.Outcome, what: str) -> object:
    """What an act alters."""
    if what == "files":
        return set(found.files)
    if what in ("stdout", "stderr"):
        return getattr(found, what)
    (content,) = (content for name, content in found.files.items() if name.endswith(what))
    return content


@pytest.mark.parametrize("name", ACTS)
def test_flag_acts(name: str, outcome: Callable, tmp_cwd: Path) -> None:
    act = ACTS[name]
    before = outcome(act.base, act.drop)
    change = f"{act.base} {act.change}".strip()
    if act.what == "refused":
        classic.place_inputs()
        assert classic.refused(*classic.words(change, act.drop))
        return
    after = outcome(change, act.drop)
    assert seen(before, act.what) != seen(after, act.what)
    assert f"{name} does nothing" not in after.stdout
    if act.what not in ("bin", "files", "stdout"):  # the photons are the same
        assert seen(before, "bin") == seen(after, "bin")


def test_the_same_flags_make_the_same_files(outcome: Callable, tmp_cwd: Path) -> None:
    """So that the tests above mean what they say."""
    classic.place_inputs()
    again = classic.run(*classic.words("-fluence 125932015286227086360700780544"))
    assert again.files == outcome("").files and set(again.files) == classic.OUTPUTS


#: Flag that does nothing, and what it is in the company of; nanoBragg.c passes over it silently.
IDLE = [
    ("-fluence 1e20", "-flux 1e12"),
    ("-exposure 3", ""),
    ("-beamsize 0.3", ""),
    ("-beamsize 0.3", "-xtalsize 0.00002"),
    ("-polar 0.5", "-nopolar"),
    ("-divergence 5", "-sourcefile sources.txt"),
    ("-dispersion 5", "-sourcefile sources.txt"),
    ("-square_div", "-sourcefile sources.txt"),
    ("-dispsteps 4", ""),
    ("-dispsteps 1", "-dispersion 5"),
    ("-hdivsteps 5", "-hdivstep 3"),
    ("-vdivsteps 5", "-vdivstep 3"),
    ("-vdivsteps 1", "-vdivrange 3"),
    ("-square_div", "-hdivrange 10 -hdivsteps 4"),
    ("-misset_seed 4", ""),
    ("-mosaic_seed 4", ""),
    ("-mosaic_seed 4", "-mosaic 1 -mosaic_domains 1"),
    ("-mosaic 5", "-mosaic_domains 1"),
    ("-fudge 3", ""),
    ("-interpolate", "-default_F 10"),
    ("-Na 7", "-xtal_x 0.00002"),
    ("-N 7", "-xtalsize 0.00002"),
    ("-distance 70", "-close_distance 39"),
    ("-detsize 9", ""),
    ("-detsize_f 9", ""),
    ("-detector_thicksteps 4", ""),
    ("-detector_abs 200", ""),
    ("-phisteps 5", "-phistep 0.3"),
    ("-noisefile n", "-nonoise"),
    ("-pgmscale 3", "-nopgm"),
    ("-pgmfile p", "-nopgm"),
    ("-seed 7", "-nonoise"),
    ("-Xclose 3", ""),
    ("-pivot sample", ""),
    ("-Xbeam 3", "-xds"),
    ("-mosaic_domains 4", ""),
    ("-oversample_thick", ""),
]


@pytest.mark.parametrize("flag, company", IDLE)
def test_a_flag_that_does_nothing_is_warned_of(flag: str, company: str, outcome: Callable) -> None:
    """And truly makes the same photons as without it."""
    name = flag.split()[0]
    drop = "-hkl -nointerpolate" if flag == "-interpolate" else name
    before, after = outcome(company, drop), outcome(f"{flag} {company}".strip(), drop)
    assert seen(before, "bin") == seen(after, "bin")
    assert set(before.files) == set(after.files)
    known = before.stdout.splitlines()
    (warning,) = (
        line
        for line in after.stdout.splitlines()
        if line.startswith("WARNING: ") and line not in known
    )
    assert name in warning.replace(",", " ").split()


def test_no_flag_of_a_usual_run_is_warned_of(outcome: Callable) -> None:
    usual = "-default_F 9 -mosaic 1 -mosaic_domains 3 -phi 5 -osc 1 -phisteps 2 -flux 1e12"
    found = outcome(f"{usual} -exposure 2 -beamsize 0.2 -polar 0.9 -Xbeam 3 -oversample 6 -adc 10")
    assert "WARNING" not in found.stdout
