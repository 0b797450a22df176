"""Files may come from strangers: what is asked of one before anything else opens it."""

from __future__ import annotations

import stat
from collections.abc import Iterable
from pathlib import Path

from dxtbx.format.Format import Format
from libtbx.utils import Sorry

#: Text beyond this is no input of this program: 10^7 reflections are some 300 MB.
MAX_TEXT = 1 << 30
#: How a pickle begins, of protocol 2 and later, or of a dictionary (which dxtbx's FormatPY loads).
_PICKLES = (b"\x80", b"(d", b"}q", b"}")


def require_file(name: str | Path, what: str = "") -> None:
    """`Sorry` for a pipe or device, which may never end.

    What does not exist, is a folder or may not be looked at is left to whoever opens it.
    """
    try:
        mode = Path(name).stat().st_mode
    except (OSError, ValueError):
        return
    shown = f"{name}, {what}," if what else name
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise Sorry(f"{shown} is a pipe or device; give a file")


def read_text(
    name: str | Path, what: str, limit: int = MAX_TEXT, encoding: str = "utf-8-sig"
) -> str:
    """The text of a file; `Sorry` for what is none, cannot be read or is longer than `limit`."""
    require_file(name, what)
    try:
        with open(name, "rb") as stream:
            data = stream.read(limit + 1)
    except OSError as error:
        raise Sorry(f"{name}, {what}, cannot be read: {error.strerror}") from error
    except ValueError as error:  # a name with a zero in it
        raise Sorry(f"{str(name)[:100]!r}, {what}, is not the name of a file") from error
    if len(data) > limit:
        raise Sorry(f"{name} is not {what}: it is longer than {limit} bytes")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise Sorry(f"{name} is not {what}: it is not text") from error


def refuse_pickles(names: Iterable[str]) -> None:
    """`Sorry` for image files that dxtbx would unpickle (its FormatPY), which runs what is in them.

    What cannot be opened is left to dxtbx.
    """
    for name in dict.fromkeys(names):
        require_file(name, "an image")
        try:
            with Format.open_file(name, "rb") as stream:  # it decompresses, as dxtbx will
                head = stream.read(4)
        except (OSError, EOFError, ValueError):
            continue
        if head.startswith(_PICKLES):
            raise Sorry(
                f"{name} is a pickle, which could do anything when it is loaded: convert it"
            )
