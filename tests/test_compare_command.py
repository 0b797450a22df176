# ruff: noqa: E402
"""The command nanobragg.compare: what it takes, what it writes, what it refuses."""

from __future__ import annotations

import base64
import io
import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

pytest.importorskip("dials")

import compare_helpers as helpers
import numpy as np
from dials.array_family import flex
from libtbx.utils import Sorry
from PIL import Image

from nanobragg_plugin.compare.parts import plain

QUIET = ("output.html=None", "output.log=None")


@pytest.fixture
def here(tmp_cwd: Path) -> Path:
    """true.expt, other.expt, true.refl and strong.refl."""
    experiment = helpers.sweep()
    helpers.write("true.expt", experiment)
    helpers.write(
        "other.expt", helpers.sweep(crystal=helpers.crystal(helpers.turn((1, 1, 1), 0.1)))
    )
    table = helpers.truth_table(experiment)
    table.as_file("true.refl")
    helpers.strong_of(table, (0.1, 0, 0)).as_file("strong.refl")
    return tmp_cwd


def refused(*args: str) -> str:
    """What it says when it refuses, one sentence, and writes nothing."""
    before = {path.name: path.read_bytes() for path in Path.cwd().iterdir() if path.is_file()}
    with pytest.raises(Sorry) as caught:
        helpers.compare(*args)
    after = {path.name: path.read_bytes() for path in Path.cwd().iterdir() if path.is_file()}
    after.pop("nanobragg.compare.log", None)
    assert after == before
    message = str(caught.value)
    assert message and "\n" not in message and "Traceback" not in message
    assert caught.value.__cause__ is None
    return message


def test_text_json_html_and_log(here: Path, caplog: pytest.LogCaptureFixture) -> None:
    """All four say the same of a turn of 0.1 degrees."""
    found = helpers.compare("true.expt", "other.expt")
    assert found["truth"] == ["true.expt"] and found["other"] == ["other.expt"]
    crystal = found["models"][0]["crystal"]
    assert crystal["misorientation_deg"] == pytest.approx(0.1, abs=1e-6)
    log = Path("nanobragg.compare.log").read_text()
    page = Path("nanobragg.compare.html").read_text(encoding="utf-8")
    assert re.search(r"misorientation +\| +\| +\| 0.1 +\| degrees", log)
    assert "<td>misorientation</td><td></td><td></td><td>0.1</td><td>degrees</td>" in page


def test_printed_json(here: Path, capsys: pytest.CaptureFixture) -> None:
    """--json alone: nothing but JSON on standard output, and no log."""
    from nanobragg_plugin.command_line import compare

    compare.run(["true.expt", "--json", "other.expt", "output.html=None"])
    printed = json.loads(capsys.readouterr().out)
    assert printed["program"] == "nanobragg.compare"
    assert {path.suffix for path in here.iterdir()} == {".expt", ".refl"}
    given = compare.with_json(["a", "--json", "b.json", "--json=c", "--json"])
    assert given == ["a", "output.json=b.json", "output.json=c", "output.json=-"]


def test_html(here: Path) -> None:
    """Well-formed, complete in itself: nothing is fetched, no script, every picture is a PNG that
    is not blank; text of files' names is escaped."""
    Path("a<b>&c.expt").write_bytes(Path("true.expt").read_bytes())
    helpers.compare("a<b>&c.expt", "true.refl", "other.expt", "strong.refl")
    page = Path("nanobragg.compare.html").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>")
    root = ElementTree.fromstring(page.split("\n", 1)[1])
    names = {element.tag for element in root.iter()}
    assert {"h2", "table", "img", "figcaption"} <= names
    assert not names & {"script", "link", "iframe", "object"}
    text = re.sub(r"base64,[A-Za-z0-9+/=]*", "", page)
    assert not re.search(r"https?:|//|@import|url\(", text)
    assert re.findall(r'(?:src|href)="([^"]*)"', text) == ["data:image/png;"] * len(
        list(root.iter("img"))
    )
    headings = [element.text for element in root.iter("h2")]
    assert headings == ["Models", "Reflections"]
    pictures = [element.get("src") for element in root.iter("img")]
    assert len(pictures) >= 3
    for source in pictures:
        kind, data = source.split(",", 1)
        assert kind == "data:image/png;base64"
        pixels = np.array(Image.open(io.BytesIO(base64.b64decode(data, validate=True))))
        assert pixels.std() > 5
    assert "a<b>&c.expt" in "".join(root.itertext())
    for table in root.iter("table"):
        widths = {len(list(row)) for row in table.iter("tr")}
        assert len(widths) == 1


def test_order_of_files(here: Path) -> None:
    """Of a kind the first is the truth's, wherever it stands among others."""
    files = ("true.expt", "true.refl", "other.expt", "strong.refl")
    mixed = ("true.refl", "true.expt", "strong.refl", "other.expt")
    assert helpers.compare(*files, *QUIET) == helpers.compare(*mixed, *QUIET)
    back = helpers.compare("other.expt", "true.expt", *QUIET)
    assert back["truth"] == ["other.expt"]


def test_content_not_name(here: Path) -> None:
    """An experiment list and a table by other names."""
    Path("true.expt").rename("one.txt")
    Path("strong.refl").rename("spots.dat")
    found = helpers.compare("one.txt", "true.refl", "spots.dat", *QUIET)
    assert found["reflections"]["found"] > 0


@pytest.mark.parametrize(
    "files, said",
    [
        ("", "what is to be compared? give two experiment lists"),
        ("true.expt", "nothing of true.expt can be compared"),
        ("true.refl", "nothing of true.refl can be compared"),
        ("true.expt strong.refl", "nothing of true.expt, strong.refl can be compared"),
        ("true.expt true.expt", "true.expt is given twice"),
        ("true.expt other.expt third.expt", "third.expt is a third experiment list"),
        ("true.expt nothing.refl", "there is no file nothing.refl"),
        ("true.expt other.expt true.refl", "true.refl cannot be compared with any other"),
        ("strong.refl true.refl", "true.refl is a truth table: give it before strong.refl"),
        ("true.expt .", ". is a folder"),
        ("true.expt dark.expt", "experiment 0 of dark.expt has no beam"),
        ("true.expt blind.expt", "experiment 0 of blind.expt has no detector"),
        ("true.expt empty.expt", "empty.expt is empty"),
        ("true.expt list.json", "list.json is not an experiment list: JSON of another kind"),
        ("true.expt cut.expt", "cut.expt is not an experiment list that dxtbx can read"),
        ("true.expt none.expt", "none.expt holds no experiments"),
        ("true.refl cut.refl", "cut.refl is not a reflection table that DIALS can read"),
        ("true.refl text.refl", "text.refl is not a reflection table as DIALS writes it"),
        ("true.refl none.refl", "none.refl holds no reflections"),
        ("true.refl many.refl", "many.refl has reflections of several experiments: give the exp"),
        ("true.refl bare.refl", "bare.refl has no positions"),
        ("cut.mtz f.mtz", "cut.mtz is not an MTZ file that cctbx can read"),
        ("text.mtz cut.mtz", "text.mtz is not an MTZ file"),
        ("true.expt other.expt --rubbish", "--rubbish is not understood"),
        ("true.expt other.expt rubbish=1", "rubbish=1 is not understood"),
        ("true.expt other.expt shells=0", "shells"),
        ("true.expt other.expt reflections.tolerance_px=0", "it must be positive"),
        ("true.expt other.expt reflections.scale=0", "it must be positive"),
        ("true.expt other.expt reflections.threshold=nan", "give a finite number"),
        ("true.refl strong.refl reflections.intensity=profile", "no intensities by profile"),
        ("true.expt other.expt output.html=true.expt", "true.expt is an input"),
        ("true.expt other.expt output.html=x output.log=x", "two outputs would both be x"),
        ("true.expt other.expt output.html=nowhere/x.html", "there is no folder nowhere"),
        ("true.expt one.expt true.refl strong.refl", "different detectors"),
    ],
)
def test_bad_input(here: Path, files: str, said: str) -> None:
    """One sentence for each: what is wrong, and where."""
    helpers.write("third.expt", helpers.sweep())
    helpers.write("one.expt", helpers.sweep(detector=helpers.detector(1)))
    helpers.write("dark.expt", helpers.sweep(beam=None))
    helpers.write("blind.expt", helpers.sweep(detector=None))
    Path("empty.expt").write_text("")
    Path("list.json").write_text('{"a": [1, 2]}')
    Path("none.expt").write_text(json.dumps({"__id__": "ExperimentList", "experiment": []}))
    Path("cut.expt").write_text(Path("true.expt").read_text()[:500])
    Path("cut.refl").write_bytes(Path("true.refl").read_bytes()[:5000])
    Path("text.refl").write_text("h k l\n")
    flex.reflection_table().as_file("none.refl")
    many = flex.reflection_table.from_file("strong.refl")
    many["id"] = flex.int((np.arange(len(many)) % 2).astype(np.int32))
    many.as_file("many.refl")
    bare = flex.reflection_table()
    bare["panel"], bare["flags"] = flex.size_t(3, 0), flex.size_t(3, 0)
    bare.as_file("bare.refl")
    Path("cut.mtz").write_bytes(b"MTZ \x15\x00\x00\x00" + bytes(100))
    Path("f.mtz").write_bytes(b"MTZ " + bytes(4000))
    Path("text.mtz").write_text("no reflections\n")
    assert said in refused(*files.split())


def test_a_pickle_is_not_opened(here: Path) -> None:
    """DIALS unpickles old tables, which runs what is in them; this command does not."""
    import pickle

    class Bomb:
        def __reduce__(self):
            return Path.touch, (Path("exploded"),)

    Path("old.refl").write_bytes(pickle.dumps(Bomb()))
    assert "is not a reflection table as DIALS writes it" in refused("true.refl", "old.refl")
    assert not Path("exploded").exists()


def test_several_experiments(here: Path) -> None:
    """30 pairs: all in the JSON, 20 in the text, with the median of all."""
    turns = [helpers.crystal(helpers.turn((0, 1, 0), 0.001 * i)) for i in range(30)]
    helpers.write("many.expt", *(helpers.sweep() for _ in turns))
    helpers.write("turned.expt", *(helpers.sweep(crystal=one) for one in turns))
    found = helpers.compare("many.expt", "turned.expt")["models"]
    angles = [pair["crystal"]["misorientation_deg"] for pair in found]
    assert angles == pytest.approx(0.001 * np.arange(30), abs=1e-7)
    log = Path("nanobragg.compare.log").read_text()
    assert "The first 20 are shown" in log and "experiments 19 and 19" in log
    assert "experiments 20 and 20" not in log
    assert re.search(r"misorientation, degrees +\| 0.0145 +\| 0.029 ", log)


def test_other_lattice_in_the_text(here: Path) -> None:
    """A wrong lattice is no end: the reason stands among the other models' figures."""
    far = helpers.sweep(crystal=helpers.crystal(helpers.turn((1, 0, 0), 25)))
    helpers.write("far.expt", far)
    found = helpers.compare("true.expt", "far.expt")
    assert "is not that of the crystal simulated" in found["models"][0]["crystal"]["reason"]
    assert "is not that" in Path("nanobragg.compare.html").read_text(encoding="utf-8")


def test_models_that_are_not_numbers(here: Path) -> None:
    """A NaN in a file is null in the JSON and - in the text; all else is still compared."""
    content = json.loads(Path("other.expt").read_text())
    content["beam"][0]["wavelength"] = float("nan")
    content["detector"][0]["panels"][1]["origin"][0] = float("nan")
    Path("nan.expt").write_text(json.dumps(content))
    figures = helpers.compare("true.expt", "nan.expt")["models"][0]
    assert figures["beam"]["wavelength_error"] is None
    assert figures["detector"]["largest_shift_mm"] is None
    assert figures["crystal"]["misorientation_deg"] == pytest.approx(0.1, abs=1e-6)
    assert re.search(r"largest shift of a panel +\| +\| +\| - +\| mm", _log())


def _log() -> str:
    return Path("nanobragg.compare.log").read_text()


def test_shells_parameter(here: Path) -> None:
    files = ("true.expt", "true.refl", "strong.refl", *QUIET)
    for n in (1, 3):
        found = helpers.compare(*files, f"shells={n}")["reflections"]
        assert len(found["shells"]) == len(found["centroids"]["observed"]["shells"]) == n


def test_outputs_are_written_where_asked(here: Path) -> None:
    """Names of one's own, over older files; None of each."""
    Path("a.html").write_text("old")
    helpers.compare("true.expt", "other.expt", "output.html=a.html", "output.log=b.log")
    assert "misorientation" in Path("a.html").read_text(encoding="utf-8")
    assert Path("b.log").is_file() and not Path("nanobragg.compare.html").exists()
    names = {path.name for path in here.iterdir()}
    helpers.compare("true.expt", "other.expt", *QUIET)
    assert {path.name for path in here.iterdir()} == names


def test_plain() -> None:
    """JSON has no NaN, no infinity, no numpy."""
    value = {
        "a": np.array([1.0, np.nan]),
        2: (np.float64(np.inf), np.int64(3)),
        "b": np.bool_(True),
    }
    assert plain(value) == {"a": [1.0, None], "2": [None, 3], "b": True}
    json.dumps(plain(value), allow_nan=False)
