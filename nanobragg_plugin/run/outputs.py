"""Where outputs go, and whether they can."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from libtbx.utils import Sorry


def check_writable(path: str | Path, overwrite: bool) -> None:
    """`Sorry` unless a file can be written there."""
    path = Path(path)
    folder = path.parent
    if not folder.is_dir():
        raise Sorry(f"cannot write {path}: there is no folder {folder}; make it first")
    if path.is_dir():
        raise Sorry(f"cannot write {path}: it is a folder; choose another name")
    if not os.access(folder, os.W_OK):
        raise Sorry(f"cannot write {path}: the folder {folder} may not be written to")
    if path.exists() and not overwrite:
        raise Sorry(f"{path} exists: use output.overwrite=True, or another output.prefix")


@dataclass(frozen=True)
class Outputs:
    """The files of a run: one of images for every sweep."""

    images: tuple[Path, ...]
    experiments: Path
    provenance: Path
    preview: Path | None

    @classmethod
    def of(cls, params: Any, n_sweeps: int) -> Outputs:
        """From the extracted `output` scope."""
        prefix = params.prefix
        numbers = [""] if n_sweeps == 1 else [f"_{i + 1}" for i in range(n_sweeps)]
        return cls(
            tuple(Path(f"{prefix}{number}.nxs") for number in numbers),
            Path(params.experiments or f"{prefix}.expt"),
            Path(params.provenance or f"{prefix}.provenance.json"),
            Path(params.preview) if params.preview else None,
        )

    def check(self, overwrite: bool) -> None:
        """`Sorry` unless all of them can be written, under different names."""
        files = [*self.images, self.experiments, self.provenance]
        files += [self.preview] if self.preview else []
        for path in files:
            check_writable(path, overwrite)
        names = [path.resolve() for path in files]
        doubled = {str(name) for name in names if names.count(name) > 1}
        if doubled:
            raise Sorry(f"two outputs would both be {', '.join(sorted(doubled))}: rename one")
