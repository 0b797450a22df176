"""Try in a child process what may crash the one that does it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

#: Seconds of CPU.
LIMIT = 120


def survives(function: Callable[[], object]) -> bool:
    """Whether a call ends, with a result or an exception, rather than in a signal.

    The child is a fork that leaves nothing behind; always True where there is none.
    """
    if not hasattr(os, "fork"):
        return True
    child = os.fork()
    if child == 0:
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(LIMIT)
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(null, 2)
            function()
        finally:
            os._exit(0)
    return os.WIFEXITED(os.waitpid(child, 0)[1])
