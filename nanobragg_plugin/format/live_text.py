"""What tells a live file from all others, and its text: no more than a few hundred bytes are
read to know it, nothing heavy is imported."""

from __future__ import annotations

import os
import stat

from libtbx.utils import Sorry

#: How a live file begins, before the version of its format and the end of the line.
MAGIC = b"# nanobragg live "
VERSION = 1
#: Bytes of a live file: some lines of text.
MAX_BYTES = 1_000_000


def is_live(path) -> bool:
    """Whether a file is a live one; False, never an exception, for anything else."""
    try:
        with open(path, "rb", opener=_opener) as stream:
            return stream.read(len(MAGIC)) == MAGIC
    except (OSError, TypeError, ValueError):
        return False


def _opener(path, flags):
    """Opens regular files alone, and waits for none."""
    number = os.open(path, flags | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise OSError(f"{path} is no regular file")
    return number


def read_text(path) -> str:
    """The text of a live file; `Sorry` where it is none, or one of a later version."""
    try:
        with open(path, "rb", opener=_opener) as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise Sorry(f"{path} cannot be read: {error.strerror or error}") from error
    if len(data) > MAX_BYTES:
        raise Sorry(f"{path} has more than {MAX_BYTES} bytes: a live file is some lines of text")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Sorry(f"{path} is not a live file: it is not text (UTF-8)") from error
    if "\0" in text:
        raise Sorry(f"{path} is not a live file: it is not text")
    first = text.split("\n", 1)[0].encode()
    version = first[len(MAGIC) :].strip().decode()
    if not first.startswith(MAGIC) or not version.isdecimal():
        raise Sorry(f"{path} is not a live file: its first line is not '{MAGIC.decode()}{VERSION}'")
    if int(version) > VERSION:
        raise Sorry(
            f"{path} was written for a later nanobragg (live {version}; this one reads {VERSION}): "
            "install a newer one"
        )
    return text
