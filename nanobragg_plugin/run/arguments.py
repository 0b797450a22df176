"""What a command's arguments mean beyond what DIALS' parser knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dials.util.options import ArgumentParser, flatten_experiments
from dxtbx.model.experiment_list import ExperimentListFactory
from libtbx.utils import Sorry

from nanobragg_plugin.adapters import checks, load
from nanobragg_plugin.adapters import params as adapt
from nanobragg_plugin.adapters.phil_values import check_values
from nanobragg_plugin.adapters.strangers import require_file
from nanobragg_plugin.run import expt_guard, messages
from nanobragg_plugin.run.phil_guard import PHIL_FILES, check_arguments, parse_file


def parse_command(args: list[str], scope: Any, usage: str, epilog: str) -> tuple:
    """Extracted parameters, options, experiments of the list, and what was modified.

    scope: the command's, a superset of nanobragg.simulate's; usage begins with its name.
    """
    command, plain_scope = usage.split()[0], scope
    args = plain(args)
    for file in files_of(args):
        require_file(file)
        expt_guard.check_file(file)
    name = preset_of(args)
    check_arguments(args, plain_scope)
    preset = [] if name in (None, "help") else [adapt.preset_file(name)]
    if preset and {"-c", "--show-config"} & set(args):
        scope = adapt.with_preset(scope, name)
    parser = ArgumentParser(
        phil=scope, usage=usage, epilog=epilog, read_experiments=True, check_format=False
    )
    with messages.of_phil():
        params, options, unhandled = parser.parse_args(
            args=[*preset, *args], show_diff_phil=False, return_unhandled=True
        )
    listed = experiments_of(params)
    if params.preset != name:
        raise Sorry(f"preset={params.preset}: give it by its full name, preset=..., or in a file")
    if preset and len(listed):  # a preset's models would override those of the list
        without = _without_preset(args, plain_scope)
        params.geometry, params.detector.gaps = without.geometry, without.detector.gaps
    check_readable(unhandled)
    take_files(unhandled, params, scope, command)
    check_values(scope, params)
    modified = parser.system_phil.fetch_diff(parser.system_phil.format(params))
    return params, options, listed, modified.as_str().strip()


def _without_preset(args: list[str], scope: Any) -> Any:
    """What arguments and PHIL files give, without a preset's."""
    parser = ArgumentParser(phil=scope, read_experiments=True, check_format=False)
    return parser.parse_args(args=args, quick_parse=True, return_unhandled=True)[0]


def plain(args: list[str]) -> list[str]:
    """The arguments, an experiment list in PHIL's way (input.experiments=FILE) by its name alone,
    so that one message says what is wrong with it."""
    return [
        arg.split("=", 1)[1].strip("\"'") if arg.startswith("input.experiments=") else arg
        for arg in args
    ]


def files_of(args: list[str]) -> list[str]:
    """The files that arguments name, and the experiment lists that PHIL files among them name."""
    files = [arg for arg in args if "=" not in arg]
    named = []
    for file in files:
        if not file.endswith(PHIL_FILES) or not Path(file).is_file():
            continue
        for given in parse_file(file).all_definitions():
            name = " ".join(word.value for word in given.object.words)
            if given.path == "input.experiments":
                if "$" in name:
                    raise Sorry(f"{file}: input.experiments={name}: name the file itself")
                named.append(name)
    return files + named


def preset_of(args: list[str]) -> str | None:
    """The preset that arguments or PHIL files ask for, the last one if there are several."""
    found = None
    for arg in args:
        if arg.startswith("preset="):
            found = arg.split("=", 1)[1].strip().strip("\"'")
        elif arg.endswith(PHIL_FILES) and Path(arg).is_file():
            given = [d for d in parse_file(arg).objects if d.name == "preset" and d.is_definition]
            if given:
                found = " ".join(word.value for word in given[-1].words)
    return None if found in (None, "None", "") else found


def check_readable(args: list[str]) -> None:
    """`Sorry` for an argument that names a file which is missing or cannot be read."""
    for arg in args:
        if arg.startswith("-") or "=" in arg:
            continue
        path = Path(arg)
        require_file(arg)
        try:
            if not path.exists():
                raise Sorry(f"there is no file {arg}")
            if path.is_dir():
                raise Sorry(f"{arg} is a folder; name the files in it")
            with path.open("rb") as handle:
                if not handle.read(1):
                    raise Sorry(f"{arg} is empty")
        except OSError as error:
            raise Sorry(f"{arg} cannot be read: {error.strerror}") from error


def take_files(unhandled: list[str], params: Any, scope: Any, command: str) -> None:
    """A file that is neither experiment list nor PHIL holds the structure factors; `Sorry` for
    anything else."""
    take_parameters(unhandled, scope, command)
    for arg in unhandled:
        if arg.endswith((".expt", ".json")):
            _refuse_experiments(arg)
        given = params.structure_factors.file
        if given:
            raise Sorry(f"structure factors are given twice, as {given} and as {arg}; choose one")
        params.structure_factors.file = arg


def take_parameters(unhandled: list[str], scope: Any, command: str) -> None:
    """`Sorry` for an option, a parameter or a PHIL file that was not understood."""
    for arg in unhandled:
        if arg.startswith("-"):
            raise Sorry(f"the option {arg} is unknown: {command} -h lists them")
        if "=" in arg:
            _refuse_assignment(arg, scope, command)
        if arg.endswith(PHIL_FILES):
            raise Sorry(f"{arg} is not a PHIL file")


def _refuse_assignment(arg: str, scope: Any, command: str) -> None:
    """Say what is wrong with name=value."""
    try:
        scope.command_line_argument_interpreter().process_arg(arg)
        reason = "is not understood"
    except (Sorry, RuntimeError) as error:
        reason = checks.one_line(error)
        if reason.startswith("Unknown"):
            reason = "is unknown"
    between = "" if reason.startswith("is ") else ":"
    raise Sorry(f"the parameter {arg!r}{between} {reason}; {command} -c -e 2 lists them all")


def _refuse_experiments(name: str) -> None:
    """Say why a file is not an experiment list."""
    reason = "it is of another kind"
    try:
        ExperimentListFactory.from_json_file(name, check_format=False)
    # whatever a file of arbitrary JSON makes dxtbx stumble over
    except Exception as error:
        reason = checks.one_line(error)
    raise Sorry(f"{name} is not an experiment list that dxtbx can read: {reason[:300]}")


def experiments_of(params: Any) -> Any:
    """The experiments of all lists that were given, as one list."""
    try:
        listed = flatten_experiments(params.input.experiments)
    except RuntimeError as error:
        raise Sorry(
            f"the experiment lists do not go together ({error}): give each list once"
        ) from error
    if params.input.experiments and not len(listed):
        raise Sorry(f"{params.input.experiments[0].filename} holds no experiments")
    return listed


def inputs_of(params: Any, sources: list[Any]) -> list[str]:
    """Files whose checksums belong in the provenance: experiment lists, structure factors, sources,
    spectrum, scales of the images, those of the background, a gain map, and what the image sets
    name; each once."""
    files = [data.filename for data in params.input.experiments]
    if params.structure_factors.file:
        files.append(params.structure_factors.file)
    background, beam = params.background, params.beam
    given = background.other.stol_file, background.profile_file, background.image_file
    given += beam.source_file, beam.spectrum.spectrum_file, beam.image_scale_file
    given += params.detector.gain_file, params.structure_factors.model.anomalous.measured_file
    files += [name for name in given if name]
    for source in sources:
        files += load.lookup_files(source)
    return list(dict.fromkeys(files))
