"""Makes parts of a run on many machines, by Dask: workers of a scheduler that the user started."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from libtbx import Auto
from libtbx.utils import Sorry

from nanobragg_plugin.run import messages
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
        here = len(client.scheduler_info()["workers"])
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
    futures = {
        client.submit(make, scattered, part, pure=False, retries=RETRIES): part for part in parts
    }
    try:
        for future in distributed.as_completed(list(futures)):
            part = futures.pop(future)
            _check(distributed, future, part)
            done(part)
            progress(len(part))
    finally:
        client.cancel(list(futures), force=True)


def _itself(job: Job) -> Job:
    return job


def make(job: Job, part: Part) -> str | None:
    """The task: a part of the job, written by the worker into the job's folder. What is amiss, if
    it is of no use to try again."""
    try:
        with _lock, messages.clear():
            _maker(job).make(part)
    except Sorry as error:
        return str(error)
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


def _check(distributed: Any, future: Any, part: Part) -> None:
    """`Sorry` for a part that could not be made."""
    if future.status == "finished":
        if future.result() is not None:
            raise Sorry(future.result())
        return
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
