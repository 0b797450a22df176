"""Compare what processing found with the truth: models, reflections, intensities, images.

Of two files of a kind the first is the truth's, the second is compared with it: experiment lists
(.expt), reflection tables (.refl), MTZ files, image files (templates with # too). Tables are
compared in the frame of the lists that are given; one list serves both. Scaled reflections can be
compared with an MTZ file. What a file is, is seen from its content.

Examples::

  nanobragg.compare simulated.expt refined.expt

  nanobragg.compare simulated.expt simulated.truth.refl scaled.expt scaled.refl F.mtz

  nanobragg.compare simulated.expt simulated.truth.refl strong.refl reflections.threshold=50

  nanobragg.compare expected.nxs simulated.nxs images.image_range=1,10

  nanobragg.compare F.mtz merged.mtz --json compare.json output.html=None
"""

from __future__ import annotations

import nanobragg_plugin  # noqa: F401  isort: skip  before dxtbx: torch keeps its threads

import json
import logging
import sys
from pathlib import Path
from typing import Any

from dials.util import Sorry, log, show_mail_handle_errors, tabulate
from dials.util.options import ArgumentParser
from libtbx.phil import parse
from tqdm import tqdm

from nanobragg_plugin import phil as phil_files
from nanobragg_plugin.adapters import compared_files
from nanobragg_plugin.adapters.phil_values import check_values, positive
from nanobragg_plugin.compare import html, parts
from nanobragg_plugin.run import messages, outputs, provenance

logger = logging.getLogger("dials.nanobragg_plugin.command_line.compare")

phil_scope = parse(phil_files.read("compare"))
USAGE = "nanobragg.compare TRUE OTHER ... [parameters.phil] [name=value ...] [--json [FILE.json]]"
#: The value of output.json that means what is printed.
PRINTED = "-"


@show_mail_handle_errors()
def run(args: list[str] | None = None) -> None:
    """The command."""
    with messages.clear(), messages.stoppable():
        _run(sys.argv[1:] if args is None else list(args))


def _run(args: list[str]) -> None:
    params, options, files = parameters(args)
    true, other = compared_files.sides(files)
    check_outputs(params.output, files)
    opened = parts.open_sides(true, other)
    printed = params.output.json == PRINTED
    if not printed:
        log.config(verbosity=options.verbose, logfile=params.output.log)
    with tqdm(unit="image", disable=not sys.stderr.isatty(), leave=False) as bar:
        found = parts.compare(opened, params, bar.update)
    names = {label: side.files.names() for label, side in zip(("truth", "other"), opened)}
    about = [f"{label}: {', '.join(files) or '-'}" for label, files in names.items()]
    content = {
        "program": "nanobragg.compare",
        "nanobragg_plugin": nanobragg_plugin.__version__,
        **{label: [Path(name).name for name in files] for label, files in names.items()},
        **{part.name: parts.plain(part.figures) for part in found},
    }
    if printed:
        print(json.dumps(content, indent=2, allow_nan=False))
    else:
        logger.info("\n".join(about))
        for part in found:
            logger.info(text_of(part.section))
    if params.output.json and not printed:
        provenance.write_json(params.output.json, content)
        logger.info("Wrote all figures to %s", params.output.json)
    if params.output.html:
        page = html.page("nanobragg.compare", about, [part.section for part in found])
        provenance.write_text(params.output.html, page)
        logger.info("Wrote the report to %s", params.output.html)


def parameters(args: list[str]) -> tuple[Any, Any, list[str]]:
    """Extracted parameters, options, and the files that are to be compared."""
    parser = ArgumentParser(phil=phil_scope, usage=USAGE, epilog=__doc__)
    with messages.of_phil():
        params, options, rest = parser.parse_args(
            args=with_json(args), show_diff_phil=False, return_unhandled=True
        )
    for arg in rest:
        if arg.startswith("-") or ("=" in arg and not Path(arg).exists()):
            raise Sorry(f"{arg} is not understood: nanobragg.compare -c -a 1 lists the parameters")
    check_values(phil_scope, params)
    for name in ("tolerance_px", "tolerance_images"):
        positive(getattr(params.reflections, name), f"reflections.{name}")
    if params.reflections.scale is not None:
        positive(params.reflections.scale, "reflections.scale")
    if not rest:
        raise Sorry(
            f"what is to be compared? give {parts.POSSIBLE}; nanobragg.compare -h says more"
        )
    return params, options, rest


def with_json(args: list[str]) -> list[str]:
    """The arguments, --json and --json FILE.json in PHIL's way."""
    result, rest = [], list(args)
    while rest:
        arg = rest.pop(0)
        if arg == "--json":
            named_file = bool(rest) and rest[0].endswith(".json") and "=" not in rest[0]
            arg = f"output.json={rest.pop(0) if named_file else PRINTED}"
        elif arg.startswith("--json="):
            arg = f"output.{arg[2:]}"
        result.append(arg)
    return result


def check_outputs(params: Any, inputs: list[str]) -> None:
    """`Sorry` unless the outputs can be written, under different names and over no input."""
    given = [params.html, params.json, params.log]
    files = [Path(name) for name in given if name and name != PRINTED]
    resolved = [path.resolve() for path in files]
    read = {Path(name).resolve() for name in inputs}
    for path, full in zip(files, resolved):
        if full in read:
            raise Sorry(f"{path} is an input: it would be overwritten; choose another name")
        if resolved.count(full) > 1:
            raise Sorry(f"two outputs would both be {path}: rename one")
        if path.is_dir() or path.is_file() or not path.exists():  # /dev/null is none of these
            outputs.check_writable(path, overwrite=True)


def text_of(section: Any) -> str:
    """A section as DIALS prints its tables."""
    lines = ["", section.title, "=" * len(section.title), *section.notes]
    for table in section.tables:
        rows = [list(row) for row in table.rows]
        # the cells are text that has its digits: they must not be read as numbers again
        lines += ["", f"{table.caption}:", tabulate(rows, table.header, disable_numparse=True)]
    return "\n".join(lines)


if __name__ == "__main__":
    run()
