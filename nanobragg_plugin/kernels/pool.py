"""Work that is shared out to threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Item, Answer = TypeVar("Item"), TypeVar("Answer")


def in_threads(
    work: Callable[[Item], Answer], items: Sequence[Item], on_cpu: bool = True
) -> list[Answer]:
    """`work` of every item, in their order, without gradients.

    On a CPU each thread takes an item of its own, with one thread within torch: operations that
    are split among threads wait for the slowest at every step, which on a busy machine is
    several times slower, and long sums would depend on the number of threads.
    """
    threads = torch.get_num_threads()

    def alone(item: Item) -> Answer:
        with torch.no_grad():
            return work(item)

    if threads == 1 or not items or not on_cpu:
        return [alone(item) for item in items]
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        return list(pool.map(alone, items))
    finally:
        pool.shutdown(cancel_futures=True)  # interrupted, the rest of the image is not waited for
        torch.set_num_threads(threads)
