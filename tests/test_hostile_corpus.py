# ruff: noqa: E402
"""Parsers of ours and bytes that are not what they should be: what fuzzing found (tests/fuzz), and
damaged copies of it. And: nothing of ours unpickles or evaluates what it reads."""

from __future__ import annotations

import ast
import pickle
import resource
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("dxtbx")

sys.path.insert(0, str(Path(__file__).parent / "fuzz"))
import hostile
import targets
from scitbx.array_family import flex

from nanobragg_plugin.adapters import flex_pickle

PACKAGE = Path(__file__).resolve().parents[1] / "nanobragg_plugin"


@pytest.mark.parametrize("name", targets.TARGETS)
def test_corpus(name: str) -> None:
    """Every file of it, and damaged copies, within a second of CPU each."""
    files = [path.read_bytes() for path in targets.corpus(name)]
    assert files
    for number, data in enumerate(files):
        with hostile.alarm():
            targets.TARGETS[name](data)
            for damaged in targets.mutations(data, files, number, 10):
                targets.TARGETS[name](damaged)


def test_the_corpus_is_small() -> None:
    files = [path for path in targets.CORPUS.rglob("*") if path.is_file()]
    assert len(files) <= 220 and sum(path.stat().st_size for path in files) <= 200_000


# ---- pickles that are no masks


GRID = b"\x8c\x1cscitbx_array_family_flex_ext\x8c\x04grid\x93"
#: A tuple of the last one twice, in its place: to look through n of them takes 2^n steps.
TWICE = b"h\x00h\x00\x86q\x00"
EDGE = b"J\xff\xff\xff\x7f"
BOMBS = {
    "a memo of 2^31 places": b"\x80\x02)r\xff\xff\xff\x7f.",
    "a text of 2^32 bytes": b"\x80\x02X\xff\xff\xff\xff",
    "bytes of 2^64": b"\x80\x04\x8e" + b"\xff" * 8,
    "a number of 2^31 bytes": b"\x80\x02\x8b\xff\xff\xff\x7f",
    "marks": b"(" * 10**6,
    "tuples of tuples": b"\x80\x04)q\x00" + TWICE * 10_000 + b".",
    "a shape of tuples": b"\x80\x04)q\x00" + TWICE * 60 + GRID + b"h\x00h\x00\x86R.",
    "a shape of 2^62": b"\x80\x04" + GRID + b"(K\0K\0t(" + EDGE * 2 + b"t\x88\x87R.",
    "a list in itself": b"\x80\x02]q\x00h\x00a.",
    "persistent": b"Pid\n.",
    "an instance": b"(ios\nsystem\n.",
    "an extension": b"\x82\x01.",
    "a call": b"cos\nsystem\n(X\x02\x00\x00\x00lstR.",
    "no end": pickle.dumps((flex.bool(flex.grid(2, 3), True),))[:-1],
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_pickles_that_are_bombs(name: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    with hostile.alarm(), pytest.raises(ValueError):
        flex_pickle.read(BOMBS[name], "bool")
    assert time.process_time() - start < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_what_dials_pickles_is_read(protocol: int) -> None:
    """Against flex itself: values of any size, both kinds, alone, in tuples and in lists."""
    rng = np.random.default_rng(1)
    values = rng.normal(size=(5, 7)) * 10.0 ** rng.integers(-300, 300, size=(5, 7))
    values[0, 0] = 0
    for kind, one in (("double", flex.double(values)), ("bool", flex.bool(values > 0))):
        for found in (one, (one, one), [one]):
            arrays = flex_pickle.read(pickle.dumps(found, protocol), kind)
            assert len(arrays) == (1 if found is one else len(found))
            assert all((array == one.as_numpy_array()).all() for array in arrays)
            assert all(array.shape == (5, 7) for array in arrays)


# ---- what the sources may not have

MODULES = {"pickle", "cPickle", "_pickle", "marshal", "shelve", "yaml", "dill", "joblib"}
CALLS = {"eval", "exec", "compile", "__import__"}
LOADERS = {"easy_pickle", "from_pickle", "from_pickle_file"}


def offences(source: str) -> list[str]:
    """Imports and calls that would run what a file says."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(alias.name for alias in node.names)]
        else:
            names = []
        found += [name for name in names if {*name.split(".")} & (MODULES | LOADERS)]
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        if isinstance(function, ast.Name) and function.id in CALLS:
            found.append(function.id)
        elif isinstance(function, ast.Attribute):
            owner = function.value.id if isinstance(function.value, ast.Name) else ""
            if function.attr in LOADERS or (owner, function.attr) == ("torch", "load"):
                found.append(f"{owner}.{function.attr}")
            if (owner, function.attr) in (("np", "load"), ("numpy", "load")):
                allowed = given.get("allow_pickle")
                if allowed is not None and getattr(allowed, "value", True) is not False:
                    found.append("numpy.load")
    return found


def test_nothing_of_ours_runs_what_it_reads() -> None:
    paths = [
        path for path in PACKAGE.rglob("*.py") if "phil" not in path.relative_to(PACKAGE).parts
    ]
    assert len(paths) > 100
    found = {path.name: offences(path.read_text(encoding="utf-8")) for path in paths}
    assert {name: what for name, what in found.items() if what} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle", "from pickle import loads", "import a.yaml", "eval(x)", "exec(x)",
        "from libtbx import easy_pickle", "torch.load(x)", "np.load(x, allow_pickle=True)",
        "flex.reflection_table.from_pickle(x)", "def f():\n    import marshal",
    ],
)  # fmt: skip
def test_the_look_at_sources_finds(source: str) -> None:
    assert offences(source)
