"""Makes parts of a run: the images, and what is counted of their reflections."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from libtbx.utils import Sorry

from nanobragg_plugin.run import resources
from nanobragg_plugin.run.data_sets import DataSet
from nanobragg_plugin.run.job import Job, kernels_of, part_name
from nanobragg_plugin.run.maps import Maps
from nanobragg_plugin.run.outputs import whole
from nanobragg_plugin.run.parts import Part, commit
from nanobragg_plugin.run.truth import Counter
from nanobragg_plugin.run.writers import FILE_PER_IMAGE, open_part, open_writer


class Maker:
    """Of one process; sets: those of the job, if they have been made."""

    def __init__(
        self, job: Job, sets: Sequence[DataSet] | None = None, device: str | None = None
    ) -> None:
        self.job = job
        self.sets = job.data_sets(device) if sets is None else sets
        kernels = kernels_of(self.sets)
        if kernels != job.kernels:
            raise Sorry(
                f"this machine would simulate with {_words(kernels)}, the others do with "
                f"{_words(job.kernels)} (is a C++ compiler installed?): give compute.kernel and "
                "compute.compile, or leave it out"
            )
        self._counters = [Counter(one.images) if job.truth else None for one in self.sets]
        self._maps = [Maps(one.images) if job.form.maps else None for one in self.sets]

    def make(self, part: Part, progress: Callable[[], None] = lambda: None) -> None:
        """Make a part, whole, in the job's folder; progress: called after each image."""
        start, folder = time.perf_counter(), self.job.folder
        try:
            files, brightest = self._images(part, progress)
        except Sorry as error:
            home = folder.parent
            there = "" if home == Path.cwd() else f"{home}{os.sep}"
            raise Sorry(str(error).replace(f"{folder}{os.sep}", there)) from error
        facts = {
            "seconds": time.perf_counter() - start,
            "bytes": sum(path.stat().st_size for path in files),
            "peak": resources.peak(),
            "brightest": brightest,
        }
        commit(folder, part, files, self.job.fingerprint, facts)

    def _images(self, part: Part, progress: Callable[[], None]) -> tuple[list[Path], float]:
        """The files of a part, whole; photons of its brightest pixel."""
        job, images = self.job, self.sets[part.file].images
        maps, counter = self._maps[part.file], self._counters[part.file]
        counted, brightest = [], 0.0
        with self._writer(part, maps.names if maps else ()) as (writer, files):
            for index in range(part.first, part.end):
                expected = images.expected(index)
                values = images.values(index, expected)
                kept = [image.cpu().numpy() for image in expected] if job.form.expected else None
                writer.write(index, values, kept, maps.of(index) if maps else None)
                if counter is not None:
                    counted.append(counter.count(index))
                brightest = max(brightest, *(float(image.max()) for image in expected))
                progress()
        if counter is not None:
            files = [*files, job.folder / part.truth]
            write_counted(files[-1], counted)
        return files, brightest

    @contextlib.contextmanager
    def _writer(self, part: Part, maps: Sequence[str]) -> Iterator[tuple[Any, list[Path]]]:
        """What writes the images of a part, and the files that it makes; none if it fails."""
        job, data_set, name = self.job, self.sets[part.file], self.job.names[part.file]
        if job.form.format not in FILE_PER_IMAGE:
            path = job.folder / part_name(job.names, part)
            of = data_set, maps, part.first, part.end, name
            with whole(path) as temporary, open_part(job.form, temporary, *of) as writer:
                yield writer, [path]
            return
        writer = open_writer(job.form, job.folder / name.name, data_set, job.record)
        try:
            yield writer, writer.names
        except BaseException:
            writer.discard()
            raise


def write_counted(path: Path, counted: Sequence[list[list[np.ndarray]]]) -> None:
    """Write what `Counter.count` found in the images of a part."""
    with whole(path) as temporary, h5py.File(temporary, "x") as handle:
        for number, crystals in enumerate(counted):
            for crystal, columns in enumerate(crystals):
                for column, values in enumerate(columns):
                    handle[f"{number:06d}/{crystal:06d}/{column}"] = values


def read_counted(path: Path) -> list[list[list[np.ndarray]]]:
    """The inverse of `write_counted`."""
    with h5py.File(path, "r") as handle:
        return [
            [[crystal[name][()] for name in sorted(crystal)] for crystal in image.values()]
            for image in handle.values()
        ]


def _words(kernels: Sequence[tuple[str, bool]]) -> str:
    words = {f"{name}{', compiled' if compiled else ''}" for name, compiled in kernels}
    return "; ".join(sorted(words))
