"""Space on the disk that is held while an HDF5 file is written.

HDF5 keeps some of what it was given until the file is closed, and crashes where it then finds the
disk full (1.10, in h5py's close). What is held here is let go just before.
"""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

from libtbx.utils import Sorry

#: Bytes that are more than HDF5 keeps: 1 MB of each data set, and tables of its chunks.
LEAST, OF_CHUNK = 8 << 20, 128
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Ballast:
    """Enough for so many chunks in a folder, until `release` or the process ends; path: the file
    that is to be written there, for the message. `Sorry` where there is no room."""

    def __init__(self, folder: Path, chunks: int, path: Path) -> None:
        self._file, size = None, LEAST + OF_CHUNK * chunks
        try:
            self._file = tempfile.TemporaryFile(dir=folder)
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(self._file.fileno(), 0, size)
        except OSError as error:
            self.release()
            if error.errno in FULL:
                raise Sorry(
                    f"{path} cannot be written: {error.strerror}, or less than {size >> 20} MB "
                    "left; make room, or write elsewhere"
                ) from error
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise

    def release(self) -> None:
        """Let it go."""
        if self._file is not None:
            self._file.close()
            self._file = None
