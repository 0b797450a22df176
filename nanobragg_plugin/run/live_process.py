"""What a process keeps of live files: the data sets of the last ones, and their last images.

A process that was forked starts anew: the threads and locks of its parent are not its own.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from libtbx import Auto

logger = logging.getLogger("dials.nanobragg_plugin.run.live")

#: Data sets, and bytes of images, that are kept.
KEPT_SETS, KEPT_BYTES = 2, 256 << 20

Pixels = list[np.ndarray]


class Process:
    """Of one process; its threads take turns."""

    def __init__(self, kept_bytes: int = KEPT_BYTES) -> None:
        self.pid, self._lock, self.kept_bytes = os.getpid(), threading.RLock(), kept_bytes
        self._opened: dict[tuple, Any] = {}
        self._sets: OrderedDict[tuple, Any] = OrderedDict()
        self._images: OrderedDict[tuple, Pixels] = OrderedDict()
        self._bytes = 0

    def opened(self, place: tuple, make: Callable[[], Any], is_valid: Callable[[Any], bool]) -> Any:
        """What was made last of a place, if it is still valid; else made now."""
        with self._lock:
            if place not in self._opened or not is_valid(self._opened[place]):
                made = make()
                self._opened.clear()
                self._opened[place] = made
            return self._opened[place]

    def data_set(self, key: tuple, make: Callable[[], Any]) -> Any:
        """That of a key, made if it is not kept."""
        with self._lock:
            if key not in self._sets:
                self._sets[key] = make()
            self._sets.move_to_end(key)
            while len(self._sets) > KEPT_SETS:
                self._sets.popitem(last=False)
            return self._sets[key]

    def pixels(self, key: tuple, index: int, render: Callable[[int], Pixels]) -> Pixels:
        """Those of an image, rendered if they are not kept. They must not be changed."""
        with self._lock:
            place = (key, index)
            if place not in self._images:
                self._keep(place, render(index))
            self._images.move_to_end(place)
            return self._images[place]

    def _keep(self, place: tuple, image: Pixels) -> None:
        for panel in image:
            panel.flags.writeable = False
        self._images[place] = image
        self._bytes += _size(image)
        while self._bytes > self.kept_bytes and len(self._images) > 1:
            self._bytes -= _size(self._images.popitem(last=False)[1])

    def set_threads(self, asked: Any) -> None:
        """Let torch use so many threads, Auto: as it does. One in a process of several, each of
        which has images of its own: OpenMP's threads do not survive a fork."""
        if asked is not Auto and not _is_child():
            torch.set_num_threads(min(asked, os.cpu_count() or 1))


def _size(image: Pixels) -> int:
    return sum(panel.nbytes for panel in image)


def _is_child() -> bool:
    return _forked or multiprocessing.parent_process() is not None


_forked = False
_process: Process | None = None


def process() -> Process:
    """That of the process that asks."""
    global _process, _forked
    if _process is None or _process.pid != os.getpid():
        _forked = _process is not None
        if _is_child():
            torch.set_num_threads(1)
        _process = Process()
    return _process
