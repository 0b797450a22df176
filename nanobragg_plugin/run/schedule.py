"""A run from its plan to its files: who makes which part, what is kept, what is put together."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from libtbx import Auto
from libtbx.utils import Sorry
from tqdm import tqdm

from nanobragg_plugin.run import cluster, job, parts, processes, resources
from nanobragg_plugin.run.data_sets import DataSet
from nanobragg_plugin.run.job import Job
from nanobragg_plugin.run.maker import Maker, read_counted
from nanobragg_plugin.run.maps import Maps
from nanobragg_plugin.run.parts import Folder, Part
from nanobragg_plugin.run.resources import Crew
from nanobragg_plugin.run.truth import Truth
from nanobragg_plugin.run.writers import FILE_PER_IMAGE, open_writer

logger = logging.getLogger("dials.nanobragg_plugin.run.schedule")


@dataclass
class Run:
    """A run in its folder. sets: what this process planned; joined: whether NXmx files hold their
    images themselves; began: seconds since 1970."""

    job: Job
    sets: Sequence[DataSet]
    parts: Sequence[Part]
    folder: Folder
    joined: bool = True
    began: float = field(default_factory=time.time)

    def todo(self) -> list[Part]:
        """The parts that are not done."""
        return [part for part in self.parts if part.number not in self.folder.ledgers]

    @property
    def images(self) -> int:
        """Images of all files."""
        return sum(map(len, self.parts))

    @property
    def done(self) -> int:
        """Those of them that are made."""
        return self.images - sum(map(len, self.todo()))

    def make_here(self, these: Sequence[Part], progress: Callable[[], None]) -> None:
        """Make parts in this process."""
        maker = Maker(self.job, self.sets)
        for part in these:
            maker.make(part, progress)
            self.folder.done(part)

    def timings(self) -> dict[str, Any]:
        """When and by whom each part was made, for `output.timings`."""
        of_parts = []
        for part in self.parts:
            where = {"file": part.file + 1, "first": part.first + 1, "last": part.end}
            of_parts.append({**where, **self.folder.facts(part)})
        return {"began": self.began, "ended": time.time(), "parts": of_parts}

    def name_files(self) -> None:
        """Put the files together, and give all their names."""
        names = [name for number in range(len(self.sets)) for name in self._files(number)]
        self.folder.move(names)
        for data_set, path in zip(self.sets, self.job.names):
            logger.info("Wrote %d images to %s", data_set.images.n_images, path)

    def truths(self) -> list[Truth]:
        """What was counted of the reflections of each file."""
        result = [Truth(data_set.images) for data_set in self.sets]
        for part in self.parts:
            counted = read_counted(self.folder.path / part.truth)
            for index, of_image in enumerate(counted, part.first):
                result[part.file].take(index, of_image)
        return result

    def _files(self, number: int) -> list[str]:
        """The names of all files of images, those of the parts included that stay, the one that
        refers to others last; what is not there yet is made."""
        form, data_set, name = self.job.form, self.sets[number], self.job.names[number].name
        own = [part for part in self.parts if part.file == number]
        of = form, self.folder.path / name, data_set, self.job.record
        if form.format in FILE_PER_IMAGE:
            files = [file for one in own for file in self.folder.ledgers[one.number]["files"]]
            files = [file for file in files if file not in {one.truth for one in own}]
            if form.format == "raw":
                writer = open_writer(*of)
                writer.describe()
                files += [path.name for path in writer.names]
            return files
        maps = Maps(data_set.images).names if form.maps else ()
        held = [(job.part_name(self.job.names, one), one.first, one.end) for one in own]
        with open_writer(*of, maps, None if self.joined else held) as writer:
            for file, first, end in held if self.joined else ():
                writer.take(self.folder.where(file), first, end)
        return [name] if self.joined else [*(file for file, *_ in held), name]


def products(names: Sequence[Path], all_parts: Sequence[Part], joined: bool) -> list[Path]:
    """The files beside NXmx files that hold their images."""
    if joined:
        return []
    return [names[one.file].with_name(job.part_name(names, one)) for one in all_parts]


@contextmanager
def opened(
    made: Job, sets: Sequence[DataSet], all_parts: Sequence[Part], run: dict, joined: bool
) -> Iterator[Run]:
    """The run in its folder; stopped, it says how far it came."""
    overwrite = made.params.output.overwrite
    with parts.opened(made.folder, all_parts, run, overwrite) as folder:
        result = Run(made, sets, all_parts, folder, joined)
        if result.done:
            logger.info("%d of %d images are there already", result.done, result.images)
        try:
            yield result
        except BaseException:
            if result.done and folder.path.exists():
                logger.info(
                    "Stopped: %d of %d images are done, and kept in %s. The same command goes on "
                    "with them.",
                    result.done,
                    result.images,
                    folder.path,
                )
            raise


def refuse_crew(params: Any) -> None:
    """`Sorry` for processes where there is nothing to simulate."""
    defaults = {"mp.nproc": Auto, "mp.scheduler": None, "mp.memory_gb": Auto}
    for name, default in {**defaults, "output.timings": None}.items():
        scope, _, own = name.partition(".")
        value = getattr(getattr(params, scope), own)
        if value is not default:
            text = f"{value:g}" if isinstance(value, float) else value
            raise Sorry(f"{name}={text} does nothing for output.format=live: leave it away")


def make(run: Run) -> None:
    """Make all parts that are not done, with all that may help."""
    todo, params = run.todo(), run.job.params
    if not todo:
        return
    given = params.compute.nthreads
    threads = torch.get_num_threads() if given is Auto else given
    bound = resources.memory_bound(params.mp)
    estimate = resources.memory_of(run.sets, run.job, threads)
    resources.check_memory(estimate, bound)
    least = resources.least_bytes(run.sets, run.job.form) * len(todo) / len(run.parts)
    resources.check_disk(least, run.folder.home, "the images")
    if params.mp.nproc is not Auto:
        if params.mp.scheduler is not None:
            raise Sorry(
                f"mp.nproc={params.mp.nproc} does nothing with mp.scheduler, whose workers "
                "simulate: leave one of them away"
            )
        resources.crew(params, len(todo), 0.0, estimate)
    bar = tqdm(total=run.images, initial=run.done, unit="image", disable=not sys.stderr.isatty())
    with cluster.connected(params.mp.scheduler) as client, bar:
        if todo[0] is run.parts[0]:
            resources.forget_peak()
            run.make_here(todo[:1], bar.update)
            brightest = run.folder.facts(todo[0])["brightest"]
            logger.info("Brightest pixel of the first image: %.4g photons expected", brightest)
            todo = todo[1:]
        if todo:
            _make_the_rest(run, todo, estimate, client, bar)


def _make_the_rest(run: Run, todo: list[Part], estimate: float, client: Any, bar: Any) -> None:
    """Make these parts, by what is known of the first."""
    params, facts = run.job.params, run.folder.facts(run.parts[0])
    images = sum(map(len, todo))
    peak = max(facts["peak"], 0.5 * estimate)
    resources.check_memory(peak, resources.memory_bound(params.mp))
    crew = Crew() if client else resources.crew(params, images, facts["seconds"], peak)
    on_disk = facts["bytes"] * (images + (run.images if run.joined else 0))
    logger.info(
        "%d more images to make%s: about %s; memory about %s a process; disk about %s, of the "
        "first image's %s each",
        images,
        f" by {params.mp.scheduler}" if client else _words(crew),
        resources.duration(images * facts["seconds"] / crew.processes)
        + (" for one process" if client else ""),
        *map(resources.sized, (peak, on_disk, facts["bytes"])),
    )
    resources.check_disk(on_disk, run.folder.home, f"{images} images like the first")
    start = time.perf_counter()
    if client:
        cluster.run(run.job, todo, client, bar.update, run.folder.done)
    elif crew.processes > 1:
        processes.run(run.job, todo, crew, bar.update, run.folder.done)
    else:
        run.make_here(todo, bar.update)
    logger.info("Made %d images in %s", images, resources.duration(time.perf_counter() - start))


def _words(crew: Crew) -> str:
    threads = "" if crew.threads is None else f" of {crew.threads} thread(s)"
    return f" in {crew.processes} processes{threads}" if crew.processes > 1 else ""
