"""Time the simulation, and nanoBragg.c on the same work beside it.

Prints time per step and per image, memory, and with nanobragg_c= how many times faster than that
program this one is, and by how much their pixels differ. With curves=, how time grows with one
quantity. Nothing else should run meanwhile.

Examples::

  nanobragg.benchmark cases=B1,B5 threads=1

  nanobragg.benchmark nanobragg_c=./nanoBragg --json speed.json

  nanobragg.benchmark small=0.05 repeats=1 cold=False

  nanobragg.benchmark curves=phisteps,domains threads=1

  nanobragg.benchmark device=cuda cases=B1,production

  nanobragg.benchmark data_set_images=1000 processes=1,2 small=0.04
"""

from __future__ import annotations

import nanobragg_plugin  # noqa: F401  isort: skip  before dxtbx: torch keeps its threads

import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from dials.util import Sorry, show_mail_handle_errors
from dials.util.options import ArgumentParser
from libtbx.phil import parse

from nanobragg_plugin import phil as phil_files
from nanobragg_plugin.adapters.params import torch_device
from nanobragg_plugin.adapters.phil_values import check_values, positive, word
from nanobragg_plugin.run import (
    benchmark,
    benchmark_curves,
    benchmark_data_sets,
    benchmark_report,
    messages,
    outputs,
    provenance,
    resources,
)
from nanobragg_plugin.run.benchmark_cases import NAMES, check_names
from nanobragg_plugin.run.benchmark_processes import NanoBraggC
from nanobragg_plugin.run.phil_guard import check_arguments

phil_scope = parse(phil_files.read("benchmark"))
USAGE = "nanobragg.benchmark [parameters.phil] [name=value ...] [--json FILE]"
#: The parameters that the JSON repeats, none of them a path.
REPEATED = ("precision", "compile", "repeats", "small", "cold", "gradients", "sweep_images")


@show_mail_handle_errors()
def run(args: list[str] | None = None) -> None:
    """The command."""
    with messages.clear(), messages.stoppable():
        _run(sys.argv[1:] if args is None else list(args))


def _run(args: list[str]) -> None:
    params = parameters(args)
    if params.json:
        outputs.check_writable(params.json, overwrite=True)
    device = torch_device(params.device, "device")
    with tempfile.TemporaryDirectory(prefix="nanobragg-benchmark-") as folder:
        settings = settings_of(params, Path(folder), device)
        curves = curves_of(params)
        program = None
        if params.nanobragg_c:
            program = NanoBraggC(params.nanobragg_c, settings.folder)
        about, found, found_curves = benchmark_report.machine(device), [], []
        print(benchmark_report.head(about, settings.small), flush=True)
        for record in benchmark.measure(settings, program, say):
            found.append(record)
            print(benchmark_report.block(record), flush=True)
        if curves:
            print(f"\n{benchmark_curves.LEGEND}", flush=True)
        for record in benchmark_curves.measure(curves, settings, say):
            found_curves.append(record)
            print(benchmark_curves.block(record), flush=True)
        found_sets = data_sets(params, settings)
    if params.json:
        chosen = {name: getattr(params, name) for name in REPEATED}
        content = {"machine": about, "settings": chosen, "cases": found, "curves": found_curves}
        content["data_sets"] = found_sets
        provenance.write_json(params.json, {"program": "nanobragg.benchmark", **content})


def data_sets(params: Any, settings: benchmark.Settings) -> list[dict[str, Any]]:
    """The records of data sets, which are printed."""
    if params.data_set_images is None:
        return []
    numbers = sorted(set(params.processes or [1, resources.cores()]))
    chosen = {**settings.options, "nthreads": "1", "device": settings.device}
    of = params.data_set_images, numbers, settings.small, chosen, settings.folder
    return benchmark_data_sets.report(benchmark_data_sets.measure(*of, say), params.plan)


def parameters(args: list[str]) -> Any:
    """The extracted parameters; `Sorry` for arguments that are none."""
    parser = ArgumentParser(phil=phil_scope, usage=USAGE, epilog=__doc__)
    check_arguments(args, phil_scope)
    with messages.of_phil():
        params, _, unhandled = parser.parse_args(
            args=with_json(args), show_diff_phil=False, return_unhandled=True
        )
    for arg in unhandled:
        raise Sorry(f"{arg} is not understood: nanobragg.benchmark -c -a 1 lists the parameters")
    check_values(phil_scope, params)
    positive(params.small, "small")
    return params


def with_json(args: list[str]) -> list[str]:
    """The arguments, --json FILE in PHIL's way."""
    result, rest = [], iter(args)
    for arg in rest:
        if arg == "--json":
            name = next(rest, None)
            if name is None or "=" in name or name.startswith("-"):
                raise Sorry("--json: give a file, as in --json speed.json")
            arg = f"json={name}"
        elif arg.startswith("--json="):
            arg = arg[2:]
        result.append(arg)
    return result


def settings_of(params: Any, folder: Path, device: torch.device) -> benchmark.Settings:
    """What the parameters ask for."""
    usual = [1, resources.cores()] if device.type == "cpu" else [1]
    return benchmark.Settings(
        cases=cases_of(params),
        kernels=tuple(check_names(params.kernels, benchmark.KERNELS, "kernels")),
        threads=tuple(sorted(set(params.threads or usual))),
        repeats=params.repeats,
        small=params.small,
        cold=params.cold,
        sweep_images=params.sweep_images,
        options={"precision": params.precision, "compile": word(params.compile)},
        folder=folder,
        gradients=params.gradients,
        device=str(device),
    )


def cases_of(params: Any) -> tuple[str, ...]:
    """The cases that are asked for; where none are named all, or with curves or data sets none."""
    if params.cases is not None:
        return tuple(check_names(params.cases, NAMES, "cases"))
    if params.curves is None and params.data_set_images is None:
        return NAMES
    if params.nanobragg_c:
        raise Sorry("nanobragg_c: it is timed beside cases alone; name some, as cases=B1")
    return ()


def curves_of(params: Any) -> tuple[str, ...]:
    """The curves that are asked for."""
    if params.curves is None:
        return ()
    return benchmark_curves.check_names(params.curves, "curves")


def say(text: str) -> None:
    """What is being done, where someone may be waiting for it."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="\r", file=sys.stderr, flush=True)


if __name__ == "__main__":
    run()
