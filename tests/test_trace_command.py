# ruff: noqa: E402
"""nanobragg.trace and its report, beside the trace that an instrumented nanoBragg.c prints."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("dials")

import numpy as np
import simulate_helpers as sim
from libtbx.utils import Sorry

from nanobragg_plugin import traced
from nanobragg_plugin.adapters.classic import exact
from nanobragg_plugin.adapters.classic.translate import translate
from nanobragg_plugin.command_line import trace as command
from nanobragg_plugin.run import trace_report

#: Of the golden data's seed pixel: arguments, and the C program's trace.
SEED = {
    "as given": ("args.txt", "trace_685_1039.txt"),
    "orthogonal": ("orthogonal_args.txt", "orthogonal_trace_685_1039.txt"),
}
#: The same as `orthogonal_args.txt`, for orthogonal.expt.
SEED_PHIL = (
    "structure_factors.file=scaled.hkl",
    "crystal.Ncells_abc=36,47,29",
    "crystal.xtal_shape=square",
    "beam.fluence=1e24",
    "sampling.oversample=1",
    "sampling.oversample_thick=False",
    "sampling.oversample_polar=False",
    "sampling.oversample_omega=False",
    "sampling.phi_carryover_mode=c-parity",
    "sampling.phi_sampling=start",
    "sampling.phisteps=10",
    "compute.precision=double",
    "compute.tolerance=0",
)


@pytest.fixture
def seed(shared: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the seed pixel is the working directory: its A.mat and scaled.hkl are
    another project's data."""
    folder = shared / "golden" / "seed_pixel"
    if not (folder / "scaled.hkl").is_file():
        pytest.skip("there is no golden/seed_pixel in the folder `shared`")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def expt(tmp_cwd: Path) -> str:
    return sim.write_expt("models.expt", sim.sweep(detector=sim.detector(2)), images=True)


def c_trace(path: Path) -> dict[str, list[float]]:
    """The figures of a log of the instrumented C program, by name."""
    lines = [line.split() for line in path.read_text().splitlines()]
    return {words[1]: [float(x) for x in words[2:]] for words in lines if words[0] == "TRACE_C:"}


def numbers(value: Any) -> list[float]:
    return [float(x) for x in (value if isinstance(value, (list, tuple)) else [value])]


def assert_is_c(ours: dict[str, Any], path: Path) -> None:
    """The names in their order, and every value to 1e-9. Measured worst of both pixels and both
    commands 4.0e-13 (I_before_scaling)."""
    theirs = c_trace(path)
    assert len(theirs) == 40 and list(ours) == list(theirs)
    for name, expected in theirs.items():
        assert numbers(ours[name]) == pytest.approx(expected, rel=1e-9, abs=0), name


def run(capsys: pytest.CaptureFixture, *args: object) -> str:
    """What the command prints."""
    command.run([str(arg) for arg in args])
    return capsys.readouterr().out


def refused(*args: object) -> str:
    """What the command says when it refuses."""
    with pytest.raises(Sorry) as caught:
        command.run([str(arg) for arg in args])
    message = str(caught.value)
    assert message and "\n" not in message and caught.value.__cause__ is None
    return message


# ---- nanoBragg.c's own trace


@pytest.mark.parametrize("name", SEED)
def test_the_seed_pixel_by_nanobraggs_arguments(seed: Path, name: str) -> None:
    """As a report, as JSON and as text, whose lines are those of the C program's log."""
    args, expected = SEED[name]
    t = translate([*Path(args).read_text().split(), "-phi_carryover_mode", "c-parity"])
    plan = exact.plan_of(t)
    report = trace_report.of_plan(
        plan.experiment_of_image(0),
        exact.exposure_of(t, plan),
        plan.structure_factors,
        plan.options,
        0,
        685,
        1039,
    )
    assert_is_c(report.values()["nanoBragg_c"], seed / expected)
    assert_is_c(json.loads(report.json())["nanoBragg_c"], seed / expected)
    lines = [line.split() for line in report.text().splitlines() if line.startswith("TRACE:")]
    of_text = {words[1]: [float(x) for x in words[2:]] for words in lines}
    assert_is_c(of_text, seed / expected)
    assert report.trace.samples[0].sources[0].steps[0].stale


def test_the_seed_pixel_by_models(seed: Path, capsys: pytest.CaptureFixture) -> None:
    printed = run(capsys, "orthogonal.expt", *SEED_PHIL, "pixel=685,1039", "--json")
    report = json.loads(printed)
    assert_is_c(report["nanoBragg_c"], seed / SEED["orthogonal"][1])
    windows = np.load("orthogonal_windows.npz")
    middle = (0, 685 - 621, 1039 - 975)  # of the C program's images
    assert report["sums"]["photons_float32"] == windows["c_parity"][middle]
    steps = report["samples"][0]["sources"][0]["steps"]
    assert [step["stale"] for step in steps] == [True] + [False] * 9
    spec = ("sampling.phi_carryover_mode=spec", "pixel=685,1039", "json=True")
    report = json.loads(run(capsys, "orthogonal.expt", *SEED_PHIL, *spec))
    steps = report["samples"][0]["sources"][0]["steps"]
    assert not any(step["stale"] for step in steps)
    assert report["sums"]["photons_float32"] == windows["spec"][middle]


# ---- what is printed


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """(name, number, word or None) of everything in a JSON tree."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, key)
    elif isinstance(value, list):
        for item in value:
            yield from leaves(item, name)
    else:
        yield name, value


MODELS = {
    "rotation": ("sampling.phisteps=2",),
    "fine": ("sampling.oversample=2", "sampling.thicksteps=3", "crystal.xtal_shape=square"),
    "mosaic": ("crystal.mosaic.spread_deg=0.5", "crystal.mosaic.domains=3"),
    "sources": ("beam.hdivrange_mrad=2", "beam.hdivsteps=3", "sampling.oversample_polar=0"),
    "once": ("sampling.oversample_polar=0", "sampling.oversample_omega=0", "sampling.phisteps=1"),
    "unpolarized": ("beam.polarization_correction=False", "background.water_c=3"),
    "d_min": ("sampling.d_min=5", "sampling.oversample=3"),
    "all cut": ("sampling.d_min=50",),
}


@pytest.mark.parametrize("name", MODELS)
def test_text_and_json_hold_the_same(expt: str, capsys: pytest.CaptureFixture, name: str) -> None:
    """Every number of the JSON is in the text, in ten digits or more."""
    args = (expt, *sim.STILL, "pixel=11,3", "panel=1", "image=12", *MODELS[name])
    report = json.loads(run(capsys, *args, "--json"))
    text = run(capsys, *args)
    assert list(report) == ["inputs", "samples", "sums", "nanoBragg_c"]
    assert set(report["inputs"]) == {"image", *(f.name for f in fields(traced.Inputs))}
    assert list(report["sums"]) == [f.name for f in fields(traced.Sums)]
    inputs = report["inputs"]
    assert [inputs[k] for k in ("slow", "fast", "panel", "image")] == [11, 3, 1, 12]
    printed = np.array([float(x) for x in re.findall(r"-?\d[\d.e+-]*", text)])
    for name, value in leaves(report):
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            assert np.isclose(printed, value, rtol=6e-10, atol=0).any(), name
    samples = inputs["oversample"] ** 2 * inputs["layers"]
    assert len(report["samples"]) == samples
    for sample in report["samples"]:
        assert list(sample) == [f.name for f in fields(traced.Sample)]
        assert len(sample["sources"]) == inputs["sources"]
        for source in sample["sources"]:
            assert len(source["steps"]) == inputs["phisteps"] and len(source["rays"]) == 1
            for step in source["steps"]:
                count = inputs["mosaic_domains"] if source["rays"][0]["within_d_min"] else 0
                assert len(step["domains"]) == count


def test_text_names_its_units(expt: str, capsys: pytest.CaptureFixture) -> None:
    lines = run(capsys, expt, *sim.QUICK, "pixel=11,3").splitlines()
    assert lines[0] == "Pixel slow 11, fast 3 of panel 0, image 11"
    for name, unit in (
        ("origin", "mm"),
        ("position", "mm"),
        ("distance", "mm"),
        ("wavelength", "Angstrom"),
        ("q", "1/Angstrom"),
        ("stol", "1/Angstrom"),
        ("omega_pixel", "sr"),
        ("s1_unit", "unit vector"),
        ("fluence", "photons/m^2"),
        ("photons", "photons"),
        ("I_before_scaling", "electrons^2"),
    ):
        found = [line for line in lines if line.split()[:1] == [name] and " = " not in line]
        assert found and all(line.endswith(unit) for line in found), name
    assert any(line.startswith("  photons = r_e_sqr * fluence * ") for line in lines)


def test_the_photons_are_those_of_the_images(expt: str, capsys: pytest.CaptureFixture) -> None:
    """Which nanobragg.simulate writes, panel and image by number; what the sparse kernel leaves
    out of an image is told."""
    usual = [word for word in sim.QUICK if "background" not in word]
    usual += ["compute.kernel=sparse", "compute.tolerance=0.1"]
    sim.simulate(expt, *usual, "noise.poisson=False")
    capsys.readouterr()
    pixels = sim.pixels()
    assert pixels.shape == (3, 2 * 18, 24) and pixels.max() > 0  # the panels one below the other
    brightest = np.unravel_index(pixels[:, 18:].argmax(), (3, 18, 24))
    left_out = []
    for panel, image, slow, fast in (
        (0, 11, 0, 0),
        (1, 12, 5, 20),
        (1, 13, 17, 23),
        (1, 11 + brightest[0], *brightest[1:]),
    ):
        where = (f"panel={panel}", f"image={image}", f"pixel={slow},{fast}")
        sums = json.loads(run(capsys, expt, *usual, *where, "--json"))["sums"]
        expected = float(pixels[image - 11, 18 * panel + slow, fast])
        assert 0 <= sums["left_out"] <= 0.1
        # both are float32
        assert expected == pytest.approx(sums["photons"] - sums["left_out"], rel=1e-7, abs=0)
        if not sums["left_out"]:
            assert expected == sums["photons_float32"]
        left_out.append(sums["left_out"] > 0)
    assert set(left_out) == {True, False}
    slow, fast = np.unravel_index(pixels[1, :18].argmax(), (18, 24))
    few = ("sampling.image_range=12,13", "image=12", f"pixel={slow},{fast}", "--json")
    report = json.loads(run(capsys, expt, *usual, *few))
    assert report["inputs"]["image"] == 12
    assert report["sums"]["photons_float32"] == float(pixels[1, slow, fast]) > 0


def test_models_without_a_list_and_lists_of_several(
    tmp_cwd: Path, capsys: pytest.CaptureFixture
) -> None:
    usual = (*sim.QUICK, "pixel=3,4", "--json")
    report = json.loads(run(capsys, *sim.GEOMETRY, *usual))
    assert report["inputs"]["image"] == 11
    one = sim.sweep(identifier="one")
    two = sim.sweep(identifier="two", scan=sim.scan(21, 2, 8.0))
    path = sim.write_expt("two.expt", one, two)
    first = json.loads(run(capsys, path, *usual))
    second = json.loads(run(capsys, path, *usual, "experiment=1"))
    assert first["inputs"]["image"] == 11 and second["inputs"]["image"] == 21
    assert first["samples"] != second["samples"]
    phi = [step["phi_deg"] for step in second["samples"][0]["sources"][0]["steps"]]
    assert phi == pytest.approx([8.25, 8.75], rel=1e-14)


# ---- what is refused


def test_what_is_refused(expt: str) -> None:
    usual = (expt, *sim.QUICK)
    roi = "sampling.roi=0,5,0,5"
    for args, why in (
        ((), "which pixel? give pixel=SLOW,FAST"),
        (("pixel=18,0",), "outside panel 0, which has 18 x 24 pixels"),
        (("pixel=0,24",), "outside panel 0"),
        (("pixel=-1,3",), "pixel"),
        (("pixel=3",), "pixel"),
        (("pixel=3,4", "panel=2"), "no panel 2: the detector has 2"),
        (("pixel=8,2", roi), "is not simulated: it is masked, or outside the region"),
        (("pixel=3,4", "image=10"), "image=10: the images are 11 to 13"),
        (("pixel=3,4", "image=11", "sampling.image_range=12,13"), "the images are 12 to 13"),
        (("pixel=3,4", "experiment=1"), "the list holds 1"),
        (("pixel=3,4", "preset=help"), "nanobragg.simulate preset=help"),
        (("pixel=3,4", "nosuch=1"), "nanobragg.trace -c"),
        (("pixel=3,4", "--nosuch"), "nanobragg.trace -h"),
        (("pixel=3,4", "compute.device=nosuch"), "compute.device=nosuch"),
    ):
        assert why in refused(*usual, *args)
    assert "no list" in refused(*sim.GEOMETRY, *sim.QUICK, "pixel=3,4", "experiment=1")
    assert "which has" not in refused("nosuch.expt", "pixel=3,4")


def test_a_masked_pixel(tmp_cwd: Path) -> None:
    detector = sim.detector()
    detector[0].add_mask(2, 3, 4, 5)
    path = sim.write_expt("models.expt", sim.sweep(detector=detector))
    assert "is not simulated" in refused(path, *sim.QUICK, "pixel=3,2")
    gaps = "detector.gaps.module_size=11,18", "detector.gaps.width=2,0"
    assert "is not simulated" in refused(path, *sim.QUICK, "pixel=3,12", *gaps)
