"""From parameters, an experiment and its reflections to all that a refinement needs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from libtbx import Auto
from libtbx.utils import Sorry

from nanobragg_plugin import sampling, structure_factors
from nanobragg_plugin.adapters import fluence, load, sampling_phil, shoeboxes
from nanobragg_plugin.adapters import params as adapt
from nanobragg_plugin.adapters.params import Plan
from nanobragg_plugin.adapters.shoeboxes import Boxes
from nanobragg_plugin.constants import RTD
from nanobragg_plugin.models import Exposure
from nanobragg_plugin.refine import build, positions, sampled, schedule
from nanobragg_plugin.refine.backgrounds import IN_ONE
from nanobragg_plugin.refine.build import Built
from nanobragg_plugin.refine.positions import Spots
from nanobragg_plugin.refine.target import BACKGROUNDS, Target

logger = logging.getLogger("dials.nanobragg_plugin.refine.problem")

#: photons/m^2 where nothing says how many there are: the scale is of them.
FLUENCE = 1e24
#: Domains, where their number is not given: spots of less are lumps to who looks at their pixels.
DOMAINS = 200
#: Images that are simulated in a refinement, for each of the data, and steps for which it pays to
#: compile.
EVALUATIONS, COMPILE_STEPS = 20, 1_000_000_000
#: Memory: of the process, and of each pixel while it is read; what is said at all. Bytes.
PROCESS, A_PIXEL, SAID = 500e6, 50, 100e6
#: Of each box's background with each parameter: the best's, a step's, and those of stages before.
A_MIXED = 4 * 8


@dataclass(frozen=True)
class Problem:
    """Of one experiment: dxtbx's, as it was given, and its number in the list."""

    experiment: Any
    plan: Plan
    built: Built
    boxes: Boxes
    target: Target
    spots: Spots | None
    notes: tuple[str, ...]
    number: int

    @property
    def first_index(self) -> int:
        """The array index of the first image that is refined against, 0 of a still."""
        scan = self.plan.dxtbx_experiment.scan
        return 0 if scan is None else scan.get_array_range()[0]

    @property
    def images_before(self) -> int:
        """Images of the scan before it."""
        scan = self.experiment.scan
        return 0 if scan is None else self.first_index - scan.get_array_range()[0]


def problem(
    params: Any,
    listed: list,
    number: int,
    table: Any,
    name: str,
    progress: Callable[[], None] = lambda: None,
    like: Plan | None = None,
) -> Problem:
    """Of extracted parameters (see `assume`), dxtbx's experiments with their images and the number
    of one of them, a DIALS reflection table, and the name of the experiment list; progress is
    called for every image that is read; like: see `params.plan`."""
    experiment = listed[number]
    stages = schedule.stages_of(params.refine)
    chosen = load.select_images(experiment, params.sampling.image_range)
    before = load.images_before(experiment, chosen)
    lookup = load.lookup(experiment)
    scales = fluence.scales_of_images(params.beam, listed)[number]
    scales = fluence.scales_of_chosen(scales, experiment, chosen)
    plan = _fine(params, adapt.plan(params, chosen, lookup.mask, before, scales, like))
    exposure = plan.exposure
    if params.sampling.phisteps is Auto and params.sampling.phistep_deg is None:
        if plan.phi_sampling == "midpoint":
            exposure = _spread_out(plan)
    kinds = {kind for stage in stages for kind in stage.kinds}
    built = build.build(params, plan, kinds)
    boxes = shoeboxes.boxes_of(params.refine.shoeboxes, table, number, chosen)
    read = shoeboxes.reader(chosen, name)
    background = params.refine.shoeboxes.background or "none"
    terms = 0 if background in IN_ONE else BACKGROUNDS[background]
    memory = memory_of(boxes, terms, _columns(built, kinds, plan.n_images))
    if memory > SAID:
        words = len(boxes.rows), plan.n_images, (PROCESS + memory) / 1e9
        logger.info("Reading %d shoeboxes in %d images: memory at most about %.1f GB", *words)
    data, note = build.data_of(plan, boxes, read, progress, exposure, background)
    options = plan.options
    if options.compile == "auto":
        a_pixel = sampling.steps_per_pixel(plan.experiment, options, plan.phisteps)
        steps = EVALUATIONS * data.n * a_pixel
        options = replace(options, compile="always" if steps > COMPILE_STEPS else "never")
    noise = build.noise_of(params.refine.noise)
    target = Target(built.model, data, options, noise, background)
    notes = [*plan.notes, *boxes.notes, *_unlit(plan, boxes, table)]
    notes.append(note)
    notes += build.groups_that_move(params, plan)
    if "mosaic" in kinds and not built.names["mosaic"]:
        notes.append(
            "There is no mosaic spread to refine: give it a start, crystal.mosaic.spread_deg"
        )
    spots = _spots(plan, built, boxes, table) if params.refine.positions else None
    return Problem(experiment, plan, built, boxes, target, spots, tuple(notes), number)


def memory_of(boxes: Boxes, terms: int, columns: int) -> float:
    """Bytes, at most, of boxes with backgrounds of as many terms and of as many parameters: boxes
    may overlap, and pixels be masked."""
    edges = boxes.limits[:, 1::2] - boxes.limits[:, ::2]
    mixed = A_MIXED * len(boxes.rows) * terms * columns
    return A_PIXEL * float(edges.astype(float).prod(axis=1).sum()) + mixed


def _columns(built: Built, kinds: set[str], images: int) -> int:
    """Parameters of these kinds, those of each image included."""
    own = sum(len(built.names.get(kind, ())) for kind in kinds)
    return own + images * len(kinds & set(build.OF_IMAGES))


def _unlit(plan: Plan, boxes: Boxes, table: Any) -> list[str]:
    """A note of reflections whose amplitudes are 0, as those are that no file has; `Sorry` where
    all are."""
    hkl = torch.from_numpy(shoeboxes.indices(boxes, table))
    dark = int((structure_factors.nearest(plan.structure_factors, *hkl.T) == 0).sum())
    if dark == len(hkl):
        raise Sorry(
            f"none of the {dark} reflections has an amplitude above 0: check that the amplitudes "
            "have the crystal's indexing and reach its resolution (structure_factors.default_F)"
        )
    if dark == 0:
        return []
    return [f"Reflections without an amplitude, or of 0: {dark}; their shoeboxes have only others'"]


def _spots(plan: Plan, built: Built, boxes: Boxes, table: Any) -> Spots | None:
    """The reflections of the boxes, where they were seen; None: none was."""
    *arrays, width = shoeboxes.seen(boxes, table, plan.dxtbx_experiment)
    hkl = arrays[0]
    if len(hkl) == 0:
        return None
    found = Spots(*(torch.from_numpy(one) for one in arrays), torch.ones(len(hkl)))
    spreads = [built.model.parameters[name].value for name in built.names["mosaic"]]
    return positions.with_sigma(found, plan.experiment, max(spreads, default=0.0) / RTD, width)


def assume(params: Any, experiments: list) -> float | None:
    """Fill in what simulating needs and a refinement finds or needs finer; the fluence, or None:
    it is known."""
    # nothing of the simulated background is in a plan but nanoBragg.c's water: there is none
    params.__inject__("background", adapt.master_scope().extract().background)
    mosaic = params.crystal.mosaic
    given = mosaic.spread_deg or max(mosaic.spread_abc_deg or [0])
    if mosaic.domains is Auto and given:
        mosaic.domains = DOMAINS
    known = params.beam.fluence is not None or params.beam.flux is not None
    if known or all(experiment.beam.get_flux() for experiment in experiments):
        return None
    params.beam.fluence = FLUENCE
    return FLUENCE


def _spread_out(plan: Plan) -> Callable[[int], Exposure]:
    return lambda index: sampled.spread_out(plan.exposure(index))


def _fine(params: Any, plan: Plan) -> Plan:
    """As finely sampled as refining needs, where that was left open."""
    if params.sampling.oversample is not Auto:
        return plan
    options = sampled.fine(plan.options, plan.experiment)
    notes = [note for note in plan.notes if not note.startswith("Sampling:")]
    note = sampling_phil.sampling_note(options, plan.phisteps, plan.experiment)
    return replace(plan, options=options, notes=(*notes, note))
