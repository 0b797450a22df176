# ruff: noqa: E402
"""Sources from PHIL parameters and from files (`nanobragg_plugin.adapters.beam_sources`)."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("dials")

import simulate_helpers as sim
from dxtbx.model import Beam
from hypothesis import given
from hypothesis import strategies as st
from libtbx.phil import parse
from libtbx.utils import Sorry
from scitbx.array_family import flex

from nanobragg_plugin.adapters import beam_sources, models
from nanobragg_plugin.adapters.params import master_scope
from nanobragg_plugin.models import Beam as CoreBeam
from nanobragg_plugin.sources import Grid, Spread, with_spread

SCOPE = master_scope()


def scope(**beam: object):
    """The scope `beam`, extracted."""
    text = "\n".join(f"beam.{name}={value}" for name, value in beam.items())
    return SCOPE.fetch(parse(text)).extract().beam


def core_beam(**attributes: object) -> CoreBeam:
    """From dxtbx's, of 1.2 Angstrom; the source is in the direction (0.6, 0, 0.8)."""
    beam = Beam((0.6, 0.0, 0.8), 1.2)
    for name, value in attributes.items():
        getattr(beam, f"set_{name}")(value)
    return models.beam(beam, 1.0)


def listed(text: str, folder: Path) -> tuple[list, list, list]:
    """Positions, wavelengths, weights of a file of this text."""
    path = folder / "sources.txt"
    path.write_text(text)
    return tuple(value.tolist() for value in beam_sources.read_sources(str(path), core_beam()))


# ---- divergence and dispersion


def test_without_any_the_beam_is_as_it_is():
    beam = core_beam()
    for params in (scope(), scope(round_div=False)):
        assert beam_sources.with_sources(beam, params) is beam


def test_ranges_and_their_steps():
    """mrad and percent; 5 steps unless given; a step is taken from the lower end on, as often as
    the range holds it."""
    found = beam_sources.spread_of(
        scope(hdivrange_mrad=8, vdivrange_mrad=6, vdivsteps=4, dispersion_percent=2)
    )
    assert found.horizontal.offsets == pytest.approx([-4e-3, -2e-3, 0, 2e-3, 4e-3])
    assert found.vertical.offsets == pytest.approx([-3e-3, -1e-3, 1e-3, 3e-3])
    assert found.dispersion.offsets == pytest.approx([-0.01, -0.005, 0, 0.005, 0.01])
    assert found.round
    found = beam_sources.spread_of(
        scope(
            hdivrange_mrad=0.9,
            hdivstep_mrad=0.3,
            vdivrange_mrad=8,
            vdivstep_mrad=3,
            dispersion_percent=1,
            dispstep_percent=0.4,
            dispsteps=2,
            round_div=False,
        )
    )
    assert found.horizontal.offsets == pytest.approx([-0.45e-3, -0.15e-3, 0.15e-3, 0.45e-3])
    assert found.vertical.offsets == pytest.approx([-4e-3, -1e-3, 2e-3])
    assert found.dispersion.offsets == pytest.approx([-0.005, -0.001])
    assert not found.round


def test_the_parameters_make_the_core_s_sources():
    beam = core_beam()
    params = scope(hdivrange_mrad=4, hdivsteps=2, dispersion_percent=1, dispsteps=3)
    found = beam_sources.with_sources(beam, params)
    expected = with_spread(beam, Spread(Grid(4e-3, 4e-3, 2), Grid(), Grid(0.01, 0.005, 3)))
    torch.testing.assert_close(found.direction, expected.direction, rtol=0, atol=1e-16)
    torch.testing.assert_close(found.wavelength, expected.wavelength, rtol=1e-15, atol=0)
    assert found.wavelength.shape == (1, 6)


@pytest.mark.parametrize(
    "given, words",
    [
        ({"hdivsteps": 3}, "beam.hdivsteps and beam.hdivstep_mrad need a range"),
        ({"vdivstep_mrad": 0.1}, "give beam.vdivrange_mrad"),
        ({"dispsteps": 2}, "give beam.dispersion_percent"),
        ({"hdivrange_mrad": 3, "hdivsteps": 1}, "beam.hdivsteps=1: a range of 3 has two ends"),
        ({"vdivrange_mrad": 3, "vdivstep_mrad": 0}, "beam.vdivstep_mrad=0: it must be positive"),
        ({"dispersion_percent": 200}, "beam.dispersion_percent=200: the shortest wavelength"),
        (
            {
                "hdivrange_mrad": 3,
                "hdivsteps": 1,
                "hdivstep_mrad": 1,
                "vdivrange_mrad": 3,
                "vdivsteps": 1,
                "vdivstep_mrad": 1,
            },
            "no direction of the divergence is left within its ellipse",
        ),
        (
            {"hdivrange_mrad": 3, "hdivsteps": 9999, "vdivrange_mrad": 1, "vdivsteps": 9999},
            "make 99980001 sources, more than 1000000",
        ),
        ({"dispersion_percent": 3, "dispstep_percent": 1e-9}, "make 3000000001 sources"),
        ({"source_file": "s.txt", "hdivrange_mrad": 3}, "beam.source_file lists the sources"),
        ({"source_file": "s.txt", "dispersion_percent": 3}, "leave away the divergence"),
    ],
)
def test_parameters_that_are_refused(given, words, tmp_cwd):
    Path("s.txt").write_text("0 0 1\n")
    with pytest.raises(Sorry, match=re.escape(words)) as caught:
        beam_sources.with_sources(core_beam(), scope(**given))
    assert "\n" not in str(caught.value)


# ---- files


def test_columns_that_are_left_out_are_the_beam_s(tmp_path):
    """X Y Z weight wavelength/m: from a line's end on; the source of the beam is 10 m away."""
    positions, wavelengths, weights = listed("1 2 3 4 1.5e-10\n1 2 3 4\n1 2 3\n5 6\n7\n", tmp_path)
    expected = [[1, 2, 3]] * 3 + [[5, 6, 8.0], [7, 0, 8.0]]
    np.testing.assert_allclose(positions, expected, rtol=1e-15)
    assert wavelengths == pytest.approx([1.5, 1.2, 1.2, 1.2, 1.2], rel=1e-15)
    assert weights == [4, 4, 1, 1, 1]


def test_comments_separators_and_empty_lines(tmp_path):
    """Comma, semicolon, colon and exclamation mark are as white space to nanoBragg.c."""
    text = "# made up\n\n  \t\n1,2,3,4,1e-10  # the first\r\n-1;2:3!.5 \t 1.1E-10\n#1 1 1\n"
    positions, wavelengths, weights = listed(text, tmp_path)
    assert positions == [[1, 2, 3], [-1, 2, 3]]
    assert wavelengths == pytest.approx([1.0, 1.1], rel=1e-15) and weights == [4, 0.5]


NUMBER = st.floats(-1e6, 1e6).filter(lambda x: abs(x) > 1e-6)


@given(
    rows=st.lists(
        st.tuples(NUMBER, NUMBER, NUMBER, st.floats(1e-6, 1e6), st.floats(1e-3, 900)), min_size=1
    )
)
def test_whatever_is_written_is_read(rows, tmp_path_factory):
    text = "\n".join(f"{x} {y} {z} {w} {a * 1e-10!r}" for x, y, z, w, a in rows)
    positions, wavelengths, weights = listed(text, tmp_path_factory.mktemp("sources"))
    assert positions == [list(row[:3]) for row in rows] and weights == [row[3] for row in rows]
    assert wavelengths == pytest.approx([row[4] for row in rows], rel=1e-15)


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", "lists no sources"),
        (b"# nothing\n\n,;\n", "lists no sources: a line each, X Y Z weight wavelength (m)"),
        (b"\xff\xfe\x00", "is not a list of sources: it is not text"),
        (b"0 0 1\n1 2 x\n", "line 2 of sources.txt: '1 2 x' are not numbers"),
        (b"1 2 3 4 5 6\n", "line 1 of sources.txt: give X Y Z weight wavelength, finite numbers"),
        (b"1 2 nan\n", "line 1 of sources.txt: give X Y Z weight wavelength, finite numbers"),
        (b"1 2 inf\n", "finite numbers"),
        (b"\n0 0 0\n", "line 2 of sources.txt: the source is at the crystal"),
        (b"1 2 3 0\n", "line 1 of sources.txt: the weight is 0; it must be positive"),
        (b"1 2 3 -2\n", "line 1 of sources.txt: the weight is -2"),
        (b"1 2 3 1 0\n", "line 1 of sources.txt: the wavelength is 0 m"),
        (b"1 2 3 1 -1e-10\n", "the wavelength is -1e-10 m; give it in metres, as 1e-10"),
        (b"1 2 3 1 0.98\n", "the wavelength is 0.98 m; give it in metres, as 1e-10"),
    ],
)
def test_files_that_are_refused(content, words, tmp_cwd):
    Path("sources.txt").write_bytes(content)
    with pytest.raises(Sorry, match=re.escape(words)) as caught:
        beam_sources.read_sources("sources.txt", core_beam())
    assert "\n" not in str(caught.value) and "sources.txt" in str(caught.value)


def test_sources_that_are_no_sources(tmp_cwd, caplog):
    """Behind the crystal: a warning; along the E vector, where polarization is 0/0: refused."""
    beam = core_beam()
    against, across = (-beam.direction[0, 0]).tolist(), beam.polarization_axis.tolist()
    lines = [" ".join(map(repr, v)) for v in (against, [-x for x in against], across)]
    Path("sources.txt").write_text("\n".join(lines[:2]))
    given = scope(source_file="sources.txt")
    assert beam_sources.with_sources(beam, given).direction.shape[1] == 2
    assert "1 of the 2 sources of sources.txt are not upstream of the crystal" in caplog.text
    Path("sources.txt").write_text(lines[2])
    with pytest.raises(Sorry, match="a source lies along the beam's E vector"):
        beam_sources.with_sources(beam, given)


def test_files_that_cannot_be_read(tmp_cwd):
    for name in ("nowhere.txt", "."):
        with pytest.raises(Sorry, match=f"{re.escape(name)}, a list of sources, cannot be read"):
            beam_sources.read_sources(name, core_beam())


def test_a_list_for_a_beam_that_varies(tmp_cwd):
    Path("sources.txt").write_text("0 0 1\n")
    beam = core_beam(s0_at_scan_points=flex.vec3_double([(0, 0, -0.8), (0, 0.01, -0.8)]))
    assert len(beam.direction) == 2
    with pytest.raises(Sorry, match="but the beam model varies over the scan"):
        beam_sources.with_sources(beam, scope(source_file="sources.txt"))


# ---- the command


def simulated(*arguments: str) -> np.ndarray:
    """Expected photons of the first image, as exact as can be (the file holds float32)."""
    options = ["compute.precision=double", "compute.tolerance=0", "noise.poisson=False"]
    options += ["sampling.image_range=11,11"]
    sim.simulate("models.expt", *sim.QUICK, *options, *arguments, "output.overwrite=True")
    return sim.pixels()[0].astype(float)


def test_a_list_through_the_command(tmp_cwd):
    """An image of two sources is the weighted mean of theirs, one of the beam's own source is the
    beam's; the file and its checksum are in the provenance."""
    sim.write_expt("models.expt", sim.sweep())
    lines = ("0 0 2 1 1e-10", "0.02 -0.01 1 3 1.01e-10")
    images = []
    for text in (*lines, "\n".join(lines)):
        Path("sources.txt").write_text(text)
        images.append(simulated("beam.source_file=sources.txt"))
    record = json.loads(Path("simulated.provenance.json").read_text())
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    assert {"name": "sources.txt", "sha256": digest} in record["inputs"]
    assert 'source_file = "sources.txt"' in record["phil"]
    first, second, both = images
    # measured worst case 9e-8: rounding to float32
    np.testing.assert_allclose(both, (first + 3 * second) / 4, rtol=2e-7, atol=0)
    assert np.abs(first - second).max() > 0.1 * first.max()
    np.testing.assert_array_equal(simulated(), first)


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["beam.source_file=nowhere.txt"], "nowhere.txt"),
        (["beam.source_file=models.expt"], "models.expt.* are not numbers"),
        (["beam.hdivrange_mrad=-1"], "beam.hdivrange_mrad .* less than the minimum"),
        (["beam.hdivrange_mrad=nan"], "beam.hdivrange_mrad=nan: give a finite number"),
        (["beam.hdivrange_mrad=2", "beam.hdivsteps=0"], "beam.hdivsteps .* less than the minimum"),
        (["beam.dispersion_percent=300"], "the shortest wavelength would not be positive"),
        (
            [
                *("beam.hdivrange_mrad=2", "beam.hdivsteps=999"),
                *("beam.dispersion_percent=1", "beam.dispsteps=999", "sampling.phisteps=999"),
            ],
            "every pixel would take .* sources",
        ),
    ],
)
def test_the_command_refuses(arguments, words, tmp_cwd):
    sim.write_expt("models.expt", sim.sweep())
    with pytest.raises(Sorry, match=words):
        raise Sorry(sim.refused("models.expt", *sim.QUICK, *arguments))
