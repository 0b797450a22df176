"""All that a process needs to make images of a run, wherever it is."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dxtbx.model import ExperimentList
from dxtbx.model.experiment_list import ExperimentListFactory
from libtbx import Auto

from nanobragg_plugin.adapters.load import LOOKUPS
from nanobragg_plugin.run import data_sets
from nanobragg_plugin.run.data_sets import DataSet
from nanobragg_plugin.run.parts import Part
from nanobragg_plugin.run.writers import Form

#: Parameters that do not matter to what is made, by the beginnings of their names.
ELSEWHERE = (
    "input.",
    "mp.",
    "compute.nthreads",
    *(f"output.{name}" for name in ("overwrite", "log", "preview", "experiments", "provenance")),
    "output.joined",
)


@dataclass(frozen=True)
class Job:
    """Of a run. params: extracted; lists: folder and text of each experiment list; lookups: the
    files that each experiment's image set names; files: what is in all these and in the other
    inputs, by the names that params and lookups have; names: of the images, as `Outputs.images`;
    folder: of the parts; fingerprint: the run's; kernels: as `kernels_of`; record: the
    provenance; truth: whether reflections are counted."""

    params: Any
    lists: tuple[tuple[str, str], ...]
    lookups: tuple[dict[str, str], ...]
    files: dict[str, bytes] = field(repr=False)
    names: tuple[Path, ...]
    folder: Path
    fingerprint: str
    kernels: tuple[tuple[str, bool], ...]
    record: dict[str, Any] = field(repr=False)
    form: Form
    truth: bool

    def data_sets(self, device: str | None = None) -> list[DataSet]:
        """What the process that began the run has; device: torch's, if not that of the run."""
        params = copy.deepcopy(self.params)
        if device is not None:
            params.compute.device = device
        with tempfile.TemporaryDirectory(prefix="nanobragg-") as folder:
            own = {}
            for number, (name, content) in enumerate(self.files.items()):
                path = Path(folder) / str(number) / Path(name).name  # readers go by the ending
                path.parent.mkdir()
                path.write_bytes(content)
                own[name] = str(path)
            _rename(params, own)
            return data_sets.data_sets(params, self._listed(own))

    def _listed(self, own: dict[str, str]) -> ExperimentList:
        result = ExperimentList()
        for folder, text in self.lists:
            result.extend(ExperimentListFactory.from_json(text, False, folder))
        for experiment, names in zip(result, self.lookups):
            for name, file in names.items():
                getattr(experiment.imageset.external_lookup, name).filename = own.get(file, file)
        return result


def contents(
    params: Any, listed: Sequence[Any], inputs: Sequence[str]
) -> tuple[tuple, tuple, dict[str, bytes]]:
    """`lists`, `lookups` and `files` of a job."""
    lists = tuple(
        (os.path.dirname(data.filename), Path(data.filename).read_text())
        for data in params.input.experiments
    )
    lookups = tuple(map(_lookups, listed))
    taken = {data.filename for data in params.input.experiments}
    files = {name: Path(name).read_bytes() for name in inputs if name not in taken}
    return lists, lookups, files


def without_input(params: Any) -> Any:
    """The parameters without the experiment lists that were read."""
    result = copy.copy(params)
    result.input = copy.copy(params.input)
    result.input.experiments = []
    return result


def neutral(params: Any, scope: Any) -> Any:
    """The parameters with the defaults of all that says who does the work, not what is done."""
    defaults = scope.extract()
    result = copy.copy(params)
    result.mp = defaults.mp
    result.compute, result.output = copy.copy(params.compute), copy.copy(params.output)
    result.compute.nthreads, result.output.overwrite = Auto, False
    return result


def run_of(params: Any, given: tuple[tuple, tuple, dict], record: dict, more: dict) -> dict:
    """All that decides what the images of a run are, as JSON has it; given: as `contents`; more:
    what is not among the parameters."""
    lists, _, files = given
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    values = {
        name: value for name, value in _values(params, "", sums) if not name.startswith(ELSEWHERE)
    }
    return {
        "values": json.loads(json.dumps(values)),
        "experiments": [hashlib.sha256(text.encode()).hexdigest() for _, text in lists],
        "versions": [record["nanobragg_plugin"], record["torch"], record["python"]],
        **json.loads(json.dumps(more)),
    }


def kernels_of(sets: Sequence[DataSet]) -> tuple[tuple[str, bool], ...]:
    """What the images of each file are simulated with, crystal by crystal, and whether it is
    compiled: chosen, and compiled, by the first image."""
    made = [one for data_set in sets for one in data_set.images.simulators_of(0)]
    choices = [simulator.choice for simulators in made for simulator in simulators]
    return tuple((choice.kernel, choice.compiled) for choice in choices)


def part_name(names: Sequence[Path], part: Part) -> str:
    """The file of a part of an NXmx file."""
    return f"{names[part.file].stem}_{part.of_file:06d}.h5"


def _lookups(experiment: Any) -> dict[str, str]:
    if experiment.imageset is None:
        return {}
    theirs = experiment.imageset.external_lookup
    names = {name: getattr(theirs, name).filename for name in LOOKUPS}
    return {name: file for name, file in names.items() if file}


def _rename(scope: Any, names: dict[str, str]) -> None:
    """Give files that parameters name other names."""
    for name, value in vars(scope).items():
        if name.startswith("__"):
            continue
        if isinstance(value, str) and value in names:
            setattr(scope, name, names[value])
        for inner in value if isinstance(value, list) else [value]:
            if hasattr(inner, "__phil_path__"):
                _rename(inner, names)


def _values(value: Any, path: str, files: dict[str, str]) -> Iterator[tuple[str, Any]]:
    """The value of every parameter, exact; of a file its checksum."""
    if hasattr(value, "__phil_path__") and not isinstance(value, list):
        for name, inner in vars(value).items():
            if not name.startswith("__"):
                yield from _values(inner, f"{path}.{name}" if path else name, files)
    elif isinstance(value, list) and any(hasattr(one, "__phil_path__") for one in value):
        for number, inner in enumerate(value):
            yield from _values(inner, f"{path}[{number}]", files)
    elif isinstance(value, str) and value in files:
        yield path, files[value]
    else:
        yield path, _plain(value)


def _plain(value: Any) -> Any:
    """A value as JSON has it: Auto is a word (its repr is another in each process)."""
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
