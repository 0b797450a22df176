"""nanoBragg.c's command line: the same flags, the same pixels, the same files.

Examples::

  nanobragg.classic -mat auto.mat -hkl P1.hkl -distance 250 -detpixels 1024 -pixel 0.1 -N 20

  nanobragg.classic -cell 79 79 38 90 90 90 -misset 10 20 30 -hkl P1.hkl -lambda 1 \\
    -phi 0 -osc 1 -phisteps 10 -phi_carryover_mode c-parity

  nanobragg.classic -cell 79 79 38 90 90 90 -hkl P1.hkl -N 20 -show_phil -show_expt models.expt
"""

from __future__ import annotations

import nanobragg_plugin  # noqa: F401  isort: skip  before dxtbx: torch keeps its threads

import sys
from functools import partial

from dials.util import show_mail_handle_errors
from tqdm import tqdm

from nanobragg_plugin.adapters.classic import exact, flags
from nanobragg_plugin.adapters.classic.translate import Translated, translate
from nanobragg_plugin.run import classic, messages, printout


@show_mail_handle_errors()
def run(args: list[str] | None = None) -> None:
    """The command."""
    with messages.clear(), messages.stoppable():
        _run(sys.argv[1:] if args is None else list(args))


def _run(words: list[str]) -> None:
    if not words or {"-h", "-help", "--help"} & set(words):
        print(flags.usage())
        return
    if {"-version", "--version"} & set(words):
        print(f"nanobragg.classic {nanobragg_plugin.__version__}")
        return
    translated = translate(words)
    if translated.settings.show_phil or translated.settings.show_expt:
        classic.show(translated, print)
        return
    classic.check_outputs(translated)
    printout.check(translated)
    # with -json nothing else may be among it
    say = partial(print, file=sys.stderr if translated.settings.json else sys.stdout)
    plan = exact.plan_of(translated)
    for line in classic.description(translated, plan):
        say(line)
    if translated.settings.trace_pixel is not None:
        print(printout.trace(translated, plan))
    if translated.settings.printout:
        for lines in printout.printout(translated, plan):
            say(lines)
    with meter(translated) as progress:
        lines = classic.run(translated, plan, progress.update)
    for line in lines:
        say(line)


def meter(translated: Translated) -> tqdm:
    """Progress in pixels, on a terminal or where -progress asks for it."""
    wanted = translated.settings.progress
    quiet = not sys.stderr.isatty() if wanted is None else not wanted
    return tqdm(total=translated.n_pixels, unit="pixel", unit_scale=True, disable=quiet)


if __name__ == "__main__":
    run()
