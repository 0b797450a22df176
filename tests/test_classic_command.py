# ruff: noqa: E402
"""nanobragg.classic as a user meets it: what it says of mistakes, and that it loses no file."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("dials")

import classic_helpers as classic
import simulate_helpers as sim
from libtbx.utils import Sorry

from nanobragg_plugin.command_line import classic as command
from nanobragg_plugin.run import classic as runner


@pytest.fixture
def folder(tmp_cwd: Path) -> Path:
    """A working folder with all inputs, an empty file, a binary one, a text and a folder."""
    classic.place_inputs()
    Path("empty").touch()
    Path("binary").write_bytes(bytes(range(256)) * 8)
    Path("text").write_text("no numbers\n")
    Path("flat.mat").write_text("1 2 3\n2 4 6\n3 6 9\n")
    Path("folder").mkdir()
    return tmp_cwd


# ---- mistakes


@pytest.mark.parametrize(
    "change, message",
    [
        ("-nosuch", "the flag -nosuch is unknown"),
        ("-mat nosuch", "the matrix nosuch cannot be read: No such file"),
        ("-mat folder", "the matrix folder cannot be read"),
        ("-mat empty", "empty does not begin with the nine numbers"),
        ("-mat binary", "binary does not begin with the nine numbers"),
        ("-mat flat.mat", "the matrix of -mat has no volume"),
        ("-hkl nosuch", "No such file or directory: 'nosuch'"),
        ("-hkl folder", "Is a directory"),
        ("-hkl empty", "empty is empty: no structure factors"),
        ("-hkl binary", "binary is binary"),
        ("-hkl text", "text is no file of reflections"),
        ("-sourcefile nosuch", "nosuch, a list of sources, cannot be read"),
        ("-sourcefile empty", "empty lists no sources"),
        ("-sourcefile binary", "binary is not a list of sources"),
        ("-sourcefile folder", "folder, a list of sources, cannot be read"),
        *[
            (f"{flag} {name}", message)
            for flag in ("-img", "-mask")
            for name, message in (
                ("nosuch", "cannot read the SMV image nosuch: No such file"),
                ("folder", "cannot read the SMV image folder"),
                ("empty", "empty is not an SMV image"),
                ("binary", "binary is not an SMV image"),
            )
        ],
        ("-mask mask.img -detpixels 20", "the mask mask.img has 12 x 10 pixels .*20 x 20"),
        ("-roi 50 60 50 60", "-roi 50 60 50 60 holds no pixel of the 12 x 10"),
        ("-roi 5 3 5 3", "-roi 5 3 5 3 holds no pixel"),
        ("-mask mask.img -roi 3 8 2 4", "the mask mask.img leaves no pixel"),
        ("-detpixels 1000000", "1000000 x 1000000 pixels has more than 2147483647"),
        ("-osc 1 -phisteps 10000000", "-phisteps: 10000000 steps are asked for"),
        ("-osc 1 -phistep 1e-12", "-phisteps: 1000000000000 steps are asked for"),
        ("-mosaic 1 -mosaic_domains 100000000", "-mosaic_dom: 100000000 steps"),
        ("-detector_thick 9 -thicksteps 100000000", "-detector_thicksteps: 100000000 steps"),
        ("-hdivrange 9 -hdivsteps 100000000", "-hdivsteps: 100000000 steps"),
        ("-vdivrange 1 -vdivstep 1e-9", "-vdivsteps: 1000000000 steps"),
        ("-dispersion 1 -dispsteps 100000000", "-dispsteps: 100000000 steps"),
        ("-divergence 9 -divsteps 9999", "make 99980001 sources"),
        ("-oversample 10001", "-oversample: 10001 steps are asked for, 10000 are possible"),
        ("-distance 1e-3 -oversample 0 -N 999", "-oversample: .* steps are asked for"),
        ("-lambda 1e-9", "-lambda .* is 1e-09 Angstrom: give 0.0001 to 10000"),
        ("-pixel 1e-9", "-pixel .* is 1e-09 mm"),
        ("-distance 1e30", r"-distance .* is 1e\+30 mm"),
        ("-cell 1e-9", "an edge of the cell is 1e-09 Angstrom"),
        ("-fluence 0", "-fluence 0: without photons there is no image"),
        ("-flux 1e40 -beamsize 1e-9", "photons: lower -fluence"),
        ("-polar_vector 1 0 0", "-polar_vector is along the beam"),
        ("-beam_vector 0 0 1", "-polar_vector is along the beam"),
        ("-spindle_axis 0 0 0", "-spindle_axis 0 0 0: give it a direction"),
        ("-fdet_vector 0 1 1", "-fdet_vector and -sdet_vector are 135.000 degrees apart"),
        ("-fdet_vector 0 1 0", "are 180.000 degrees apart"),
        ("-beam_vector 0 1 0", "the detector's plane goes through the crystal"),
        ("-detector_roty 90", "the detector's plane goes through the crystal"),
        ("-pix0_vector 0 0 0", "the detector's plane goes through the crystal"),
        ("-pix0_vector -0.1 0 0", "the detector turns its back to the crystal"),
        ("-twotheta 180", "the detector turns its back to the crystal"),
        ("-detector_thick 300 -detector_abs inf -detector_thick 300", "absorbs nothing"),
        ("-device nosuch", "nosuch cannot be used here"),
        ("-osc 0 -phistep 1", "-osc 0 with -phistep makes no step of phi"),
        ("-kernel sparse -interpolate", "-kernel sparse is for images without interpolation"),
        ("-kernel sparse -gauss_xtal -interpolate", "-kernel sparse is for images without"),
        ("-kernel sparse -water 50", "interpolation and -water, and without -dmin"),
        (
            "-kernel sparse -dmin 3 -phi_carryover_mode c-parity",
            "without -dmin in c-parity: leave it out",
        ),
        ("-kernel fast", "-kernel fast: choose from auto, dense, sparse"),
    ],
)
def test_a_mistake_is_one_sentence(change: str, message: str, folder: Path) -> None:
    """And nothing is written."""
    assert re.search(message, found := classic.refused(*classic.words(change))), found


@pytest.mark.parametrize(
    "words, message",
    [
        ("-default_F 100", "there is no crystal: give -mat FILE, or -cell"),
        ("-default_F 100 -misset 1 2 3", "there is no crystal"),
        ("-cell 30", "there are no structure factors: give -hkl FILE, -dump FILE or -default_F"),
        ("-cell 30 -default_F 0", "there are no structure factors"),
        ("-cell 30 -default_F 1 -pixel 1000", "has no pixels of 1000 mm"),
        ("-cell 30 -default_F 1 -detsize 0.01", "has no pixels of 0.1 mm"),
        ("-cell 30 -default_F 1 -detsize 1e9", "has more than 2147483647"),
        ("-cell 30 -default_F 1 -distance 0.0005", "-oversample: 1800. steps are asked"),
    ],
)
def test_what_a_command_line_lacks(words: str, message: str, folder: Path) -> None:
    assert re.search(message, found := classic.refused(*words.split())), found


def test_a_matrix_of_lines_that_are_no_matrix(folder: Path) -> None:
    Path("A.mat").write_text("0.03 0 0\n0 nan 0\n0 0 0.02\n")
    assert "nine numbers" in classic.refused(*classic.words("-mat A.mat"))


# ---- outputs


@pytest.mark.parametrize(
    "change, message",
    [
        ("-floatfile nodir/x", "cannot write nodir/x: there is no folder nodir"),
        ("-noisefile nodir/x", "there is no folder nodir"),
        ("-hkl P1.hkl -dump nodir/x", "there is no folder nodir"),
        ("-show_expt nodir/x", "there is no folder nodir"),
        ("-pgmfile folder", "cannot write folder: it is a folder"),
        ("-show_expt folder", "it is a folder"),
        ("-floatfile x -intfile x", "two outputs would both be x: rename one"),
        ("-floatfile ./x -noisefile folder/../x", "two outputs would both be"),
        ("-noisefile intimage.img", "two outputs would both be"),
        ("-dump x -floatfile x", "two outputs would both be x"),
        ("-floatfile P1.hkl", "P1.hkl is an input: it would be overwritten"),
        ("-dump P1.hkl", "P1.hkl is an input"),
        ("-mat A.mat -pgmfile A.mat", "A.mat is an input"),
        ("-mat A.mat -show_expt ./A.mat", "A.mat is an input"),
        ("-sourcefile sources.txt -intfile sources.txt", "sources.txt is an input"),
        ("-mask mask.img -intfile mask.img", "mask.img is an input"),
        ("-img header.img -noisefile header.img", "header.img is an input"),
        ("-floatfile " + "x" * 300, "File name too long"),
    ],
)
def test_outputs_that_cannot_be_written(change: str, message: str, folder: Path) -> None:
    assert message in classic.refused(*classic.words(change))


def test_a_dump_that_is_read_is_not_overwritten(folder: Path) -> None:
    classic.run(*classic.words("-dump F.bin"))
    words = classic.words("-dump F.bin", drop="-hkl")
    assert "F.bin is an input" in classic.refused(*words, "-floatfile", "F.bin")
    # nor is one written of what is none of lines h k l F, with the images done by then
    found = classic.refused(*classic.words("-hkl F.bin -dump G.bin"))
    assert "-dump is written of lines h k l F, which F.bin does not have" in found


@pytest.mark.skipif(not hasattr(os, "geteuid") or not Path("/proc").is_dir(), reason="no /proc")
def test_a_folder_where_nothing_can_be_written(folder: Path) -> None:
    assert "cannot write /proc/x" in classic.refused(*classic.words("-noisefile /proc/x"))


def test_outputs_to_a_device(folder: Path) -> None:
    """Written through, several to the same; the device stays one. (By a link: to replace the
    machine's own by a file would break it.)"""
    os.symlink(os.devnull, "null")
    made = classic.run(*classic.words("-floatfile null -intfile null -pgmfile null"))
    assert set(made.files) == {"noiseimage.img"} and Path("null").is_symlink()
    assert Path("null").is_char_device()
    found = classic.refused(*classic.words("-show_expt null"))
    assert "cannot write null: it is a device" in found and Path("null").is_symlink()


def test_files_that_exist_are_replaced(folder: Path) -> None:
    """As by nanoBragg.c."""
    for name in classic.OUTPUTS:
        Path(name).write_text("old")
    assert set(classic.run(*classic.words()).files) == classic.OUTPUTS


class Stop(BaseException):
    """Not an error: as Ctrl-C and SIGTERM end a run."""


@pytest.mark.parametrize(
    "owner, name, left",
    [
        ("runner", "simulate", set()),
        ("files", "float_bytes", set()),
        ("files", "scaled_integers", {"floatimage.bin"}),
        ("files", "noise_integers", classic.OUTPUTS - {"noiseimage.img"}),
    ],
)
def test_interrupted(
    owner: str, name: str, left: set, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is finished stays, whole; nothing half-written does, nor a hidden file."""
    whole = classic.run(*classic.words()).files
    for path in classic.OUTPUTS:
        Path(path).unlink()

    def stop(*_: object, **__: object) -> None:
        raise Stop

    monkeypatch.setattr(runner if owner == "runner" else runner.files, name, stop)
    before = set(sim.contents(Path.cwd()))
    with pytest.raises(Stop):
        command.run(classic.words())
    after = sim.contents(Path.cwd())
    assert set(after) - before == left
    assert all(after[path] == whole[path] for path in left)


def test_a_disk_that_is_full_in_the_middle(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old file stays where the new one failed, and no part of it."""
    Path("intimage.img").write_text("old")
    original = Path.write_bytes

    def full(self: Path, content: bytes) -> int:
        if "intimage" in self.name:
            original(self, content[:100])
            raise OSError(28, "No space left on device", str(self))
        return original(self, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    before = set(sim.contents(Path.cwd()))
    with pytest.raises(Sorry, match="No space left on device"):
        classic.run(*classic.words())
    assert set(sim.contents(Path.cwd())) - before == {"floatimage.bin"}
    assert Path("intimage.img").read_text() == "old"


# ---- what is printed and written


def test_help_and_version(folder: Path) -> None:
    for words in ((), ("-help",), ("--help",), ("-h",), ("-nosuch", "-help")):
        found = classic.run(*words)
        assert found.stdout.startswith("usage: nanobragg.classic") and not found.files
    for word in ("-version", "--version"):
        found = classic.run(word)
        assert re.fullmatch(r"nanobragg\.classic \d+\.\d+.*\n", found.stdout) and not found.files


def test_names_of_the_files(folder: Path) -> None:
    """nanoBragg.c's, which writes no dump here unless it is asked for."""
    assert set(classic.run(*classic.words()).files) == classic.OUTPUTS
    named = "-floatfile f -intfile i -pgmfile p -noisefile n -dump d"
    assert set(classic.run(*classic.words(named)).files) == set("fipnd")


def test_the_files_agree_with_the_photons(folder: Path) -> None:
    """Integers and grey levels are the photons times the scales that are printed."""
    found = classic.run(*classic.words("-roi 1 10 2 8 -adc 12"))
    photons = np.frombuffer(found.files["floatimage.bin"], "<f4").reshape(classic.SHAPE)
    inside = np.zeros(classic.SHAPE, bool)
    inside[2:9, 1:11] = True
    assert (photons[~inside] == 0).all() and photons[inside].min() > 0
    scale, pgm_scale = (
        float(re.search(rf"{name} = (\S+)", found.stdout)[1])
        for name in ("intfile_scale", "pgm_scale")
    )
    integers = classic.pixels_of(found.files["intimage.img"])
    # six digits of the scale are printed: half a count of rounding, and 55000 * 5e-6
    assert np.abs(integers - photons * scale - 12)[inside].max() < 0.5 + 0.3
    assert integers.max() == 55012 and (integers[~inside] == 0).all()
    head, grey = found.files["image.pgm"].split(b"255\n", 1)
    assert head.startswith(b"P5\n12 10\n# pixels scaled by ")
    grey = np.frombuffer(grey, np.uint8).reshape(classic.SHAPE)
    expected = np.minimum(photons * pgm_scale, 255)
    assert (np.abs(grey - np.floor(expected))[inside] <= 1).all() and grey.max() == 255
    assert f"max_I = {photons.max():g}" in found.stdout


def test_dump_read_back(folder: Path) -> None:
    """The same image from the dump as from the -hkl that it was made of."""
    for words in ("-default_F 30", "-interpolate -default_F 30", "-interpolate"):
        first = classic.run(*classic.words(f"{words} -dump F.bin"))
        for path in classic.OUTPUTS:
            Path(path).unlink()
        second = classic.run(*classic.words(f"{words} -dump F.bin", drop="-hkl"))
        assert set(second.files) == classic.OUTPUTS
        assert all(second.files[name] == first.files[name] for name in classic.OUTPUTS)


@pytest.mark.parametrize("name", ["a b", "a'b", "a#b", "a;b", "a{b", "\u00e4", "None"])
def test_odd_names_of_inputs(name: str, folder: Path) -> None:
    Path("P1.hkl").rename(name)
    words = [*classic.words(drop="-hkl"), "-hkl", name]
    assert set(classic.run(*words).files) == classic.OUTPUTS


def test_a_link_is_written_through(folder: Path) -> None:
    """As by nanoBragg.c: it may lead to another disk."""
    Path("elsewhere").mkdir()
    Path("link.bin").symlink_to("elsewhere/target.bin")
    classic.run(*classic.words("-floatfile link.bin"))
    assert Path("link.bin").is_symlink() and Path("elsewhere/target.bin").stat().st_size == 480


def test_a_large_cell_is_no_long_wait(folder: Path) -> None:
    """Its 6e8 reflections within reach are not listed, which would not fit into memory."""
    made = classic.run(*classic.words("-cell 900 900 900 -default_F 9 -distance 30", "-hkl"))
    assert "floatimage.bin" in made.files
