"""Hostile input, and whether the command takes it as it should.

Each case runs in a process of its own kind: `outcomes` starts one for many cases, with a limit on
its memory and an alarm for each case, so that a hang, a crash or gigabytes show as such.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

#: Bytes of address space above what a process has after its imports: what is asked is 2 GB.
MEMORY = 2 << 30
#: Seconds of a case; measured: none above 6, the most of it dxtbx's.
SECONDS = 30
#: All cases, a quarter of an hour, or some of them.
FULL = "HOSTILE_FULL" in os.environ

PLAN = [
    "structure_factors.default_F=100",
    "beam.fluence=1e24",
    "crystal.Ncells_abc=6,5,4",
    "sampling.oversample=1",
    "sampling.thicksteps=2",
    "sampling.phisteps=2",
]


class Hang(BaseException):
    """Raised by the alarm: nothing that catches Exception takes it for its own."""


@contextlib.contextmanager
def alarm(seconds: float = SECONDS) -> Iterator[None]:
    def ring(number: int, frame: Any) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def some(cases: list, number: int, seed: int = 0) -> list:
    """So many of the cases, the same in every run; all where HOSTILE_FULL is set."""
    if FULL or len(cases) <= number:
        return cases
    return random.Random(seed).sample(cases, number)


def plan(args: list[str]) -> None:
    """As nanobragg.simulate up to where pixels would be computed."""
    from nanobragg_plugin.command_line import simulate as command
    from nanobragg_plugin.run import arguments, data_sets, messages

    with messages.clear():
        parsed = arguments.parse_command(args, command.phil_scope, command.USAGE, "")
        params, _, listed, _ = parsed
        if params.preset != "help":
            arguments.inputs_of(params, listed)
            data_sets.data_sets(params, listed)


def outcome(function: Callable, *args: Any) -> str:
    """ "ok", or "Sorry: ..." of one line, which are well; anything else is not."""
    from libtbx.utils import Sorry

    try:
        with alarm():
            function(*args)
    except Sorry as error:
        message = str(error)
        good = message and "\n" not in message and "Traceback" not in message
        return f"Sorry: {message}" if good and len(message) < 20_000 else f"bad Sorry: {message!r}"
    except Hang:
        return "hang"
    except (Exception, SystemExit) as error:
        return f"{type(error).__name__}: {error}"
    return "ok"


def is_well(found: str) -> bool:
    return found == "ok" or found.startswith("Sorry: ")


def serve() -> None:
    """Outcomes of cases that come as lines of JSON: [what, arguments ...]."""
    import nanobragg_plugin  # noqa: F401
    from nanobragg_plugin.command_line import simulate  # noqa: F401

    functions = {"plan": plan}
    with open("/proc/self/statm") as status:
        size = int(status.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY,) * 2)
    out = os.fdopen(os.dup(1), "w")
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 1)
    for line in sys.stdin:
        what, *args = json.loads(line)
        start = time.process_time()
        found = outcome(functions[what], *args)
        print(json.dumps([found, time.process_time() - start]), file=out, flush=True)


def outcomes(cases: list[list[Any]], cwd: Path) -> list[tuple[str, float]]:
    """Of each case what became of it, and the seconds of CPU it took."""
    script = "import hostile; hostile.serve()"
    here = str(Path(__file__).parent)
    path = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", script],
        input="".join(json.dumps(case) + "\n" for case in cases),
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        timeout=600,
    )
    found = [tuple(json.loads(line)) for line in done.stdout.splitlines()]
    if len(found) < len(cases):
        found.append((f"crash ({done.returncode}): {done.stderr[-300:]}", 0.0))
    return found


def assert_well(cases: list[list[Any]], cwd: Path) -> list[tuple[str, float]]:
    """Run cases; each must succeed or be refused in a sentence. What became of them."""
    found = outcomes(cases, cwd)
    bad = [(case, one) for case, (one, _) in zip(cases, found) if not is_well(one)]
    text = "\n".join(f"{json.dumps(case)[:300]}\n    {one[:400]}" for case, one in bad[:20])
    assert not bad and len(found) == len(cases), f"{len(bad)} of {len(cases)}:\n{text}"
    return found
