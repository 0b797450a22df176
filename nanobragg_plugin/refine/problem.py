"""From parameters, an experiment and its reflections to all that a refinement needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from libtbx import Auto
from libtbx.utils import Sorry

from nanobragg_plugin import sampling
from nanobragg_plugin.adapters import fluence, load, sampling_phil, shoeboxes
from nanobragg_plugin.adapters import params as adapt
from nanobragg_plugin.adapters.params import Plan
from nanobragg_plugin.adapters.shoeboxes import Boxes
from nanobragg_plugin.constants import RTD
from nanobragg_plugin.models import Exposure
from nanobragg_plugin.refine import build, positions, sampled, schedule
from nanobragg_plugin.refine.build import Built
from nanobragg_plugin.refine.positions import Spots
from nanobragg_plugin.refine.schedule import Stage
from nanobragg_plugin.refine.target import Target

#: photons/m^2 where nothing says how many there are: the scale is of them.
FLUENCE = 1e24
#: Domains, where their number is not given: spots of less are lumps to who looks at their pixels.
DOMAINS = 200
#: Images that are simulated in a refinement, for each of the data, and steps for which it pays to
#: compile.
EVALUATIONS, COMPILE_STEPS = 20, 1_000_000_000


@dataclass(frozen=True)
class Problem:
    """experiment: dxtbx's, as it was given; fluence: what was assumed, or None."""

    experiment: Any
    plan: Plan
    built: Built
    boxes: Boxes
    target: Target
    stages: list[Stage]
    fluence: float | None
    spots: Spots | None
    notes: tuple[str, ...]


def problem(
    params: Any,
    experiment: Any,
    table: Any,
    name: str,
    progress: Callable[[], None] = lambda: None,
) -> Problem:
    """Of extracted parameters, a dxtbx experiment with its images, a DIALS reflection table, and
    the name of the experiment list; progress is called for every image that is read."""
    assumed = _assume(params, experiment)
    stages = schedule.stages_of(params.refine)
    chosen = load.select_images(experiment, params.sampling.image_range)
    before = load.images_before(experiment, chosen)
    lookup = load.lookup(experiment)
    scales = fluence.scales_of_images(params.beam, [experiment])[0]
    scales = fluence.scales_of_chosen(scales, experiment, chosen)
    plan = _fine(params, adapt.plan(params, chosen, lookup.mask, before, scales))
    exposure = plan.exposure
    if params.sampling.phisteps is Auto and params.sampling.phistep_deg is None:
        if plan.phi_sampling == "midpoint":
            exposure = _spread_out(plan)
    kinds = {kind for stage in stages for kind in stage.kinds}
    built = build.build(params, plan, kinds)
    boxes = shoeboxes.boxes_of(params.refine.shoeboxes, table, params.experiment, chosen)
    read = shoeboxes.reader(chosen, name)
    data, bad = build.data_of(plan, boxes, read, progress, exposure)
    options = plan.options
    if options.compile == "auto":
        a_pixel = sampling.steps_per_pixel(plan.experiment, options, plan.phisteps)
        steps = EVALUATIONS * data.n * a_pixel
        options = replace(options, compile="always" if steps > COMPILE_STEPS else "never")
    noise = build.noise_of(params.refine.noise)
    background = params.refine.shoeboxes.background or "none"
    target = Target(built.model, data, options, noise, background)
    notes = list(plan.notes) + list(boxes.notes)
    notes.append(f"Pixels: {data.n} in {len(data.pictures)} images; {bad} bad ones left out")
    if "mosaic" in kinds and not built.names["mosaic"]:
        notes.append(
            "There is no mosaic spread to refine: give it a start, crystal.mosaic.spread_deg"
        )
    _check(target, built, stages)
    spots = _spots(plan, built, boxes, table) if params.refine.positions else None
    of = experiment, plan, built, boxes, target, stages
    return Problem(*of, assumed, spots, tuple(notes))


def _spots(plan: Plan, built: Built, boxes: Boxes, table: Any) -> Spots | None:
    """The reflections of the boxes, where they were seen; None: none was."""
    *arrays, width = shoeboxes.seen(boxes, table, plan.dxtbx_experiment)
    hkl = arrays[0]
    if len(hkl) == 0:
        return None
    found = Spots(*(torch.from_numpy(one) for one in arrays), torch.ones(len(hkl)))
    spreads = [built.model.parameters[name].value for name in built.names["mosaic"]]
    return positions.with_sigma(found, plan.experiment, max(spreads, default=0.0) / RTD, width)


def _assume(params: Any, experiment: Any) -> float | None:
    """Fill in what simulating needs and a refinement finds or needs finer; the fluence."""
    # nothing of the simulated background is in a plan but nanoBragg.c's water: there is none
    params.__inject__("background", adapt.master_scope().extract().background)
    mosaic = params.crystal.mosaic
    given = mosaic.spread_deg or max(mosaic.spread_abc_deg or [0])
    if mosaic.domains is Auto and given:
        mosaic.domains = DOMAINS
    known = params.beam.fluence is not None or params.beam.flux is not None
    if known or experiment.beam.get_flux():
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


def _check(target: Target, built: Built, stages: list[Stage]) -> None:
    """`Sorry` for a stage without anything to refine, or with more of it than pixels."""
    for stage in stages:
        own = schedule.of_stage(target, built, stage)
        if not own.shared_names:
            raise Sorry(f"nothing is left to refine in the stage {stage}")
        if own.degrees_of_freedom() <= 0:
            count = own.data.n - own.degrees_of_freedom()
            raise Sorry(
                f"{own.data.n} pixels do not determine {count} numbers, those of the shoeboxes' "
                "backgrounds included: give more reflections, or refine.shoeboxes.border_px"
            )
