"""Makes parts of a run in processes of this machine.

Each process gets one part at a time. If it dies (killed, out of memory), another one is started,
and makes the part again.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import connection, resource_tracker
from typing import Any

import torch
from libtbx.utils import Sorry

from nanobragg_plugin.run import messages
from nanobragg_plugin.run.job import Job
from nanobragg_plugin.run.maker import Maker
from nanobragg_plugin.run.parts import Part
from nanobragg_plugin.run.resources import Crew, devices_of

logger = logging.getLogger("dials.nanobragg_plugin.run.processes")

#: How often a part is begun, and how often in a row a process may die before it has begun one.
TRIES = 3


@dataclass
class Worker:
    """A process; part: what it makes; images: how many of them are made."""

    process: Any
    pipe: connection.Connection
    device: str | None
    part: Part | None = None
    images: int = 0


@dataclass
class _State:
    todo: deque[Part]
    tries: dict[int, int] = field(default_factory=dict)
    workers: list[Worker] = field(default_factory=list)
    died: int = 0


def run(
    job: Job,
    parts: Sequence[Part],
    crew: Crew,
    progress: Callable[[int], None],
    done: Callable[[Part], None],
) -> None:
    """Make all parts; progress is called with numbers of images (below 0: they are lost), done with
    each part that is made. However it ends, no process stays."""
    devices = devices_of(job.params.compute.device)
    state = _State(deque(parts))
    try:
        for number in range(min(crew.processes, len(parts))):
            device = devices[number % len(devices)] if len(devices) > 1 else None
            state.workers.append(_started(job, crew, device))
        while state.workers:
            pipes = {worker.pipe: worker for worker in state.workers}
            for pipe in connection.wait(list(pipes)):
                worker = pipes[pipe]
                try:
                    _hear(worker, pipe.recv(), state, progress, done)
                except (EOFError, ConnectionResetError, BrokenPipeError):
                    _bury(worker, state, progress)
                    if state.todo and len(state.workers) < crew.processes:
                        state.workers.append(_started(job, crew, worker.device))
    finally:
        for worker in state.workers:
            worker.process.kill()
        for worker in state.workers:
            worker.process.join()
            worker.pipe.close()


def _hear(worker: Worker, word: tuple, state: _State, progress, done) -> None:
    """What a process says: ready, image, done, or why it cannot go on."""
    kind, *rest = word
    if kind == "image":
        worker.images += 1
        progress(1)
        return
    if kind == "sorry":
        raise Sorry(rest[0])
    if kind == "error":
        raise RuntimeError(f"a process failed:\n{rest[0]}")
    if kind == "done":
        done(worker.part)
    else:
        state.died = 0
    worker.part, worker.images = (state.todo.popleft() if state.todo else None), 0
    worker.pipe.send(worker.part)
    if worker.part is None:
        worker.process.join()
        worker.pipe.close()
        state.workers.remove(worker)


def _bury(worker: Worker, state: _State, progress) -> None:
    """A process died: its part is to be made again."""
    worker.process.join()
    worker.pipe.close()
    state.workers.remove(worker)
    status = worker.process.exitcode
    why = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
    if status == -signal.SIGKILL:
        why += ", as the system does where memory runs out"
    part = worker.part
    if part is None:
        state.died += 1
        tries, what = state.died, "a process that began to work"
    else:
        progress(-worker.images)
        state.todo.appendleft(part)
        tries = state.tries[part.number] = state.tries.get(part.number, 0) + 1
        what = f"a process that made {part}"
    if tries >= TRIES:
        raise Sorry(
            f"{what} {why}, {TRIES} times: give fewer processes (mp.nproc), or see that there is "
            "more memory"
        )
    logger.warning("%s %s; another one goes on", what.capitalize(), why)


def _started(job: Job, crew: Crew, device: str | None) -> Worker:
    ours, theirs = multiprocessing.Pipe()
    # spawned, not forked: torch's threads do not survive a fork
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_work, args=(theirs, job, crew, device), daemon=True)
    with _deaf():
        process.start()
    theirs.close()
    return Worker(process, ours, device)


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """Processes that start here do not hear Ctrl-C, which the terminal sends to all of them: the
    one that started them ends them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # which, if it begins later, unblocks the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(pipe: connection.Connection, job: Job, crew: Crew, device: str | None) -> None:
    """The life of a process."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    logging.getLogger("dials").addHandler(logging.NullHandler())  # the first process said it all
    if crew.threads is not None:
        torch.set_num_threads(crew.threads)
    try:
        try:
            with messages.clear():
                maker = Maker(job, device=device)
                pipe.send(("ready",))
                for part in iter(pipe.recv, None):
                    maker.make(part, lambda: pipe.send(("image",)))
                    pipe.send(("done",))
        except Sorry as error:
            pipe.send(("sorry", str(error)))
        except Exception:
            pipe.send(("error", traceback.format_exc()))
    except (EOFError, OSError):  # nobody listens any more
        pass


def _end_with_parent() -> None:
    """No process goes on alone: another run may be writing to the same folder."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
