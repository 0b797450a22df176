"""A process of nanobragg.benchmark's own for one kernel and number of threads: what is timed.

`python -m nanobragg_plugin.run.benchmark_worker` reads questions from its input, a line of JSON
each, and answers with one: so that the one who asks can let another program run in between.
"""

from __future__ import annotations

import nanobragg_plugin  # noqa: F401  isort: skip  before dxtbx: torch keeps its threads

import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from libtbx.utils import Sorry

from nanobragg_plugin.adapters.params import torch_device
from nanobragg_plugin.models import on_device
from nanobragg_plugin.run import benchmark_cases as cases
from nanobragg_plugin.run import benchmark_gradients, benchmark_sweep, messages
from nanobragg_plugin.run.benchmark_device import Peak, finish
from nanobragg_plugin.simulate import Simulator


class Bench:
    """One case, kernel and number of threads; each method answers a question."""

    def __init__(
        self,
        case: dict | str,
        folder: str,
        small: float,
        threads: int,
        options: dict,
        device: str = "cpu",
    ) -> None:
        torch.set_num_threads(threads)
        self.device = torch_device(device, "device")
        self.folder, self.small = Path(folder), small
        self.options = options
        self.simulator: Any = None
        self.image: Any = None
        self.memory: Peak | None = None
        if case == cases.SWEEP:
            return
        # the fields of a case, or the name of one of CASES
        self.case = cases.CASES[case] if isinstance(case, str) else cases.Case(**case)
        self.work = self._work()

    def first(self) -> dict:
        """Seconds to the first image, compilation and work for the whole sweep included."""
        start = time.perf_counter()
        self._prepare()
        self._simulate()
        return {"seconds": time.perf_counter() - start, "steps": self.work.steps}

    def settle(self) -> dict:
        """Begin anew in a process that has compiled: seconds of the work for the whole sweep.

        One image follows that is not timed.
        """
        self.simulator = self.image = None
        self.memory = Peak(self.device)
        start = time.perf_counter()
        self._prepare()
        finish(self.device)
        seconds = time.perf_counter() - start
        self._simulate()
        return {"seconds": seconds}

    def again(self) -> dict:
        """Seconds of one more image."""
        start = time.perf_counter()
        self._simulate()
        return {"seconds": time.perf_counter() - start}

    def peak(self) -> dict:
        """MB of the images since `settle` above what there was before them."""
        return {"mb": None if self.memory is None else self.memory.mb}

    def derivatives(self, repeats: int) -> dict:
        """Times of an image with and without its derivatives, by the same compiled code."""
        chosen = self.work.options.compile
        options = replace(self.work.options, compile="always" if chosen == "auto" else chosen)
        memory = Peak(self.device)
        found = benchmark_gradients.measure(replace(self.work, options=options), repeats)
        return {**found, "peak_mb": memory.mb}

    def save(self, path: str) -> dict:
        """Write the image as .npy; its maximum, photons."""
        np.save(path, self.image.cpu().numpy())
        return {"max": float(self.image.max())}

    def parity(self, path: str) -> dict:
        """Write the image with nanoBragg.c's carryover; not timed."""
        self.work = self._work(parity=True)
        self._prepare()
        self._simulate()
        return self.save(path)

    def sweep(self, images: int) -> dict:
        """Times of a sweep that is simulated and written."""
        memory = Peak(self.device)
        times = benchmark_sweep.run(self.folder, self.small, images, self.options, self.device)
        return {**times, "peak_mb": memory.mb}

    def _work(self, parity: bool = False) -> cases.Work:
        work = cases.work(self.case, self.folder, self.small, self.options, parity)
        return on_device(work, self.device)

    def _prepare(self) -> None:
        work = self.work
        # one of many images: what they share is kept
        self.simulator = Simulator(
            work.experiment, work.structure_factors, work.options, images=1000
        )

    def _simulate(self) -> None:
        with torch.no_grad():
            (self.image,) = self.simulator.image(self.work.exposure)
        finish(self.device)


def main() -> None:
    """Answer until there are no more questions; a `Sorry` is an answer too."""
    with os.fdopen(os.dup(1), "w") as replies:
        os.dup2(2, 1)  # whatever is printed is none
        bench = None
        for line in sys.stdin:
            asked, given = json.loads(line)
            try:
                with messages.clear():
                    if asked == "begin":
                        bench, answer = Bench(**given), {}
                    else:
                        answer = getattr(bench, asked)(**given)
            except Sorry as error:
                answer = {"sorry": str(error)}
            print(json.dumps(answer), file=replies, flush=True)


if __name__ == "__main__":
    main()
