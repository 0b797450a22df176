"""The text of a live file to the parameters of a run, with real paths for the names in it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from libtbx.phil import parse
from libtbx.utils import Sorry

from nanobragg_plugin import phil as phil_files
from nanobragg_plugin.adapters import live_list, phil_values
from nanobragg_plugin.adapters import params as adapt
from nanobragg_plugin.adapters.checks import one_line
from nanobragg_plugin.adapters.live_paths import Trusted
from nanobragg_plugin.run import messages

#: An attribute of PHIL (.call imports what it names): a word that begins with a point.
ATTRIBUTE = re.compile(r"(?<!\w)\.[A-Za-z_]")
#: Numbers, which PHIL would otherwise evaluate as Python, and what stands for none.
NUMBERS = re.compile(r"[-+\d.eE,\s]*|none|auto", re.IGNORECASE)
#: Types of parameters whose values are no numbers.
WORDS = ("bool", "choice", "path", "str", "strings")
#: Samples in flight, which take about 150 bytes each.
MAX_BATCH_STEPS = 1 << 20


@dataclass(frozen=True)
class Request:
    """What a live file asks for: parameters, extracted; the experiments of its list; and all files
    that it names, by their real paths."""

    params: Any
    listed: Any
    files: tuple[str, ...]


def scope() -> Any:
    """Every parameter of a live file."""
    live = parse(phil_files.read("live"))
    return adapt.master_scope().customized_copy(
        objects=[*adapt.master_scope().objects, *live.objects]
    )


def request(text: str, live: str) -> Request:
    """Of a live file of that text and name; `Sorry` for what is wrong with it."""
    user, master = _parsed(text, live), scope()
    _check_values(user, master, live)
    presets = [d for d in user.all_definitions() if d.path == "preset"]
    name = presets[-1].object.extract() if presets else None
    name = " ".join(name) if isinstance(name, list) else name
    sources = [user]
    if name not in (None, "None"):
        sources.insert(0, parse(file_name=adapt.preset_file(name)))
    params = _extracted(master, sources, live)
    if len(sources) > 1 and params.input.experiments is not None:
        without = _extracted(master, [user], live)  # a preset's models would override the list's
        params.geometry, params.detector.gaps = without.geometry, without.detector.gaps
    _refuse(user, params, live)
    trusted = Trusted.of(live)
    files = _resolve(master, params, trusted)
    if params.input.experiments is None:
        return Request(params, [], tuple(files))
    listed, more = live_list.read(params.input.experiments, trusted)
    return Request(params, listed, (*files, *more))


def _parsed(text: str, live: str) -> Any:
    """The text as PHIL, of which nothing is included, imported or run."""
    if "$" in text:
        raise Sorry(f"{live}: a live file has no variables ($); write the values out")
    for number, line in enumerate(text.split("\n"), 1):
        comment = line.lstrip().startswith("#") and "'" not in line and '"' not in line
        if not comment and ATTRIBUTE.search(line):
            raise Sorry(
                f"{live}, line {number}: a live file gives values, name=value, no attributes or "
                "other words that begin with a point"
            )
    try:
        user = parse(text)
    except RecursionError:
        raise Sorry(f"{live}: its scopes are nested too deeply") from None
    except (RuntimeError, Sorry, ValueError) as error:
        reason = one_line(error).replace("input line", "line")
        raise Sorry(f"{live} is not PHIL, name=value on each line: {reason}") from None
    if _includes(user):
        raise Sorry(f"{live}: a live file includes no others: put their lines into it")
    if not user.objects:
        raise Sorry(
            f"{live} asks for nothing: give input.experiments= (an .expt), preset= or geometry"
        )
    return user


def _check_values(user: Any, master: Any, live: str) -> None:
    """`Sorry` for a parameter that is none, and for a number that is an expression."""
    kinds = {item.path: item.object.type.phil_type for item in master.all_definitions()}
    for item in user.all_definitions():
        if item.path not in kinds:
            raise Sorry(
                f"{live}: there is no parameter {item.path}: nanobragg.simulate -c -e 2 lists all "
                "but input.experiments and input.sweep"
            )
        value = " ".join(word.value for word in item.object.words)
        if kinds[item.path] not in WORDS and not NUMBERS.fullmatch(value):
            raise Sorry(f"{live}: {item.path}={value[:60]}: give plain numbers")


def _includes(scope: Any) -> bool:
    return any(one.name == "include" or (one.is_scope and _includes(one)) for one in scope.objects)


def _extracted(master: Any, sources: list[Any], live: str) -> Any:
    try:
        with messages.of_phil():
            params = master.fetch(sources=sources).extract()
        phil_values.check_values(master, params)
    except Sorry as error:
        raise Sorry(f"{live}: {one_line(error)}") from None
    return params


def _refuse(user: Any, params: Any, live: str) -> None:
    """`Sorry` for what has no meaning, or no place, in a file that only is read."""
    given = [d.path for d in user.all_definitions() if d.path.split(".")[0] == "output"]
    if given:
        raise Sorry(f"{live}: {given[0]}: a live file writes nothing; leave it out")
    given = [d.path for d in user.all_definitions() if d.path.split(".")[0] == "mp"]
    if given:
        raise Sorry(f"{live}: {given[0]}: a live file starts no processes; leave it out")
    check_readable(params, live)


def check_readable(params: Any, live: str) -> None:
    """`Sorry` for parameters, extracted, that a live file must not have."""
    if params.beam.spectrum.shape == "image_set":
        raise Sorry(
            f"{live}: beam.spectrum.shape=image_set would open other images: give "
            "beam.spectrum.spectrum_file"
        )
    image = params.background.image_file
    if image is not None and not image.endswith(".npy"):
        raise Sorry(
            f"{live}: background.image_file={os.path.basename(image)}: a live file may name an "
            "array of numpy alone (.npy)"
        )
    if params.compute.batch_steps > MAX_BATCH_STEPS:
        raise Sorry(
            f"{live}: compute.batch_steps={params.compute.batch_steps} would take much memory: "
            f"give at most {MAX_BATCH_STEPS}"
        )


def path_values(master: Any, params: Any) -> Iterator[tuple[Any, str, str]]:
    """Every file that extracted parameters name, `output` apart: the scope that has it, its name
    there, and its whole name."""
    for item in master.all_definitions():
        kind = getattr(item.object.type, "phil_type", None)
        if kind != "path" or item.path.startswith("output."):
            continue
        *way, last = item.path.split(".")
        place = params
        for name in way:
            place = getattr(place, name)
        if getattr(place, last) is not None:
            yield place, last, item.path


def _resolve(master: Any, params: Any, trusted: Trusted) -> list[str]:
    """Put real paths for all names of files; they, once each."""
    files = []
    for place, last, name in path_values(master, params):
        setattr(place, last, trusted.path(getattr(place, last), name))
        files.append(getattr(place, last))
    return list(dict.fromkeys(files))
