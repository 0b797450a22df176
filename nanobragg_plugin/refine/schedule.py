"""The stages of a refinement, one after another."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from libtbx.utils import Sorry
from torch import Tensor

from nanobragg_plugin.refine import lbfgs, positions, sampled
from nanobragg_plugin.refine.build import ALONG_SCAN, OF_IMAGES, Built
from nanobragg_plugin.refine.joint import Joint
from nanobragg_plugin.refine.minimise import Found, minimise
from nanobragg_plugin.refine.positions import Spots
from nanobragg_plugin.refine.target import Normal, State, scaled

#: Parameters that say how many photons there are.
SCALES = ("scale", "image_scales")
#: Parameters that all shoeboxes share up to which Levenberg's and Marquardt's way is taken.
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
        if params.blur > 1 and "orientation" in chosen:
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


def _one_scale(kinds: tuple[str, ...]) -> tuple[str, ...]:
    """Without the one scale where each image has its own, and so on."""
    coarser = {COARSER.get(kind) for kind in kinds}
    return tuple(kind for kind in kinds if kind not in coarser)


def _along_scan(stage: Stage) -> list[str]:
    """Of a stage what varies along the scan."""
    return [kind for kind in stage.kinds if kind.startswith(ALONG_SCAN)]


def run(
    target: Joint,
    built: Built,
    stages: list[Stage],
    iterations: int,
    report: Callable[[Stage, int, Normal | None, float], None],
    spots: tuple[Spots, ...] | None = None,
    method: str = "auto",
) -> tuple[Joint, Found, list[Found]]:
    """All stages: the last one's target and what it found, and what each found. spots: of each
    experiment, of a stage by their places before all others, None: there is none. report is called
    with a stage, 0 where it begins or the number of an iteration, its normal equations (None at 0)
    and the damping.

    `Sorry` where the models have no photons in the shoeboxes.
    """
    state, found = target.start(), []
    if spots is not None:
        kinds = {kind.removeprefix(ALONG_SCAN) for stage in stages for kind in stage.kinds}
        free = [name for kind in GEOMETRY if kind in kinds for name in built.names[kind]]
        inner = (
            positions.refine(built.model, state.inner, tuple(free), spots) if free else state.inner
        )
        state = replace(state, inner=inner)
    for number, stage in enumerate(stages):
        state = varying(target, built, state, stage)
        kept, state = state, blurred(built, state, stage.blur)
        if number == 0:
            state = _with_scale(target, state)
        own = of_stage(target, built, stage)
        report(stage, 0, None, 0.0)

        def reports(iteration: int, normal: Normal, damping: float, of: Stage = stage) -> None:
            report(of, iteration, normal, damping)

        try:
            search = lbfgs.minimise if chosen_method(method, own) == "lbfgs" else minimise
            found.append(search(own, state, iterations, reports))
        except ValueError as error:
            raise Sorry(f"the refinement cannot begin: {error}") from error
        state = restored(built, found[-1].state, kept, stage.blur)
    return own, found[-1], found


def chosen_method(method: str, target: Joint) -> str:
    """lm or lbfgs, whatever refine.method says."""
    if method != "auto":
        return method
    return "lm" if len(target.shared_names) <= MOST_LM else "lbfgs"


def of_stage(target: Joint, built: Built, stage: Stage) -> Joint:
    """With the free parameters of a stage."""
    kept = [kind for kind in stage.kinds if kind not in OF_IMAGES]
    if stage.blur > 1:
        kept = [kind for kind in kept if kind not in ("domains", "mosaic")]
    free = tuple(name for kind in kept for name in built.names[kind])
    if stage.coarse:
        target = replace(target, targets=tuple(map(sampled.coarse, target.targets)))
    own = {kind: kind in stage.kinds for kind in OF_IMAGES}
    return replace(target, free=free, **own)


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


def _changed(built: Built, state: State, kind: str, inner: Callable[[Tensor], Tensor]) -> State:
    names = built.model.parameters.names
    numbers = [names.index(name) for name in built.names.get(kind, ())]
    whole = state.inner.clone()
    whole[numbers] = inner(whole[numbers])
    return replace(state, inner=whole)


def blurred(built: Built, state: State, blur: float) -> State:
    """With smaller domains and larger spreads (their logarithms are inner parameters)."""
    if blur == 1:
        return state
    state = _changed(built, state, "domains", lambda inner: (inner - math.log(blur)).clamp(min=0.0))
    return _changed(built, state, "mosaic", lambda inner: inner + math.log(blur))


def restored(built: Built, state: State, before: State, blur: float) -> State:
    """With the domains and spreads of before."""
    if blur == 1:
        return state
    names, inner = built.model.parameters.names, state.inner.clone()
    numbers = [names.index(n) for kind in ("domains", "mosaic") for n in built.names[kind]]
    inner[numbers] = before.inner[numbers]
    return replace(state, inner=inner)


def _with_scale(target: Joint, state: State) -> State:
    """With the scales that fit the counts."""
    inner = state.inner.clone()
    parts = zip(target.targets, target.states(state), target.model.places, target.numbers_of)
    for own, its_state, place, number in parts:
        factor = scaled(own, its_state)
        if not math.isfinite(factor) or factor <= 0:
            of = f" of experiment {number}" if len(target.targets) > 1 else ""
            raise Sorry(
                f"the models{of} put no photons where the counts are: check that reflections, "
                "experiment list and amplitudes belong together, or raise refine.blur"
            )
        inner[place[own.model.parameters.names.index("scale")]] += math.log(factor)
    return replace(state, inner=inner)
