# ruff: noqa: E402
"""Every parameter of nanobragg.simulate with values that nobody would give, or somebody with ill
intent: the command plans a run, or refuses in a sentence; no code of the file's is run."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("dials")

import hostile
import simulate_helpers as sim
from hypothesis import given, settings
from hypothesis import strategies as st
from libtbx.utils import Sorry

from nanobragg_plugin.command_line import simulate as command
from nanobragg_plugin.run import phil_guard

NUMBERS = ["nan", "inf", "-inf", "1e308", "-1e308", "1e-308", "-1", "0", "1e400", "9" * 400, "0x10"]
WORDS = [
    "",
    "None",
    "Auto",
    "True",
    "foo",
    '""',
    "\u65e5\u672c",
    "\x1b[31m",
    "a" * 10_000,
    "*",
    ";",
]
FILES = [
    "nowhere", "pipe", "/dev/zero", "/dev/urandom", "/dev/null", ".", "/", "binary", "empty",
    "text", "models.expt", "a" * 300, "link", "/proc/self/mem",
]  # fmt: skip
DEFINITIONS = {d.path: d.object for d in command.phil_scope.all_definitions()}


def values(definition) -> list[str]:
    """By the type of a parameter: numbers of it, in lists of any length, words, files."""
    kind = definition.type.phil_type
    single = NUMBERS + WORDS
    if kind == "path" or "file" in definition.name:
        return single + FILES
    if kind in ("ints", "floats", "strings"):
        lists = [",".join([one] * n) for one in (*NUMBERS, "foo") for n in (2, 3, 6, 9)]
        return single + lists + [",".join(["1"] * 10_000)]
    return single


@pytest.fixture
def folder(tmp_cwd: Path) -> Path:
    sim.write_expt("models.expt", sim.sweep(), images=True)
    os.mkfifo("pipe")
    Path("binary").write_bytes(np.random.default_rng(0).bytes(3000))
    Path("empty").touch()
    Path("text").write_text("1 2 3\n" * 100)
    Path("link").symlink_to("link")
    return tmp_cwd


def assignments() -> list[str]:
    return [f"{path}={v}" for path, d in DEFINITIONS.items() for v in values(d)]


def test_any_value_of_any_parameter(folder: Path) -> None:
    every = assignments()
    assert len(DEFINITIONS) > 150 and len(every) > 5000
    files = [a for a in every if a.split("=", 1)[1] in FILES]
    chosen = hostile.some(every, 130) + hostile.some(files, 50)
    cases = [["plan", ["models.expt", *hostile.PLAN, one]] for one in chosen]
    found = hostile.assert_well(cases, folder)
    kinds = [one == "ok" for one, _ in found]
    assert any(kinds) and not all(kinds)


def test_pipes_and_devices_are_never_read(folder: Path) -> None:
    names = [path for path, d in DEFINITIONS.items() if d.type.phil_type == "path"]
    inputs = [path for path in names if not path.startswith(("output.", "input."))]
    assert len(inputs) > 5
    cases = [
        ["plan", ["models.expt", *hostile.PLAN, f"{path}={name}"]]
        for path in inputs
        for name in ("pipe", "/dev/zero")
    ]
    cases += [["plan", ["models.expt", *hostile.PLAN, n]] for n in ("pipe", "/dev/zero", "a.phil")]
    Path("a.phil").symlink_to("/dev/zero")
    for one, _ in hostile.assert_well(cases, folder):
        assert one.startswith("Sorry: "), one


# ---- PHIL is evaluated by libtbx: numbers, types and calls as Python

EVIL = [
    "beam.fluence = __import__('os').mkdir('broken_into')",
    "beam.fluence = open('broken_into', 'w').write('x')",
    "beam.fluence = 1e24\n  .type = int(value_min=open('broken_into','w'))",
    "beam\n  .call = os.mkdir(open('broken_into','w'))\n{ fluence = 1 }",
    "beam { fluence = (lambda: open('broken_into','w'))() }",
    "crystal.size_mm = 1, [open('broken_into', 'w')][0], 1",
    "sampling.roi = 0,1,0,exec(\"open('broken_into','w')\")",
    "geometry.beam.wavelength = open ('broken_into', 'w')",
    "geometry.detector.panel { origin = 0,0,open('broken_into','w') }",
    "geometry.crystal.unit_cell = 1,2,3,90,90,eval('print')",
    "stills.count = 9**9**9**9",
    "stills.count = 10 ** 10 ** 10",
    "noise.seed = input()",
    "noise.seed = exit()",
    "noise.seed = True.__class__",
    "include scope broken_into.scope",
    "include file /dev/zero",
]


@pytest.mark.parametrize("way", ["file", "argument"])
def test_phil_runs_no_code(way: str, folder: Path) -> None:
    evil = EVIL if way == "file" else [e for e in EVIL if not e.startswith(("include", "beam\n"))]
    cases = []
    for number, text in enumerate(evil):
        Path(f"{number}.phil").write_text(text + "\n")
        argument = f"{number}.phil" if way == "file" else text.replace(" = ", "=", 1)
        cases.append(["plan", ["models.expt", *hostile.PLAN[:1], *hostile.PLAN[2:], argument]])
    for text, (one, _) in zip(evil, hostile.assert_well(cases, folder)):
        assert one.startswith("Sorry: "), text
    assert not Path("broken_into").exists()


@pytest.mark.parametrize(
    "text",
    ["1e24", "1.5", "1.e5", ".5", "-1", "+2e-3", "1/3", "2*pi", "(1+2)*3", "None", "1e3 .5", "nan"],
)
def test_honest_numbers_pass(text: str) -> None:
    phil_guard.check_arguments([f"geometry.beam.wavelength={text}"], command.phil_scope)


def test_a_listing_of_the_parameters_is_accepted(tmp_cwd: Path) -> None:
    """What -c -a 3 prints has types and all else in it."""
    Path("all.phil").write_text(command.phil_scope.as_str(attributes_level=2))
    phil_guard.check_arguments(["all.phil"], command.phil_scope)


@settings(max_examples=200)
@given(st.text(alphabet="()[]{}'\"_.,*+-/ abcdefghijklmnopqrstuvwxyz0123456789", max_size=40))
def test_numbers_that_are_let_through_call_nothing(text: str) -> None:
    """Whatever passes has, as Python sees it, no call, attribute, index, power or lambda."""
    import ast

    try:
        phil_guard.check_arguments([f"beam.fluence={text}"], command.phil_scope)
    except Sorry:
        return
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError):
        return
    forbidden = (ast.Call, ast.Attribute, ast.Subscript, ast.Pow, ast.Lambda, ast.comprehension)
    assert not any(isinstance(node, forbidden) for node in ast.walk(tree)), text


def test_large_and_deep_phil_files(folder: Path) -> None:
    files = {
        "long.phil": "beam.fluence = " + "1+" * 10**5 + "1",
        "large.phil": "# x\n" * 2 * 10**6,
        "deep.phil": "a { " * 10**4,
        "nested.phil": "beam.fluence = " + "(" * 3000 + "1" + ")" * 3000,
        "minus.phil": "beam.fluence = " + "-" * 90_000 + "1",
        "many.phil": "background.level = 3\n" * 2000,
        "text.phil": "beam.fluence = '" + "a" * 10**7 + "'",
    }
    for name, text in files.items():
        Path(name).write_text(text)
    cases = [["plan", ["models.expt", *hostile.PLAN, name]] for name in files]
    found = hostile.assert_well(cases, folder)
    assert json.dumps(found)
