# ruff: noqa: E402
"""Live files come from strangers: what they may name, what they may cost, and what is wrong with
them in one sentence."""

from __future__ import annotations

import json
import os
import pickle
import time
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("dials")

import live_helpers as lh
import simulate_helpers as sim
from dials.array_family import flex

from nanobragg_plugin.adapters.live_paths import TRUST
from nanobragg_plugin.format.FormatNanoBraggLive import FormatNanoBraggLive
from nanobragg_plugin.run import live_cost, live_params, live_process

LISTED = ("input.experiments=models.expt", *sim.QUICK)


@pytest.fixture(autouse=True)
def strict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TRUST, raising=False)
    monkeypatch.delenv(live_cost.LIMIT, raising=False)
    monkeypatch.setattr(live_process, "_process", None)


@pytest.fixture
def home(tmp_cwd: Path) -> Path:
    """The working directory, home/live, with an experiment list; home/out is beside it."""
    for name in ("live", "out"):
        (tmp_cwd / name).mkdir()
    os.chdir(tmp_cwd / "live")
    sim.write_expt("models.expt", sim.sweep())
    for folder in (".", "../out"):
        Path(folder, "f.hkl").write_text("1 0 0 10\n0 1 0 20\n")
    return tmp_cwd


def refused(*lines: str, first: str = lh.FIRST) -> str:
    """What is said of a live file of these lines as it is opened: one sentence, the same from the
    format class as from dxtbx."""
    Path("live.nbexpt").write_text(first + "".join(f"{line}\n" for line in lines))
    started = time.monotonic()
    with pytest.raises(sim.Sorry) as caught:
        FormatNanoBraggLive("live.nbexpt")
    assert time.monotonic() - started < 10  # measured: 1.1 s, of a megabyte
    message = str(caught.value)
    assert message.strip() and "\n" not in message and "Traceback" not in message
    assert caught.value.__cause__ is None or caught.value.__suppress_context__
    return message


# ---- which files


def test_below_its_folder(home: Path) -> None:
    """Relative and absolute names, links within."""
    Path("sub").mkdir()
    os.rename("f.hkl", "sub/real.hkl")
    os.symlink("sub/real.hkl", "link.hkl")
    names = [
        "sub/real.hkl",
        "./sub/../sub/real.hkl",
        "link.hkl",
        str(Path("sub/real.hkl").resolve()),
    ]
    images = []
    for name in names:
        lh.write(*LISTED, f"structure_factors.file={name}")
        images.append(lh.arrays(FormatNanoBraggLive("live.nbexpt").get_raw_data(0))[0])
    for image in images:
        np.testing.assert_array_equal(image, images[0])


OUTSIDE = ["../out/f.hkl", "sub/../../out/f.hkl", "link.hkl", "folder/f.hkl", "{out}/f.hkl",
           "/etc/hostname", "../out/none.hkl", "~/f.hkl", "/proc/self/environ"]  # fmt: skip


@pytest.mark.parametrize("name", OUTSIDE)
def test_outside_its_folder(name: str, home: Path) -> None:
    """.., links, links of folders, absolute names, a home; whether the file exists is not told."""
    os.symlink("../out/f.hkl", "link.hkl")
    os.symlink("../out", "folder")
    name = name.format(out=home / "out")
    said = refused(*LISTED, f"structure_factors.file={name}")
    assert "structure_factors.file=" in said and "is not below the folder" in said
    assert TRUST in said and "No such file" not in said


def test_a_linked_live_file(home: Path) -> None:
    """Its folder is where it really is."""
    lh.write(*LISTED, "structure_factors.file=f.hkl")
    os.symlink(Path("live.nbexpt").resolve(), home / "out" / "live.nbexpt")
    os.remove(home / "out" / "f.hkl")
    FormatNanoBraggLive(str(home / "out" / "live.nbexpt")).get_raw_data(0)


@pytest.mark.parametrize("trusted", ["{out}", "/none:{out}", "{home}", "*"])
def test_trusted(trusted: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = (*LISTED, "structure_factors.file=../out/f.hkl")
    refused(*lines)
    monkeypatch.setenv(TRUST, trusted.format(out=home / "out", home=home))
    FormatNanoBraggLive(lh.write(*lines)).get_raw_data(0)
    monkeypatch.delenv(TRUST)
    refused(*lines)  # what was opened under another trust is not remembered


@pytest.mark.parametrize("trusted", ["", ":", "{home}/li", "{out}/f", "{home}/outer"])
def test_not_trusted(trusted: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing, or folders that are not above the file, though their names begin alike."""
    monkeypatch.setenv(TRUST, trusted.format(out=home / "out", home=home))
    refused(*LISTED, "structure_factors.file=../out/f.hkl")


def paths() -> list[str]:
    """Every parameter that names a file to read."""
    found = [
        item.path
        for item in live_params.scope().all_definitions()
        if item.object.type.phil_type == "path" and not item.path.startswith("output.")
    ]
    assert len(found) > 8
    return found


@pytest.mark.parametrize("parameter", paths())
def test_every_parameter_that_names_a_file(parameter: str, home: Path) -> None:
    """Refused outside, before anything else is made of it."""
    Path("../out/x.npy").write_bytes(Path("models.expt").read_bytes())
    said = refused(*sim.QUICK, f"{parameter}=../out/x.npy")
    assert f"{parameter}=../out/x.npy is not below" in said


def test_no_parameter_hides_a_name(home: Path) -> None:
    """Of type str are only names that are not opened."""
    words = [
        item.path
        for item in live_params.scope().all_definitions()
        if item.object.type.phil_type in ("str", "strings", "qstr")
        and not item.path.startswith(("output.", "geometry."))
    ]
    assert set(words) == {
        "preset",
        "compute.device",
        "structure_factors.labels",
        "structure_factors.model.anomalous.elements",
        "structure_factors.model.anomalous.measured_element",
    }


@pytest.mark.parametrize("name", ["mask", "gain", "pedestal"])
@pytest.mark.parametrize("where", ["../out/map.pickle", "map.pickle", "$HOME/map.pickle"])
def test_maps_of_the_list(name: str, where: str, home: Path) -> None:
    """What an experiment list names for its image set counts as what the live file names."""
    values = flex.bool(flex.grid(18, 24), True) if name == "mask" else None
    values = flex.double(flex.grid(18, 24), 2.0) if values is None else values
    for folder in (".", "../out"):
        with open(f"{folder}/map.pickle", "wb") as stream:
            pickle.dump((values,), stream)
    sim.write_expt("models.expt", sim.sweep(), images=True)
    sim.edit_expt("models.expt", "imageset", 0, name, where)
    if where == "map.pickle":
        live = FormatNanoBraggLive(lh.write(*LISTED))
        sim.simulate("models.expt", *sim.QUICK)
        np.testing.assert_array_equal(lh.arrays(live.get_raw_data(0))[0], sim.pixels()[0])
        return
    said = refused(*LISTED)
    assert f"the {name} of input.experiments={where}" in said
    assert "is not below" in said or "variables are not allowed" in said


def test_nothing_is_unpickled(home: Path) -> None:
    """A pickle as mask, gain or amplitudes is not run."""

    class Evil:
        def __reduce__(self):
            return (os.mkdir, ("evil",))

    Path("evil.pickle").write_bytes(pickle.dumps(Evil()))
    sim.write_expt("models.expt", sim.sweep(), images=True)
    refused(*LISTED, "detector.gain_file=evil.pickle")
    lh.write(*LISTED, "structure_factors.file=evil.pickle")
    with pytest.raises(sim.Sorry, match="binary"):
        FormatNanoBraggLive("live.nbexpt").get_raw_data(0)
    sim.edit_expt("models.expt", "imageset", 0, "mask", "evil.pickle")
    refused(*LISTED)
    np.save("evil.npy", np.array([Evil()], dtype=object), allow_pickle=True)
    refused("input.experiments=none.expt", *sim.QUICK)
    sim.write_expt("models.expt", sim.sweep())
    assert "image_file" in refused(*LISTED, "background.image_file=evil.npy")
    assert not Path("evil").exists()


def test_models_in_other_files(home: Path) -> None:
    """dxtbx reads a model from a file where the list names one in its place."""
    content = json.loads(Path("models.expt").read_text())
    Path("../out/beam.json").write_text(json.dumps(content["beam"][0]))
    content["experiment"][0]["beam"] = "../out/beam.json"
    Path("models.expt").write_text(json.dumps(content))
    assert "must hold its models" in refused(*LISTED)


def test_plug_ins_are_not_loaded(home: Path) -> None:
    """Profile and scaling models, which dxtbx makes by plug-ins, are passed over."""
    content = json.loads(Path("models.expt").read_text())
    content["profile"] = [{"__id__": "no such model"}]
    content["scaling_model"] = [{"__id__": "no such model"}]
    content["experiment"][0].update(profile=0, scaling_model=0)
    Path("models.expt").write_text(json.dumps(content))
    FormatNanoBraggLive(lh.write(*LISTED))


@pytest.mark.parametrize("line", [
    "x { .call=os.mkdir }",
    "\t.call=os.mkdir", "x\n.type=path", '# " .call=a', "a=1;.call=os.mkdir",
])  # fmt: skip
def test_attributes(line: str, home: Path) -> None:
    """PHIL's .call imports what it names."""
    assert "words that begin with a point" in refused(*LISTED, line)


@pytest.mark.parametrize(
    "line",
    [
        "include file ../out/x.phil",
        "include scope os.environ",
        "noise { include file ../out/x.phil }",
    ],
)
def test_includes(line: str, home: Path) -> None:
    Path("../out/x.phil").write_text("noise.seed=5\n")
    assert "include" in refused(*LISTED, line)


def test_images_of_others(home: Path) -> None:
    """No other image format is opened, which might lead anywhere, or to the file itself."""
    assert ".npy" in refused(*LISTED, "background.image_file=live.nbexpt")
    assert "would open other images" in refused(*LISTED, "beam.spectrum.shape=image_set")


def test_kinds_of_files(home: Path) -> None:
    os.mkfifo("fifo")
    for name in ("fifo", "."):
        assert "structure_factors.file" in refused(*LISTED, f"structure_factors.file={name}")
    with open("large.hkl", "wb") as stream:
        stream.truncate((1 << 30) + 1)
    assert "bytes" in refused(*LISTED, "structure_factors.file=large.hkl")


# ---- what it costs


TOO_MUCH = {
    "sub-pixels": ("sampling.oversample=10000",),
    "phi steps": ("sampling.phisteps=1000000", "crystal.mosaic.domains=1000",
                  "crystal.mosaic.spread_deg=1"),
    "domains": ("crystal.mosaic.domains=1000000", "crystal.mosaic.spread_deg=1",
                "sampling.oversample=20"),
    "layers": ("sampling.thicksteps=10000", "sampling.oversample=1000"),
    "stills": ("stills.count=2000000",),
    "pixels": ("geometry.detector.panel.image_size=30000,30000",),
    "edge": ("geometry.detector.panel.image_size=100000000,1",),
    "images": ("geometry.scan.image_range=1,2000000",),
    "sources": ("beam.hdivrange_mrad=1", "beam.hdivsteps=10000", "beam.vdivrange_mrad=1",
                "beam.vdivsteps=10000"),
    "reflections": ("geometry.crystal.unit_cell=9000,9000,9000,90,90,90",),
    "a large domain": ("crystal.Ncells_abc=1e6,1e6,1e6", "sampling.oversample=Auto"),
    "batch": ("compute.batch_steps=2147483647",),
}  # fmt: skip


@pytest.mark.parametrize("case", TOO_MUCH)
def test_too_much(case: str, home: Path) -> None:
    """Refused as it is opened, in seconds and without filling the memory."""
    given = [line for line in LISTED if not any(
        line.split("=")[0] == more.split("=")[0] for more in TOO_MUCH[case])]  # fmt: skip
    if case == "stills":
        sim.write_expt("models.expt", sim.still())
        given = [line for line in given if "phisteps" not in line]
    said = refused(*given, *TOO_MUCH[case])
    assert "more than" in said or "would take" in said or "at most" in said


def test_too_much_in_the_list(home: Path) -> None:
    """A scan or a detector of the list is measured before dxtbx makes it."""
    sim.edit_expt("models.expt", "scan", 0, "image_range", [1, 2_000_000_000])
    assert "images" in refused(*LISTED)
    sim.write_expt("models.expt", sim.sweep())
    sim.edit_expt("models.expt", "detector", 0, "panels", 0, "image_size", [40000, 40000])
    assert "pixels" in refused(*LISTED)
    with open("models.expt", "ab") as stream:
        stream.truncate(1 << 27)
    assert "bytes" in refused(*LISTED)


def test_the_limit(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """18 x 24 pixels of 1 sub-pixel, 2 layers, 2 phi steps: 1728 steps, by hand; the environment
    says how many there may be."""
    monkeypatch.setenv(live_cost.LIMIT, "1727")
    said = refused(*LISTED)
    assert "1.7e+03 steps" in said and live_cost.LIMIT in said
    monkeypatch.setenv(live_cost.LIMIT, "1728")
    FormatNanoBraggLive(lh.write(*LISTED)).get_raw_data(0)
    monkeypatch.setenv(live_cost.LIMIT, "many")
    assert f"{live_cost.LIMIT}=many" in refused(*LISTED)
    monkeypatch.delenv(live_cost.LIMIT)
    more = [line for line in LISTED if "oversample" not in line]
    refused(*more, "sampling.oversample=9000")  # 1.4e11
    FormatNanoBraggLive(lh.write(*more, "sampling.oversample=7000"))  # 8.5e10: not rendered here


def test_what_adds_up(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Crystals of the same images, and sizes of domains, add to the steps."""
    sim.write_expt("models.expt", *sim.lattices(3))
    monkeypatch.setenv(live_cost.LIMIT, "5183")
    assert "5.2e+03 steps" in refused(*LISTED)
    monkeypatch.setenv(live_cost.LIMIT, "25919")
    assert "2.6e+04 steps" in refused(*LISTED, "crystal.domain_size_spread_percent=10")


def test_a_still_that_is_larger(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Domains of another size may need more sub-pixels than the first still's: counted before each
    is rendered."""
    sim.write_expt("models.expt", sim.still())
    quick = [line for line in sim.STILL if "oversample" not in line and "Ncells" not in line]
    lines = ("input.experiments=models.expt", *quick, "crystal.Ncells_abc=3,3,3",
             "stills.count=6", "stills.domain_sigma_percent=60")  # fmt: skip
    lh.write(*lines)
    steps = []
    before = live_cost.check
    monkeypatch.setattr(live_cost, "check", lambda *args: steps.append(before(*args)) or steps[-1])
    live = FormatNanoBraggLive("live.nbexpt")
    for index in range(6):
        live.get_raw_data(index)
    worst = max(range(6), key=lambda index: steps[index + 1])
    assert steps[0] == steps[1] < steps[worst + 1]
    monkeypatch.setenv(live_cost.LIMIT, str(steps[0]))
    live = FormatNanoBraggLive("live.nbexpt")
    live_process.process()._images.clear()
    with pytest.raises(sim.Sorry, match="steps"):
        live.get_raw_data(worst)


# ---- what is wrong with it


BAD = {
    "nothing": ((), "asks for nothing"),
    "no list": (("input.experiments=none.expt",), "No such file"),
    "no F": (("input.experiments=models.expt", "structure_factors.file=none.hkl"), "No such file"),
    "unknown": ((*LISTED, "noise.sead=3"), "there is no parameter noise.sead"),
    "no number": ((*LISTED, "noise.seed=three"), "noise.seed=three: give plain numbers"),
    "a variable": ((*LISTED, "noise.seed=$HOME"), "no variables"),
    "nan": ((*LISTED, "beam.fluence=nan"), "plain numbers"),
    "huge": ((*LISTED, "beam.fluence=1e999"), "finite"),
    "braces": ((*LISTED, "noise {"), "is not PHIL"),
    "no assignment": ((*LISTED, "hello"), "is not PHIL"),
    "nested": ((*LISTED, "a{" * 50000), "nested too deeply"),
    "a preset": (("preset=nosuch",), "there is no preset"),
    "output": ((*LISTED, "output.prefix=../x"), "output.prefix: a live file writes nothing"),
    "sweep 2": ((*LISTED, "input.sweep=2"), "input.sweep=2"),
    "sweep 0": ((*LISTED, "input.sweep=0"), "input.sweep"),
    "another list": (("input.experiments=f.hkl", *sim.QUICK), "not an experiment list"),
    "no fluence": (("input.experiments=models.expt", "structure_factors.default_F=1"), "fluence"),
    "two ways": ((*LISTED, "sampling.image_range=1,2"), "image_range"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad(case: str, home: Path) -> None:
    lines, wanted = BAD[case]
    assert wanted in refused(*lines)


def test_bad_heads(home: Path) -> None:
    assert "later nanobragg" in refused(*LISTED, first="# nanobragg live 2\n")
    assert "first line" in refused(*LISTED, first="# nanobragg live\n".replace("e\n", "e x\n"))
    for tail, wanted in ((b"\xff\xfe", "not text"), (b"\0", "not text"), (b"#" * 10**6, "bytes")):
        Path("live.nbexpt").write_bytes(lh.FIRST.encode() + tail)
        with pytest.raises(sim.Sorry, match=wanted):
            FormatNanoBraggLive("live.nbexpt")


def test_truncated(home: Path) -> None:
    """Wherever a file ends, it is opened or there is a Sorry."""
    lh.write("input.experiments=models.expt", "noise { seed=3 }", *sim.QUICK)
    whole = Path("live.nbexpt").read_bytes()
    for length in range(len(lh.FIRST) - 1, len(whole), 7):
        Path("live.nbexpt").write_bytes(whole[:length])
        try:
            FormatNanoBraggLive("live.nbexpt")
        except sim.Sorry as error:
            assert "\n" not in str(error)


def test_bad_lists(home: Path) -> None:
    """Truncated, of another kind, empty, with a NaN, without a model, of several sweeps."""
    whole = Path("models.expt").read_text()
    for text in (whole[: len(whole) // 2], "[]", "{}", '{"__id__": "ExperimentList"}', "null",
                 '{"__id__": "ExperimentList", "experiment": []}',
                 '{"__id__": "ExperimentList", "experiment": [3]}', "[" * 100000):  # fmt: skip
        Path("models.expt").write_text(text)
        assert "input.experiments=models.expt" in refused(*LISTED)
    Path("models.expt").write_text(whole)
    sim.edit_expt("models.expt", "beam", 0, "wavelength", float("nan"))
    assert "NaN" in refused(*LISTED)
    sim.write_expt("models.expt", sim.sweep(crystal=None))
    assert "no crystal" in refused(*LISTED)
    sim.write_expt("models.expt", sim.sweep(), sim.sweep(identifier="2", scan=sim.scan(1, 2)))
    assert "choose it with input.sweep" in refused(*LISTED)


def test_no_such_device(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The CPU does it, and the log says so."""
    lh.write(*LISTED, "compute.device=cuda:77")
    live = FormatNanoBraggLive("live.nbexpt")
    assert "cuda:77" in caplog.text and "the CPU is used" in caplog.text
    sim.simulate("models.expt", *sim.QUICK)
    np.testing.assert_array_equal(lh.arrays(live.get_raw_data(1))[0], sim.pixels()[1])


def test_what_dials_import_says(home: Path) -> None:
    """One sentence, no traceback."""
    lh.write(*LISTED, "structure_factors.file=../out/f.hkl")
    code = (
        "import image_file_helpers as ifh\n"
        "from dials.command_line import dials_import\n"
        "with ifh.registry(True): dials_import.run(['live.nbexpt'])"
    )
    done = lh.python(code)
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert "Sorry: " in done.stderr and "is not below the folder of the live file" in done.stderr
