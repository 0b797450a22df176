"""What a command's arguments mean beyond what DIALS' parser knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from libtbx.phil import parse
from libtbx.utils import Sorry


def preset_of(args: list[str], scope: Any) -> str | None:
    """The preset that arguments or PHIL files ask for, the last one if there are several."""
    found = None
    for arg in args:
        if arg.startswith("preset="):
            found = arg.split("=", 1)[1].strip("\"'")
        elif arg.endswith((".phil", ".eff", ".def", ".params")) and Path(arg).is_file():
            text = Path(arg).read_text(encoding="utf-8", errors="replace")
            try:
                given = [d for d in parse(text).objects if d.name == "preset"]
            except RuntimeError as error:
                raise Sorry(f"{arg} is not a PHIL file: {error}") from error
            if given:
                found = given[-1].extract()
                found = found[0].value if isinstance(found, list) else found
    return None if found in (None, "None") else found


def check_readable(args: list[str]) -> None:
    """`Sorry` for an argument that names a file which is missing or cannot be read."""
    for arg in args:
        if arg.startswith("-") or "=" in arg:
            continue
        path = Path(arg)
        if not path.exists():
            raise Sorry(f"there is no file {arg}")
        if path.is_dir():
            raise Sorry(f"{arg} is a folder; name the files in it")
        try:
            with path.open("rb") as handle:
                if not handle.read(1):
                    raise Sorry(f"{arg} is empty")
        except OSError as error:
            raise Sorry(f"{arg} cannot be read: {error.strerror}") from error


def take_files(unhandled: list[str], params: Any) -> None:
    """A file that is neither experiment list nor PHIL holds the structure factors; `Sorry` for
    anything else."""
    for arg in unhandled:
        if "=" in arg:
            raise Sorry(
                f"the parameter {arg!r} is unknown or its value is not of its type: "
                "nanobragg.simulate -c -e 2 lists them all"
            )
        if arg.endswith(".expt"):
            raise Sorry(f"{arg} is not an experiment list that dxtbx can read")
        if arg.startswith("-"):
            raise Sorry(f"the option {arg} is unknown: nanobragg.simulate -h lists them")
        given = params.structure_factors.file
        if given:
            raise Sorry(f"structure factors are given twice, as {given} and as {arg}; choose one")
        params.structure_factors.file = arg


def inputs_of(params: Any) -> list[str]:
    """Files whose checksums belong in the provenance."""
    files = [data.filename for data in params.input.experiments]
    return files + ([params.structure_factors.file] if params.structure_factors.file else [])
