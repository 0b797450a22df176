"""The parts of a run: some images in a row, written together, kept when a run is stopped.

While a run goes on its images are in a folder beside the output. A part is done when its ledger is
there, a JSON file with the checksums of the part's files, which is written after them. A run that
finds the folder of one like it keeps what it can verify.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from libtbx.utils import Sorry

logger = logging.getLogger("dials.nanobragg_plugin.run.parts")

#: Images of a part at most, and parts that a run is to have at least.
MOST_IMAGES, LEAST_PARTS = 64, 200
RUN, MOVING, LOCK = "run.json", "moving.json", "lock"


@dataclass(frozen=True)
class Part:
    """Images `first` to `end` - 1 of file number `file`, all from 0; number: of the run's parts;
    of_file: of the file's, from 1."""

    number: int
    file: int
    first: int
    end: int
    of_file: int

    @property
    def ledger(self) -> str:
        return f"part_{self.number:06d}.json"

    @property
    def truth(self) -> str:
        """The file of its reflections."""
        return f"part_{self.number:06d}.truth.h5"

    def __len__(self) -> int:
        return self.end - self.first

    def __str__(self) -> str:
        numbers = f"{self.first + 1}" + (f" to {self.end}" if len(self) > 1 else "")
        return f"images {numbers} of file {self.file + 1}"


def parts_of(counts: Sequence[int], size: int | None = None) -> tuple[Part, ...]:
    """All parts of files of so many images; size: images of a part. The very first part is one
    image, by which time and memory are judged."""
    if size is None:
        size = min(MOST_IMAGES, max(1, sum(counts) // LEAST_PARTS))
    result: list[Part] = []
    for file, count in enumerate(counts):
        starts = list(range(0, count, size))
        if file == 0 and count > 1:
            starts = [0, *range(1, count, size)]
        for of_file, (first, end) in enumerate(zip(starts, [*starts[1:], count]), 1):
            result.append(Part(len(result), file, first, end, of_file))
    return tuple(result)


def sha256(path: Path, sync: bool = False) -> str:
    """Checksum of a file; sync: of one that then is on the disk, whatever happens."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        if sync:
            os.fsync(handle.fileno())
        for block in iter(lambda: handle.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def write_whole(path: Path, content: dict) -> None:
    """Write JSON that appears when it is whole and on the disk."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        with open(temporary, "w", encoding="utf-8") as handle:
            json.dump(content, handle)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def commit(folder: Path, part: Part, files: Iterable[Path], fingerprint: str, facts: dict) -> None:
    """The part is done: its files are whole. facts: what is to be known of it later."""
    sums = {path.name: sha256(path, sync=True) for path in files}
    of = {"fingerprint": fingerprint, "first": part.first, "end": part.end, "file": part.file}
    write_whole(folder / part.ledger, {**of, "files": sums, "facts": facts})


@dataclass
class Folder:
    """The folder of a run's parts; home: where its files will be; ledgers: of the parts that are
    done, by their numbers."""

    path: Path
    home: Path
    fingerprint: str
    ledgers: dict[int, dict[str, Any]]

    def done(self, part: Part) -> None:
        """Take note of a part that has been made."""
        self.ledgers[part.number] = json.loads((self.path / part.ledger).read_text())

    def facts(self, part: Part) -> dict[str, Any]:
        return self.ledgers[part.number]["facts"]

    def where(self, name: str) -> Path:
        """A part's file: in the folder, or moved to where it stays."""
        inside = self.path / name
        return inside if inside.exists() else self.home / name

    def move(self, names: Sequence[str]) -> None:
        """Give these files their own names, all together as far as that can be: a run that is
        stopped meanwhile does it again."""
        write_whole(self.path / MOVING, {"names": list(names)})
        for name in names:
            if (self.path / name).exists():
                os.replace(self.path / name, self.home / name)
        _sync_folder(self.home)

    def remove(self) -> None:
        """All is where it should be."""
        old = _removed(self.path)
        os.replace(self.path, old)  # from here on the run is one that has ended
        shutil.rmtree(old, ignore_errors=True)

    def tidy(self) -> None:
        """Remove what is half-written; the folder too, if no part is done."""
        if not self.ledgers:
            shutil.rmtree(self.path, ignore_errors=True)
            return
        kept = {RUN, MOVING, LOCK}
        for number, ledger in self.ledgers.items():
            kept |= {f"part_{number:06d}.json", *ledger["files"]}
        for path in self.path.iterdir():
            if path.name not in kept:
                _remove(path)


def is_moving(path: Path) -> bool:
    """Whether a run was stopped while its files got their own names."""
    return (path / MOVING).exists()


@contextlib.contextmanager
def opened(
    path: Path, parts: Sequence[Part], run: dict[str, Any], overwrite: bool
) -> Iterator[Folder]:
    """The folder of a run, with the parts that are done; run: all that decides what its images are,
    as JSON has it. `Sorry` where another's is there, unless it is to be overwritten."""
    fingerprint = fingerprint_of(run)
    if path.exists() and not path.is_dir():
        raise Sorry(f"{path} is a file: the images are made in a folder of that name; move it")
    path.mkdir(exist_ok=True)
    shutil.rmtree(_removed(path), ignore_errors=True)
    with _locked(path / LOCK):
        there = _read(path / RUN)
        if there and there.get("fingerprint") != fingerprint:
            _discard(path, there, run, overwrite)
        if not (path / RUN).exists():
            write_whole(path / RUN, {"fingerprint": fingerprint, "run": run})
        folder = Folder(path, path.parent, fingerprint, {})
        folder.ledgers = _verified(folder, parts)
        try:
            yield folder
        finally:
            if path.exists():
                folder.tidy()


def fingerprint_of(run: dict[str, Any]) -> str:
    """One word for all that decides what the images are."""
    return hashlib.sha256(json.dumps(run, sort_keys=True).encode()).hexdigest()


def _verified(folder: Folder, parts: Sequence[Part]) -> dict[int, dict[str, Any]]:
    """The ledgers of parts whose files are what they were."""
    found = {}
    for part in parts:
        ledger = _read(folder.path / part.ledger)
        if ledger is None or ledger.get("fingerprint") != folder.fingerprint:
            continue
        try:
            if all(sha256(folder.where(name)) == sha for name, sha in ledger["files"].items()):
                found[part.number] = ledger
                continue
        except (OSError, KeyError, AttributeError):
            pass
        logger.warning("%s: the file is not what was written; they are simulated again", part)
    return found


def _discard(path: Path, there: dict, run: dict, overwrite: bool) -> None:
    """Remove what another run left, if that is wanted."""
    done = len(list(path.glob("part_*.json")))
    if done and not overwrite:
        other = sorted(_changed(there.get("run", {}), run))
        raise Sorry(
            f"{path} holds images of a run that was stopped and differed from this one in "
            f"{', '.join(other[:3]) or 'its version'}{' ...' if len(other) > 3 else ''}: the same "
            "command as then goes on with it; output.overwrite=True removes it"
        )
    if done:
        logger.info("Removed %s, which another run left", path)
    for item in path.iterdir():
        if item.name != LOCK:
            _remove(item)


def _changed(old: dict, new: dict) -> Iterator[str]:
    """The names of what differs, of values the parameters' own names."""
    for name in {*old, *new}:
        if old.get(name) == new.get(name):
            continue
        if name == "values" and isinstance(old.get(name), dict):
            yield from _changed(old[name], new[name])
        else:
            yield name


def _read(path: Path) -> dict | None:
    """JSON, or None of what is not there or broken."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """While no other run has it; `Sorry` if one does."""
    try:
        import fcntl
    except ImportError:  # not on this system
        yield
        return
    with open(path, "w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise Sorry(
                    f"another run is writing to {path.parent}: wait for it, or choose another "
                    "output.prefix"
                ) from None
            # a file system without locks
        yield


def _removed(path: Path) -> Path:
    """What the folder is called while it goes."""
    return path.with_name(f".{path.name}.removed")


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some file systems cannot
            os.fsync(handle)
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
