"""Tiny command lines for nanobragg.classic, and the command called within the test's process."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import simulate_helpers as sim
from libtbx.utils import Sorry

from nanobragg_plugin.command_line import classic as command

#: As little work as possible: triclinic, not square, few reflections.
BASE = {
    "-cell": "30 40 50 80 95 100",
    "-misset": "10 20 30",
    "-hkl": "P1.hkl",
    "-N": "3",
    "-nointerpolate": "",
    "-lambda": "1",
    "-distance": "40",
    "-pixel": "0.5",
    "-detpixels_f": "12",
    "-detpixels_s": "10",
    "-oversample": "1",
    "-seed": "1",
}
SHAPE = (10, 12)
#: What a run makes where no flag says otherwise, by nanoBragg.c's names.
OUTPUTS = {"floatimage.bin", "intimage.img", "image.pgm", "noiseimage.img"}


@dataclass(frozen=True)
class Outcome:
    """What a run made: the files that are new or changed, and what it printed."""

    files: dict[str, bytes]
    stdout: str
    stderr: str


def words(change: str = "", drop: str = "") -> list[str]:
    """The words of BASE without some flags, and of a change after them."""
    kept = [f"{flag} {value}" for flag, value in BASE.items() if flag not in drop.split()]
    return " ".join([*kept, change]).split()


def run(*arguments: str) -> Outcome:
    """The command in the working folder."""
    before = sim.contents(Path.cwd())
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        command.run(list(arguments))
    after = sim.contents(Path.cwd())
    made = {name: found for name, found in after.items() if found != before.get(name)}
    return Outcome(made, out.getvalue(), err.getvalue())


def refused(*arguments: str) -> str:
    """What the command says when it refuses: one sentence, no other error before it, no file made
    and none changed."""
    before = sim.contents(Path.cwd())
    with pytest.raises(Sorry) as caught, contextlib.redirect_stdout(io.StringIO()):
        command.run(list(arguments))
    assert sim.contents(Path.cwd()) == before
    error = caught.value
    assert error.__cause__ is None and (error.__suppress_context__ or error.__context__ is None)
    message = str(error)
    assert message and "\n" not in message and "Traceback" not in message
    return message


def smv(
    name: str, shape: tuple[int, int] = SHAPE, fill: np.ndarray | int = 1, text: str = ""
) -> None:
    """An SMV file; text: further lines of its header."""
    size = f"SIZE1={shape[1]};\nSIZE2={shape[0]};\n"
    head = (
        f"{{\nHEADER_BYTES=512;\nBYTE_ORDER=little_endian;\nTYPE=unsigned_short;\n{size}{text}}}\f"
    )
    pixels = np.broadcast_to(np.asarray(fill, "<u2"), shape)
    Path(name).write_bytes(head.encode().ljust(512) + pixels.tobytes())


def pixels_of(content: bytes, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    """uint16 [slow, fast] of an SMV file with a header of 512 bytes."""
    return np.frombuffer(content[512:], "<u2").reshape(shape)


def place_inputs() -> None:
    """Every kind of file that a flag reads, in the working folder."""
    near = [(h, k, l) for h in range(-3, 4) for k in range(-4, 5) for l in range(-3, 4)]
    for name, slope in (("P1.hkl", 3), ("other.hkl", 5)):
        lines = [f"{h} {k} {l} {200 + slope * (h + 2 * k + 4 * l)}\n" for h, k, l in near]
        Path(name).write_text("".join(lines))
    Path("A.mat").write_text("0.03 0.001 0\n0 0.025 0.002\n0.003 0 0.02\n")
    Path("sources.txt").write_text("-10 0.02 0.03\n-9.5 -0.05 0.04\n")
    mask = np.ones(SHAPE, int)
    mask[2:5, 3:9] = 0
    smv("mask.img", fill=mask)
    smv("header.img", text="DISTANCE=45;\nWAVELENGTH=1.1;\n")
