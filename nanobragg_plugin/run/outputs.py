"""Where outputs go, and whether they can."""

from __future__ import annotations

import contextlib
import glob
import logging
import os
import secrets
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from libtbx.utils import Sorry

from nanobragg_plugin.run.parts import is_moving
from nanobragg_plugin.run.writers import ENDINGS

logger = logging.getLogger("dials.nanobragg_plugin.run.outputs")


def check_writable(path: str | Path, overwrite: bool) -> None:
    """`Sorry` unless a file can be written there."""
    path = Path(path)
    folder = path.parent
    try:
        if not folder.is_dir():
            raise Sorry(f"cannot write {path}: there is no folder {folder}; make it first")
        if path.is_dir():
            raise Sorry(f"cannot write {path}: it is a folder; choose another name")
        if os.path.lexists(path) and not overwrite:
            raise Sorry(f"{path} exists: use output.overwrite=True, or another output.prefix")
        if path.exists() and not path.is_file():
            raise Sorry(f"cannot write {path}: it is a device, not a file; choose another name")
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise Sorry(
            f"cannot write {path}: {error.strerror} ({folder}); choose another folder"
        ) from error


@contextlib.contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """A hidden file to write, which gets the name `path` when it is whole, and goes if it fails."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@dataclass(frozen=True)
class Outputs:
    """The files of a run. images: for every sweep, a file, or in a format with a file for every
    image their names with ##### for the image's number; parts: the folder where they are made."""

    images: tuple[Path, ...]
    parts: Path
    experiments: Path
    provenance: Path
    preview: Path | None
    truth: tuple[Path, Path] | None = None

    @classmethod
    def of(cls, params: Any, n_sweeps: int) -> Outputs:
        """From the extracted `output` scope."""
        prefix = params.prefix
        if not prefix.strip() or prefix.endswith(("/", os.sep)):
            raise Sorry(f"output.prefix={prefix} names no file: give a name, as in out/simulated")
        if "#" in str(Path(prefix).absolute()):
            raise Sorry(
                f"output.prefix={prefix}: dxtbx takes # in the name of a file or folder for the "
                "number of an image; write to a name without it"
            )
        numbers = [""] if n_sweeps == 1 else [f"_{i + 1}" for i in range(n_sweeps)]
        return cls(
            tuple(Path(f"{prefix}{number}{ENDINGS[params.format]}") for number in numbers),
            Path(f"{prefix}.parts"),
            Path(params.experiments or f"{prefix}.expt"),
            Path(params.provenance or f"{prefix}.provenance.json"),
            Path(params.preview) if params.preview else None,
            (Path(f"{prefix}.truth.refl"), Path(f"{prefix}.truth.mtz")) if params.truth else None,
        )

    def check(self, params: Any, inputs: Iterable[str]) -> None:
        """`Sorry` unless all of them, and the log of the extracted `output` scope, can be written,
        under different names, over no input. The log replaces an older one, as in DIALS."""
        files = [*self.images, self.experiments, self.provenance]
        files += [self.preview] if self.preview else []
        files += self.truth or []
        log = [Path(params.log)] if params.log else []
        names = [path.resolve() for path in [*files, *log]]
        doubled = {str(name) for name in names if names.count(name) > 1}
        if doubled:
            raise Sorry(f"two outputs would both be {', '.join(sorted(doubled))}: rename one")
        read = {Path(name).resolve() for name in inputs}
        for path, name in zip([*files, *log], names):
            if name in read:
                raise Sorry(f"{path} is an input: it would be overwritten; choose another name")
        for path in files:
            check_writable(path, self.may_replace(params))
        for path in log:
            if path.is_dir() or path.is_file() or not path.exists():  # /dev/null is none of these
                check_writable(path, overwrite=True)

    def may_replace(self, params: Any) -> bool:
        """Whether files that exist may be replaced: those of a run that was stopped while they got
        their names are its own."""
        return params.overwrite or is_moving(self.parts)

    def check_images(self, files: Iterable[Path], params: Any, inputs: Iterable[str]) -> None:
        """`Sorry` unless the files of all images can be written, where there is one for each; a
        warning where more of their name are there, which would pass for images of this run."""
        files, read = list(files), {Path(name).resolve() for name in inputs}
        others = [self.experiments, self.provenance, *([self.preview] if self.preview else [])]
        taken = {path.resolve() for path in [*others, *([Path(params.log)] if params.log else [])]}
        for path in files:
            if path.resolve() in read:
                raise Sorry(f"{path} is an input: it would be overwritten; choose another name")
            if path.resolve() in taken:
                raise Sorry(f"two outputs would both be {path.resolve()}: rename one")
            if os.path.lexists(path):
                check_writable(path, self.may_replace(params))
        for path in self.images:
            there = set(path.parent.glob(glob.escape(path.name).replace("#", "[0-9]")))
            strays = sorted(there - set(files)) if "#" in path.name else []
            if strays:
                logger.warning(
                    "%d files named %s are not of this run (%s ...): take care not to import them",
                    len(strays),
                    path,
                    strays[0],
                )
