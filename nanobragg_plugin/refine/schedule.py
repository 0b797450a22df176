"""The stages of a refinement, one after another."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from libtbx import Auto
from libtbx.utils import Sorry

from nanobragg_plugin.refine import blurs, lbfgs, positions, sampled
from nanobragg_plugin.refine.build import ALONG_SCAN, OF_IMAGES, Built
from nanobragg_plugin.refine.joint import Joint
from nanobragg_plugin.refine.minimise import Found, minimise
from nanobragg_plugin.refine.positions import Spots
from nanobragg_plugin.refine.target import State, Target, scaled

#: Parameters that say how many photons there are.
SCALES = ("scale", "image_scales")
#: Parameters of one experiment, or of several together, up to which Levenberg's and Marquardt's way
#: is taken.
MOST_LM = 1500
#: What places of spots depend on.
GEOMETRY = (
    *("orientation", "cell", "detector_shift", "distance", "detector_tilt", "beam", "wavelength"),
    *("spindle", "setting"),
)
#: All that refine.parameters may name.
KINDS = (
    *("orientation", "cell", "domains", "mosaic", "scale", "detector_shift", "distance"),
    *("detector_tilt", "beam", "wavelength", "spindle", "b_factor", "image_scales"),
    *("amplitudes", "setting", "divergence", "image_b", "scan_orientation", "scan_cell"),
)
#: What cannot be free beside what is of the same, and finer.
COARSER = {
    "image_scales": "scale",
    "image_b": "b_factor",
    "scan_orientation": "orientation",
    "scan_cell": "cell",
}


logger = logging.getLogger("dials.nanobragg_plugin.refine.schedule")


@dataclass(frozen=True)
class Stage:
    """kinds: what is refined, in the words of refine.parameters; blur: by how much domains are
    smaller and spreads larger meanwhile; coarse: whether it is sampled coarsely."""

    kinds: tuple[str, ...]
    blur: float = 1.0
    coarse: bool = False

    def __str__(self) -> str:
        how = [f"blurred {self.blur:g} times"] if self.blur != 1 else []
        how += ["coarse"] if self.coarse else []
        words = ", ".join(self.kinds)
        return f"{words} ({', '.join(how)})" if how else words


def stages_of(params: Any) -> list[Stage]:
    """Of the scope refine, extracted."""
    chosen = tuple(params.parameters)
    if not chosen:
        raise Sorry("refine.parameters is empty: nothing is to be refined")
    given = [one for one in params.stage if one.parameters is not None or one.blur != 1]
    found = []
    for one in given:
        kinds = chosen if one.parameters is None else tuple(one.parameters)
        unknown = [kind for kind in kinds if kind not in KINDS]
        if unknown:
            raise Sorry(f"refine.stage.parameters={unknown[0]}: choose from {', '.join(KINDS)}")
        found.append(Stage(_one_scale(kinds), one.blur))
    if not found:
        scale = [kind for kind in chosen if kind in SCALES] or ["scale"]
        if params.blur is not Auto and params.blur > 1 and "orientation" in chosen:
            found = [Stage(_one_scale(("orientation", *scale)), params.blur)]
        if "amplitudes" in chosen:
            # everything else first, on the scale of the amplitudes given
            without = [kind for kind in chosen if kind != "amplitudes"]
            known = bool(set(without) & set(SCALES))
            found.append(Stage(_one_scale((*without, *(() if known else scale)))))
        found.append(Stage(_one_scale(chosen)))
    if params.scan_varying and not any(_along_scan(one) for one in found):
        more = tuple(ALONG_SCAN + kind for kind in params.scan_varying)
        if "amplitudes" in chosen and not given:  # again the others first
            found[-1] = Stage(_one_scale((*found[-2].kinds, *more)))
        found.append(Stage(_one_scale((*chosen, *more))))
    if not params.coarse:
        return found
    return [one for stage in found for one in (replace(stage, coarse=True), stage)]


def asked_of(params: Any) -> Asked:
    """Of the scope refine, extracted."""
    given = any(one.parameters is not None or one.blur != 1 for one in params.stage)
    blur = params.blur is Auto and not given
    return Asked(params.iterations, params.method or "auto", blur)


def _one_scale(kinds: tuple[str, ...]) -> tuple[str, ...]:
    """Without the one scale where each image has its own, and so on."""
    coarser = {COARSER.get(kind) for kind in kinds}
    return tuple(kind for kind in kinds if kind not in coarser)


def _along_scan(stage: Stage) -> list[str]:
    """Of a stage what varies along the scan."""
    return [kind for kind in stage.kinds if kind.startswith(ALONG_SCAN)]


@dataclass(frozen=True)
class Asked:
    """How the stages are gone through. iterations: the most of each; method: auto, lm or lbfgs;
    blur: whether blurred stages come first where the start needs them."""

    iterations: int = 50
    method: str = "auto"
    blur: bool = False


#: What a stage says of itself: 0 where it begins or the number of an iteration, its normal
#: equations (None at 0) and the damping.
Report = Callable[[Stage, int, Any, float], None]


@dataclass(frozen=True)
class Ran:
    """The last stage's target, what it found, and the losses of each stage; left: names of the
    parameters that it does not refine, and further ones would have."""

    target: Joint
    found: Found
    stages: tuple[tuple[Stage, tuple[float, ...]], ...]
    left: frozenset[str] = frozenset()


def run(
    target: Joint,
    built: Built,
    stages: list[Stage],
    asked: Asked,
    report: Report,
    spots: tuple[Spots, ...] | None = None,
) -> Ran:
    """All stages, until one is stopped. spots: of each experiment, of a stage by their places
    before all others, None: there is none.

    `Sorry` where the models have no photons in the shoeboxes.
    """
    state, ran = target.start(), []
    if spots is not None:
        state = by_places(built, stages, state, spots)
    if asked.blur:
        stages = [*_blurred_stages(target, built, stages, state), *stages]
    for number, stage in enumerate(stages):
        state = varying(target, built, state, stage)
        kept, state = state, blurs.blurred(built, state, stage.blur)
        if number == 0 or stage.blur != stages[number - 1].blur:
            far = blurs.scaled_or_totals if number else scaled
            # amplitudes that are far off make least squares' scale, by weights of counts, too small
            total = stage.blur > 1 or "amplitudes" in stage.kinds
            state = _with_scale(target, state, blurs.totals if total else far)
        own = of_stage(target, built, stage)
        found = _through(own, state, stage, asked, report)
        state = blurs.restored(built, found.state, kept, stage.blur)
        ran.append((stage, found.losses))
        if found.stopped:
            break
    left = {name for one in stages[len(ran) :] for name in _names(built, one)}
    return Ran(own, replace(found, state=state), tuple(ran), frozenset(left - set(own.free)))


def by_places(built: Built, stages: list[Stage], state: State, spots: tuple[Spots, ...]) -> State:
    """With the geometry that fits the places of spots."""
    kinds = {kind.removeprefix(ALONG_SCAN) for stage in stages for kind in stage.kinds}
    free = tuple(name for kind in GEOMETRY if kind in kinds for name in built.names[kind])
    if not free:
        return state
    off: list[float] = []
    inner = positions.refine(built.model, state.inner, free, spots, lambda _, rms: off.append(rms))
    if off:
        logger.info(
            "\nPlaces of spots: rms %.3g to %.3g sigma, in %d steps", off[0], off[-1], len(off)
        )
    return replace(state, inner=inner) if bool(torch.isfinite(inner).all()) else state


def _blurred_stages(target: Joint, built: Built, stages: list[Stage], state: State) -> list[Stage]:
    """Of orientation and scale, where that is refined and blurred models fit better than sharp
    ones: from as blurred as fits best, each half as much."""
    kinds = tuple(dict.fromkeys(kind for stage in stages for kind in stage.kinds))
    if "orientation" not in kinds:
        return []
    blur, found = blurs.chosen(target, built, state), []
    if blur == 1:
        logger.info("\nNo blurred stages: the start's photons are where the counts are")
    scale = tuple(kind for kind in kinds if kind in SCALES) or ("scale",)
    while blur > 1:
        found.append(Stage(("orientation", *scale), blur, stages[0].coarse))
        blur /= 2
    return found


def _through(own: Joint, state: State, stage: Stage, asked: Asked, report: Report) -> Found:
    """What a stage finds."""

    def reports(iteration: int, normal: Any, damping: float) -> None:
        report(stage, iteration, normal, damping)

    report(stage, 0, None, 0.0)
    of = own, state, asked.iterations, reports
    try:
        if chosen_method(asked.method, own) == "lbfgs":
            found = lbfgs.minimise(*of)
        else:
            found = minimise(*of, settles=stage.blur == 1)
    except ValueError as error:
        raise Sorry(f"the refinement cannot begin: {error}") from error
    if found.converged and len(found.losses) == 1:
        logger.info("  no step is needed: loss %.8g", found.normal.loss)
    return found


def chosen_method(method: str, target: Joint) -> str:
    """lm or lbfgs, whatever refine.method says."""
    if method != "auto":
        return method
    return "lm" if target.widest <= MOST_LM else "lbfgs"


def of_stage(target: Joint, built: Built, stage: Stage) -> Joint:
    """With the free parameters of a stage."""
    if stage.coarse:
        target = replace(target, targets=tuple(map(sampled.coarse, target.targets)))
    own = {kind: kind in stage.kinds for kind in OF_IMAGES}
    return replace(target, free=_names(built, stage), **own)


def _names(built: Built, stage: Stage) -> tuple[str, ...]:
    """Of a stage's parameters, but those of images."""
    kept = [kind for kind in stage.kinds if kind not in OF_IMAGES]
    if stage.blur > 1:
        kept = [kind for kind in kept if kind not in ("domains", "mosaic")]
    return tuple(name for kind in kept for name in built.names[kind])


def varying(target: Joint, built: Built, state: State, stage: Stage) -> State:
    """With what the stage has vary along the scan at no change of all images: the curves' numbers
    take it up."""
    names, start = target.model.parameters.names, target.model.parameters.start
    free = {name for kind in _along_scan(stage) for name in built.names[kind]}
    inner, taken = state.inner.clone(), {}
    for model, place in zip(target.model.each, target.model.places):
        at = dict(zip(model.parameters.names, place.tolist()))
        for name, number in at.items():
            if names[number] in free:
                taken[number] = at[name.partition("[")[0]]
    for number, same in taken.items():
        inner[number] += state.inner[same] - start[same]
    for same in taken.values():
        inner[same] = start[same]
    return replace(state, inner=inner)


def _with_scale(target: Joint, state: State, scale_of: Callable[[Target, State], float]) -> State:
    """With the scales that fit the counts."""
    inner = state.inner.clone()
    parts = zip(target.targets, target.states(state), target.model.places, target.numbers_of)
    for own, its_state, place, number in parts:
        factor = scale_of(own, its_state)
        if not math.isfinite(factor) or factor <= 0:
            of = f" of experiment {number}" if len(target.targets) > 1 else ""
            raise Sorry(
                f"the models{of} put no photons where the counts are: check that reflections, "
                "experiment list and amplitudes belong together, or raise refine.blur"
            )
        inner[place[own.model.parameters.names.index("scale")]] += math.log(factor)
    return replace(state, inner=inner)
