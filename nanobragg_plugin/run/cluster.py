"""Makes parts of a run on many machines, by Dask: workers of a scheduler that the user started."""

from __future__ import annotations

import logging
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from libtbx import Auto
from libtbx.utils import Sorry

from nanobragg_plugin.adapters.checks import one_line
from nanobragg_plugin.run.job import Job
from nanobragg_plugin.run.maker import Maker
from nanobragg_plugin.run.parts import Part

logger = logging.getLogger("dials.nanobragg_plugin.run.cluster")

#: How often a part is tried again elsewhere.
RETRIES = 3
#: Seconds to reach the scheduler.
TIMEOUT_S = 30

_lock = threading.Lock()  # a worker may have several threads, the simulator and HDF5 have one
_makers: dict[str, Maker] = {}


@contextmanager
def connected(scheduler: str | None) -> Iterator[Any]:
    """A client of the scheduler of that address or file; None without one."""
    if scheduler is None:
        yield None
        return
    with _client(_distributed(), scheduler) as client:
        here = len(client.nthreads())
        logger.info("The scheduler %s has %d workers", scheduler, here)
        if not here:
            logger.warning("No worker has come yet: the images begin with the first")
        with client.as_current():
            yield client


def run(
    job: Job,
    parts: Sequence[Part],
    client: Any,
    progress: Callable[[int], None],
    done: Callable[[Part], None],
) -> None:
    """Make all parts; progress is called with numbers of images, done with each part made."""
    distributed = _distributed()
    # A task that returns the job, so that it travels once to the scheduler, from there to a worker,
    # and from worker to worker; what is scattered is lost with the worker that has it.
    scattered = client.submit(_itself, job, pure=False, retries=RETRIES)
    of = {"pure": False, "retries": RETRIES}
    futures = {client.submit(make, scattered, part, **of): part for part in parts}
    failed: dict[int, list[str]] = {}
    waiting = distributed.as_completed(list(futures))
    try:
        for future in waiting:
            part = futures.pop(future)
            failure = _checked(distributed, future, part)
            if failure is None:
                done(part)
                progress(len(part))
                continue
            failed.setdefault(part.number, []).append(failure.worker)
            others = _others(client, failed[part.number], part, failure)
            logger.warning("%s failed on %s: %s; tried elsewhere", part, *failure.where)
            again = client.submit(
                make, scattered, part, workers=others, allow_other_workers=True, **of
            )
            futures[again] = part
            waiting.add(again)
    finally:
        client.cancel(list(futures), force=True)


def _others(client: Any, failed: list[str], part: Part, failure: Failure) -> list[str]:
    """The workers on which a part has not failed; what failed is raised if it did too often, or
    there are none."""
    others = [name for name in client.nthreads() if name not in failed]
    if len(failed) <= RETRIES and others:
        return others
    if isinstance(failure.error, (OSError, MemoryError)):
        raise failure.error
    raise RuntimeError(f"{part} could not be made:\n{failure.trace}") from failure.error


def _itself(job: Job) -> Job:
    return job


@dataclass(frozen=True)
class Failure:
    """What went wrong, on which worker, that may go well elsewhere."""

    worker: str
    error: Exception
    trace: str

    @property
    def where(self) -> tuple[str, str]:
        """The worker, and what is amiss in a line."""
        return self.worker, one_line(self.error) or type(self.error).__name__


def make(job: Job, part: Part) -> str | Failure | None:
    """The task: a part of the job, written by the worker into the job's folder. A sentence is of
    what is amiss wherever it is tried."""
    from distributed import get_worker

    try:
        with _lock:
            _maker(job).make(part)
    except Sorry as error:
        return str(error)
    except Exception as error:
        # others may not be unpickled
        own = error if isinstance(error, (OSError, MemoryError)) else RuntimeError(str(error))
        return Failure(get_worker().address, own, traceback.format_exc())
    return None


def _maker(job: Job) -> Maker:
    """That of this process, made once for a run."""
    from distributed import get_worker

    maker = _makers.get(job.fingerprint)
    if maker is None:
        if not job.folder.is_dir():
            raise Sorry(f"a worker does not see {job.folder}: all must share the output's folder")
        given = job.params.compute.nthreads
        torch.set_num_threads(get_worker().state.nthreads if given is Auto else given)
        _makers.clear()  # of another run
        maker = _makers[job.fingerprint] = Maker(job)
    return maker


def _checked(distributed: Any, future: Any, part: Part) -> Failure | None:
    """What a part says that failed where it was tried; `Sorry` for one that cannot be made."""
    if future.status == "finished":
        found = future.result()
        if isinstance(found, str):
            raise Sorry(found)
        return found
    if future.status == "cancelled":
        raise Sorry(f"{part} were cancelled by the scheduler: is it still there?")
    error = future.exception()
    if isinstance(error, distributed.scheduler.KilledWorker):
        raise Sorry(
            f"the workers that made {part} died, one after the other: they may need more memory"
        )
    raise RuntimeError(f"{part} could not be made: {error!r}") from error


def _client(distributed: Any, scheduler: str) -> Any:
    """A connection to the scheduler of that address or file."""
    of = {"address": scheduler}
    if scheduler.endswith(".json"):
        if not Path(scheduler).is_file():
            raise Sorry(
                f"mp.scheduler={scheduler}: there is no such file; is the scheduler running?"
            )
        of = {"scheduler_file": scheduler}
    try:
        return distributed.Client(timeout=TIMEOUT_S, set_as_default=False, **of)
    except (OSError, ValueError, TypeError, KeyError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise Sorry(
            f"mp.scheduler={scheduler} cannot be reached ({reason}): give the address that "
            "dask scheduler prints, or the file of its --scheduler-file"
        ) from error


def _distributed() -> Any:
    try:
        import distributed
    except ImportError:
        raise Sorry(
            "mp.scheduler needs dask.distributed, here and where the workers are: pip install "
            "'nanobragg[cluster]', or conda install distributed"
        ) from None
    return distributed
