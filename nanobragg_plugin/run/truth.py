"""The true reflections of what is simulated, counted image by image."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from libtbx.utils import Sorry

from nanobragg_plugin.adapters import checks, truth_mtz, truth_table
from nanobragg_plugin.adapters.params import Plan
from nanobragg_plugin.adapters.truth_table import Seen
from nanobragg_plugin.by_reflection import ByReflection, Photons
from nanobragg_plugin.run.images import Images
from nanobragg_plugin.run.outputs import whole

logger = logging.getLogger("dials.nanobragg_plugin.run.truth")


class Counter:
    """Counts the photons of the images of one file, any of them in any order."""

    def __init__(self, images: Images) -> None:
        self.images = images
        self._kept: tuple[Plan, ...] | None = None
        self._counters: list[list[ByReflection]] = []

    def count(self, index: int) -> list[list[np.ndarray]]:
        """The columns of image `index`, from 0, as `Seen` has them, of each crystal."""
        plans, own = self.images.plans_of(index)
        if plans is not self._kept:
            self._kept = plans
            self._counters = [self._counters_of(plan) for plan in plans]
        weights = self.images.past_stop(index)
        result = []
        for plan, counters in zip(plans, self._counters):
            rows: list[list[np.ndarray]] = []
            for part, counter in zip(plan.parts, counters):
                fluence = float(part.experiment.beam.fluence) * plan.fluences[own]
                rows.append(_columns(counter.of(plan.exposure(own), fluence, weights), own))
            result.append([np.concatenate(column) for column in zip(*rows)])
        return result

    def _counters_of(self, plan: Plan) -> list[ByReflection]:
        try:
            counters = [
                ByReflection(part.experiment, part.structure_factors, plan.options, plan.n_images)
                for part in plan.parts
            ]
        except ValueError as error:
            raise Sorry(f"output.truth=True: {error}; leave it out") from error
        for part, counter in zip(
            plan.parts, counters
        ):  # by the first image, whichever is asked for
            fluence = float(part.experiment.beam.fluence) * plan.fluences[0]
            counter.simulator.choose(plan.exposure(0), fluence)
        return counters


class Truth:
    """The true reflections of one file: `take` what was counted in each image, in their order,
    then make `tables`."""

    def __init__(self, images: Images) -> None:
        self.images = images
        self._seen: dict[int, list[list[np.ndarray]]] = {}
        self._tables: list[Any] = []

    def take(self, index: int, counted: list[list[np.ndarray]]) -> None:
        """Image `index`, as `Counter.count` has it."""
        plans, _ = self.images.plans_of(index)
        for number, (plan, columns) in enumerate(zip(plans, counted)):
            if checks.is_rotation(plan.dxtbx_experiment.scan):
                self._seen.setdefault(number, []).append(columns)
            else:
                self._tables.append(truth_table.of_still(plan, Seen(*columns)))

    def tables(self) -> list[Any]:
        """Reflection tables, one for each experiment of the list that is written."""
        result = list(self._tables)
        for number, plan in enumerate(self.images.plans):
            if number not in self._seen:
                continue
            result.append(truth_table.of_rotation(plan, _seen(self._seen[number])))
            logger.info("True reflections: %d", len(result[-1]))
        return result


def _columns(found: Photons, image: int) -> list[np.ndarray]:
    columns = (found.hkl, found.panel, found.photons, found.fast, found.slow)
    scattered = found.hkl.any(1)  # what has F of 000 goes straight on
    hkl, panel, *rest = (column[scattered].cpu().numpy() for column in columns)
    return [hkl, np.full(len(panel), image), panel, *rest]


def _seen(rows: Sequence[list[np.ndarray]]) -> Seen:
    return Seen(*(np.concatenate(column) for column in zip(*rows)))


def write(paths: tuple[Path, Path], truths: Sequence[Truth], identifiers: Sequence[str]) -> None:
    """Write the .refl of all files' reflections, of experiments with these identifiers, and the
    .mtz of the first crystal's amplitudes."""
    tables = [table for truth in truths for table in truth.tables()]
    with whole(paths[0]) as temporary:
        truth_table.joined(tables, identifiers).as_file(str(temporary))
    with whole(paths[1]) as temporary:
        truth_mtz.write(str(temporary), truths[0].images.plans[0])
    logger.info("Wrote the true reflections to %s, the true amplitudes to %s", *paths)
