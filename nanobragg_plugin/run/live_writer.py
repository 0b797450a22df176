"""Writes live files: what a run would simulate, in place of its images."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dxtbx.model import ExperimentList
from libtbx import Auto, phil

from nanobragg_plugin.adapters import params as adapt
from nanobragg_plugin.adapters.load import LOOKUPS
from nanobragg_plugin.format.live_text import MAGIC, VERSION
from nanobragg_plugin.run import live_params
from nanobragg_plugin.run.live import LiveImages
from nanobragg_plugin.run.outputs import whole
from nanobragg_plugin.run.provenance import write_text

#: Scopes of a run that a live file has not: what they said stands in the others.
LEFT_OUT = ("output", "preset", "input", "mp")
#: Names, below a folder, that PHIL takes as they are.
PLAIN = re.compile(r"(?!.*(^|/)\.)[\w/.+-]+")


@dataclass(frozen=True)
class LiveFile:
    """One that is to be written: its path and text; models: of the list beside it, or None; copies:
    files from elsewhere and the names beside it that they get."""

    path: Path
    text: str
    models: dict | None
    copies: dict[str, str]

    @property
    def models_path(self) -> Path:
        return _beside(self.path, "models.expt")

    @property
    def paths(self) -> list[Path]:
        """All files that are written."""
        files = [self.path, *(self.path.with_name(name) for name in self.copies.values())]
        return files if self.models is None else [*files, self.models_path]

    def write(self) -> None:
        """Write them, and see that the live file opens; after a failure none is there."""
        try:
            for source, name in self.copies.items():
                with whole(self.path.with_name(name)) as temporary:
                    shutil.copyfile(source, temporary)
            if self.models is not None:
                write_text(self.models_path, json.dumps(self.models, indent=2))
            write_text(self.path, self.text)
            LiveImages.of(str(self.path))
        except BaseException:
            for path in self.paths:
                path.unlink(missing_ok=True)
            raise


def live_files(params: Any, listed: Sequence[Any], paths: Sequence[Path]) -> list[LiveFile]:
    """Of every sweep; `Sorry` for what a live file must not have."""
    return [_live_file(params, listed, number, paths) for number in range(len(paths))]


def _live_file(params: Any, listed: Sequence[Any], number: int, paths: Sequence[Path]) -> LiveFile:
    path, names = paths[number], _Names(paths[number])
    live_params.check_readable(params, str(path))
    params = copy.deepcopy(params)
    params.compute.nthreads = Auto  # of this machine
    for place, last, _ in live_params.path_values(adapt.master_scope(), params):
        setattr(place, last, names.of(getattr(place, last)))
    given = _given(params)
    lines = [f"{MAGIC.decode()}{VERSION}"]
    models = _models(listed, names) if len(listed) else None
    if models is not None:
        lines.append(f"input.experiments = {_beside(path, 'models.expt').name}")
    if len(paths) > 1:
        lines.append(f"input.sweep = {number + 1}")
    return LiveFile(path, "\n".join([*lines, given.as_str()]), models, names.copies)


def _given(params: Any) -> Any:
    """The parameters that are not at their defaults, as PHIL, every digit of them."""
    master = adapt.master_scope()
    with _exact_numbers():
        given = master.fetch_diff(master.format(params))
    return given.customized_copy(objects=[one for one in given.objects if one.name not in LEFT_OUT])


@contextlib.contextmanager
def _exact_numbers() -> Iterator[None]:
    """PHIL writes 10 digits of a number, with which pixels would differ."""
    kinds = phil.float_converters, phil.floats_converters
    before = [kind._value_as_str for kind in kinds]
    for kind in kinds:
        kind._value_as_str = lambda self, value: repr(float(value))
    try:
        yield
    finally:
        for kind, method in zip(kinds, before):
            kind._value_as_str = method


def _beside(path: Path, name: str) -> Path:
    return path.with_name(f"{path.stem}_{name}")


@dataclass
class _Names:
    """Names, in a live file, of the files that a run reads: those below its folder stay where they
    are, others are copied."""

    live: Path
    copies: dict[str, str] = field(default_factory=dict)

    def of(self, name: str) -> str:
        """That of a file, known by its name from the working directory."""
        real = os.path.realpath(os.path.expanduser(name))
        below = os.path.relpath(real, os.path.realpath(self.live.parent))
        if PLAIN.fullmatch(below) and not live_params.ATTRIBUTE.search(below):
            return below
        if real not in self.copies:
            plain = re.sub(r"[^\w.]|\W(?=\.)", "_", os.path.basename(real))
            own = _beside(self.live, plain).name
            while own in self.copies.values():
                own = _beside(self.live, f"{len(self.copies)}_{plain}").name
            self.copies[real] = own
        return self.copies[real]


def _models(listed: Sequence[Any], names: _Names) -> dict:
    """The experiment list as JSON has it, without the places of its images."""
    content = ExperimentList(list(listed)).to_dict()
    for name in ("profile", "scaling_model"):
        content.pop(name, None)
    for entry in content["experiment"]:
        for name in ("profile", "scaling_model"):
            entry.pop(name, None)
    known: dict[str, str] = {}
    for entry in content.get("imageset", []):
        for name in ("params", "dx", "dy"):
            entry.pop(name, None)
        for name in LOOKUPS:
            if entry.get(name):
                entry[name] = names.of(entry[name])
        if "template" in entry:
            entry["template"] = _nameless(entry["template"], known)
        if "images" in entry:
            entry["images"] = [_nameless(image, known) for image in entry["images"]]
    return content


def _nameless(path: str, known: dict[str, str]) -> str:
    """A name without folders, another one for every path."""
    return known.setdefault(path, f"{len(known)}_{os.path.basename(path)}")


def written(files: Sequence[LiveFile]) -> Iterator[LiveFile]:
    """Each, when it is there; after a failure none of them is."""
    done: list[LiveFile] = []
    try:
        for file in files:
            file.write()
            done.append(file)
            yield file
    except BaseException:
        for file in done:
            for path in file.paths:
                path.unlink(missing_ok=True)
        raise
