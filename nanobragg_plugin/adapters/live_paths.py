"""Which files a live file may name: it may come from a stranger."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from libtbx.utils import Sorry

#: Folders, as PATH has them, below which files may be named too; * allows all.
TRUST = "NANOBRAGG_TRUST_PATHS"
#: Bytes of a file that a live file names.
MAX_BYTES = 1 << 30


@dataclass(frozen=True)
class Trusted:
    """Files below these folders, which are real ones: without links. live: the name of the live
    file, for messages."""

    live: str
    folders: tuple[str, ...]

    @classmethod
    def of(cls, live: str) -> Trusted:
        """What a live file may name: what is below its own folder, and below those that the
        environment names."""
        named = [name for name in os.environ.get(TRUST, "").split(os.pathsep) if name.strip()]
        more = [
            os.sep if name == "*" else os.path.realpath(os.path.expanduser(name)) for name in named
        ]
        return cls(live, (os.path.dirname(os.path.realpath(live)), *more))

    @property
    def folder(self) -> str:
        """That of the live file, from which relative names count."""
        return self.folders[0]

    def path(self, name: str, what: str, base: str | None = None) -> str:
        """The real path of a file of that name; what: the parameter or entry that names it; base:
        where relative names count from, if not from the live file's folder. `Sorry` where it is
        not below a trusted folder, which is said before whether it exists, or no regular file."""
        where = f"{self.live}: {what}={name}"
        if "$" in name or "\0" in name:
            raise Sorry(f"{where}: variables are not allowed here; write the name out")
        real = os.path.realpath(os.path.join(base or self.folder, name))
        if not any(_is_below(real, folder) for folder in self.folders):
            raise Sorry(
                f"{where} is not below the folder of the live file, {self.folder}, where all files "
                "that it names must be: put it there, or name its folder in the environment "
                f"variable {TRUST} if you trust who made the file"
            )
        try:
            found = os.stat(real)
        except OSError as error:
            raise Sorry(f"{where} cannot be read: {error.strerror}") from None
        if not stat.S_ISREG(found.st_mode):
            raise Sorry(f"{where} is no regular file; name one")
        if found.st_size > MAX_BYTES:
            raise Sorry(f"{where} has more than {MAX_BYTES} bytes; name a smaller one")
        return real


def _is_below(path: str, folder: str) -> bool:
    return Path(folder) in Path(path).parents
