"""What a user sees when a run ends early: one sentence, no traceback, nothing half-written."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

from libtbx.utils import Sorry

from nanobragg_plugin.adapters.checks import one_line

#: What torch says where an array does not fit into memory: on the CPU, on a GPU.
NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")

#: Characters of what others say: a value that is refused may be of any length.
LONGEST = 1000

#: Where HDF5 says why it failed to write.
HDF5_FAILURE = re.compile(r"errno = \d+, error message = '([^']+)'")


@contextlib.contextmanager
def clear() -> Iterator[None]:
    """Failures that are not the program's become a `Sorry` without the errors that led to it:
    files that cannot be read or written, a full disk, too little memory."""
    try:
        yield
    except Sorry as error:
        raise error from None
    except MemoryError:
        raise Sorry(_no_memory()) from None
    except BrokenPipeError:  # the reader of the output, `head` maybe, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except (OSError, RuntimeError) as error:
        reason = _reason(error)
        if reason is None:
            raise
        raise Sorry(reason) from None


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """SIGTERM, as batch systems send it, and Ctrl-C end the process as an exception does: what is
    half-written is removed. The exit status is the shell's, 128 + 15 or 128 + 2."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        stop(signal.SIGINT, None)
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def of_phil() -> Iterator[None]:
    """What libtbx.phil and the readers of experiment lists say of parameters, as `Sorry`."""
    try:
        yield
    except Sorry as error:
        raise Sorry(one_line(error)[:LONGEST]) from None
    except (
        ArithmeticError,
        RuntimeError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        AssertionError,
    ) as error:
        raise Sorry(f"the parameters cannot be read: {one_line(error)[:LONGEST]}") from None


def _reason(error: OSError | RuntimeError) -> str | None:
    """What the system, HDF5 or torch had to say; None of an error of another kind."""
    hdf5 = HDF5_FAILURE.search(str(error))
    if hdf5:
        return f"the images cannot be written: {hdf5.group(1)}; make room, or write elsewhere"
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or one_line(error)}"
    return _no_memory() if any(words in str(error) for words in NO_MEMORY) else None


def _no_memory() -> str:
    return (
        "there is not enough memory: simulate fewer pixels (sampling.roi), or lower "
        "compute.batch_steps or crystal.mosaic.domains"
    )
