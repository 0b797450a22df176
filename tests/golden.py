"""nanoBragg.c's reference images, and nanobragg.classic run on their command lines.

`data/golden` is the project's set, `data/golden_more` a second one made for these tests; each
has a README that says with which program and how.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parent / "data" / "golden"
MORE = Path(__file__).parent / "data" / "golden_more"
#: What nanoBragg.c writes, by default under these names.
FLOAT, INT = "floatimage.bin", "intimage.img"


@dataclass(frozen=True)
class Case:
    """One command line: `words` of it, the modes that it has an image of, the files it reads, the
    header that nanoBragg.c wrote, and by how much the two modes differ, of the maximum."""

    name: str
    words: tuple[str, ...]
    modes: tuple[str, ...]
    files: tuple[str, ...]
    shape: tuple[int, int]
    header: str
    spec_differs: float
    folder: Path

    def images(self) -> dict[str, np.ndarray]:
        """float_image, int_image, and spec_image where fresh rotations give another."""
        if self.folder == GOLDEN:
            with np.load(GOLDEN / f"{self.name}.npz") as arrays:
                return {key: arrays[key] for key in arrays.files}
        arrays, start = _stored(), f"{self.name}/"
        return {key[len(start) :]: arrays[key] for key in arrays.files if key.startswith(start)}

    def expected(self, mode: str) -> np.ndarray:
        """Float photons [slow, fast] of `spec` (fresh rotations) or `c-parity`."""
        images = self.images()
        if mode == "spec" and "spec_image" in images:
            return images["spec_image"]
        return images["float_image"]

    def place_files(self) -> None:
        """Copy what the command line reads into the working folder."""
        for name in self.files:
            source = self.folder / name
            shutil.copy(source if source.exists() else GOLDEN / name, name)


@cache
def _stored() -> np.lib.npyio.NpzFile:
    return np.load(MORE / "images.npz")


def listed(folder: Path = GOLDEN) -> list[dict]:
    """`cases.json`."""
    return json.loads((folder / "cases.json").read_text())


@cache
def cases() -> dict[str, Case]:
    """Every case of both sets, by name."""
    found = [
        Case(
            entry["name"],
            tuple(entry["args"].split()),
            tuple(entry["modes"]),
            tuple(entry["files"]),
            tuple(entry["shape"]),
            entry["smv_header"],
            entry["spec_differs"],
            folder,
        )
        for folder in (GOLDEN, MORE)
        for entry in listed(folder)
    ]
    assert len({case.name for case in found}) == len(found)
    return {case.name: case for case in found}


def classic(case: Case, mode: str, *words: str) -> np.ndarray:
    """Run nanobragg.classic on a case in the working folder: its photons, float32 [slow, fast]."""
    from nanobragg_plugin.command_line import classic as command

    case.place_files()
    command.run([*case.words, "-phi_carryover_mode", mode, *words])
    return np.fromfile(FLOAT, "<f4").reshape(case.shape)


def smv(name: str, shape: tuple[int, int]) -> tuple[str, np.ndarray]:
    """Header's text and pixels [slow, fast] of an SMV file."""
    raw = Path(name).read_bytes()
    text = raw[:512].decode("ascii").rstrip(" ")
    return text, np.frombuffer(raw[512:], "<u2").reshape(shape)
