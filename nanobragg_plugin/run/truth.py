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
from nanobragg_plugin.simulate import Choice

logger = logging.getLogger("dials.nanobragg_plugin.run.truth")


class Counter:
    """Counts the photons of the images of one file, any of them in any order."""

    def __init__(self, images: Images) -> None:
        self.images = images
        self._kept: tuple[Plan, ...] | None = None
        self._counters: list[list[ByReflection]] = []
        self._choices: dict[tuple[int, int], Choice] = {}

    def count(self, index: int) -> list[list[np.ndarray]]:
        """The columns of image `index`, from 0, as `Seen` has them, of each crystal."""
        plans, own = self.images.plans_of(index)
        if plans is not self._kept:
            self._kept = plans
            self._counters = [self._counters_of(*one) for one in enumerate(plans)]
        weights = self.images.past_stop(index)
        result = []
        for plan, counters in zip(plans, self._counters):
            rows: list[list[np.ndarray]] = []
            for part, counter in zip(plan.parts, counters):
                fluence = float(part.experiment.beam.fluence) * plan.fluences[own]
                rows.append(_columns(counter.of(plan.exposure(own), fluence, weights), own))
            result.append([np.concatenate(column) for column in zip(*rows)])
        return result

    def _counters_of(self, crystal: int, plan: Plan) -> list[ByReflection]:
        """One for each part of the plan of a crystal, by number; of stills, which have a plan each,
        with the kernel that suits the first, and is compiled if that pays for all of them."""
        counters = []
        try:
            for number, part in enumerate(plan.parts):
                of = part.experiment, part.structure_factors, plan.options
                counters.append(ByReflection(*of, plan.n_images))
                counters[-1].simulator.choice = self._choice(crystal, number)
        except ValueError as error:
            raise Sorry(f"output.truth=True: {error}; leave it out") from error
        return counters

    def _choice(self, crystal: int, number: int) -> Choice:
        """The kernel of a part of a crystal's plan, by the first image, whichever is asked for."""
        if (crystal, number) not in self._choices:
            plan = self.images.plans[crystal]
            part = plan.parts[number]
            of = part.experiment, part.structure_factors, plan.options
            simulator = ByReflection(*of, self.images.n_images).simulator
            fluence = float(part.experiment.beam.fluence) * plan.fluences[0]
            self._choices[crystal, number] = simulator.choose(plan.exposure(0), fluence)
        return self._choices[crystal, number]


class Truth:
    """The true reflections of one file: `take` what was counted in each image, in their order,
    then make `tables`."""

    def __init__(self, images: Images) -> None:
        self.images = images
        self._seen: dict[int, list[list[np.ndarray]]] = {}
        self._tables: list[list[Any]] = []

    def take(self, index: int, counted: list[list[np.ndarray]]) -> None:
        """Image `index`, as `Counter.count` has it."""
        plans, _ = self.images.plans_of(index)
        for number, (plan, columns) in enumerate(zip(plans, counted)):
            if checks.is_rotation(plan.dxtbx_experiment.scan):
                self._seen.setdefault(number, []).append(columns)
            else:
                if len(self._tables) <= number:
                    self._tables.append([])
                self._tables[number].append(truth_table.of_still(plan, Seen(*columns)))

    def tables(self) -> list[Any]:
        """Reflection tables, one for each experiment of the list that is written: by crystal, of
        stills then by image."""
        result = [table for tables in self._tables for table in tables]
        for number, plan in enumerate(self.images.plans):
            if number not in self._seen:
                continue
            result.append(truth_table.of_rotation(plan, _seen(self._seen[number])))
            logger.info("True reflections: %d", len(result[-1]))
        return result

    def imagesets(self) -> list[int]:
        """The number of each table's image set, from 0: crystals share theirs; an image that does
        not turn is one by itself."""
        if self._seen:
            return [0] * len(self._seen)
        return [image for tables in self._tables for image in range(len(tables))]


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
    tables, imagesets = [], []
    for truth in truths:
        first = 1 + max(imagesets, default=-1)
        imagesets += [first + number for number in truth.imagesets()]
        tables += truth.tables()
    with whole(paths[0]) as temporary:
        truth_table.joined(tables, identifiers, imagesets).as_file(str(temporary))
    with whole(paths[1]) as temporary:
        truth_mtz.write(str(temporary), truths[0].images.plans[0])
    logger.info("Wrote the true reflections to %s, the true amplitudes to %s", *paths)
