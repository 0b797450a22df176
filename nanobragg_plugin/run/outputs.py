"""Where outputs go, and whether they can."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from libtbx.utils import Sorry


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
    """The files of a run: one of images for every sweep."""

    images: tuple[Path, ...]
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
            tuple(Path(f"{prefix}{number}.nxs") for number in numbers),
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
            check_writable(path, params.overwrite)
        for path in log:
            if path.is_dir() or path.is_file() or not path.exists():  # /dev/null is none of these
                check_writable(path, overwrite=True)

    @contextlib.contextmanager
    def staged(self) -> Iterator[list[Path]]:
        """Where to write the images meanwhile: a hidden folder beside them. They move to their
        places together, when all are whole; after any failure none does, and the folder goes."""
        home = self.images[0].parent
        folder = Path(tempfile.mkdtemp(prefix=f".{self.images[0].stem}-", suffix=".part", dir=home))
        paths = [folder / path.name for path in self.images]
        try:
            yield paths
            for path, final in zip(paths, self.images):
                os.replace(path, final)
        except Sorry as error:
            text = str(error)
            for path, final in zip(paths, self.images):
                text = text.replace(str(path), str(final))
            raise Sorry(text) from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)
