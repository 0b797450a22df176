"""From parameters, experiments and their reflections to one refinement of all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from libtbx.utils import Sorry

from nanobragg_plugin.adapters.refined_amplitudes import Chosen
from nanobragg_plugin.adapters.shared_models import same_model
from nanobragg_plugin.refine import build, schedule
from nanobragg_plugin.refine.amplitude_choice import Seen, restraints, seen_by, with_amplitudes
from nanobragg_plugin.refine.amplitude_choice import check as check_amplitudes
from nanobragg_plugin.refine.build import Built
from nanobragg_plugin.refine.joint import Joint
from nanobragg_plugin.refine.joint_model import JointModel, joined
from nanobragg_plugin.refine.positions import Spots
from nanobragg_plugin.refine.problem import Problem, assume, problem
from nanobragg_plugin.refine.schedule import Stage

#: Which of an experiment's models the parameters belong to, by what refine.parameters calls them;
#: the others are the experiment's own.
OWNERS = {
    **dict.fromkeys(("orientation", "cell", "domains", "mosaic", "b_factor"), "crystal"),
    **dict.fromkeys(("detector_shift", "distance", "detector_tilt"), "detector"),
    **dict.fromkeys(("beam", "wavelength", "divergence"), "beam"),
    **dict.fromkeys(("spindle", "setting"), "goniometer"),
}


@dataclass(frozen=True)
class Whole:
    """All that a refinement needs: the experiments' problems; target, built (names of all its
    parameters), stages; fluence: what was assumed, or None; spots of each experiment, or None;
    amplitudes: those that are parameters; divergence: beam.hdivrange_mrad and .vdivrange_mrad at
    the start."""

    problems: tuple[Problem, ...]
    target: Joint
    built: Built
    stages: list[Stage]
    fluence: float | None
    spots: tuple[Spots, ...] | None
    amplitudes: Chosen | None
    divergence: tuple[float, float]


def whole(
    params: Any, listed: Sequence[Any], table: Any, name: str, progress: Callable[[], None]
) -> Whole:
    """Of extracted parameters, dxtbx's experiments, a DIALS reflection table and the name of the
    experiment list; progress is called for every image that is read."""
    numbers = numbers_of(params.experiment, len(listed))
    fluence = assume(params, [listed[number] for number in numbers])
    problems: list[Problem] = []
    for number in numbers:
        like = _like(problems, listed[number])
        plan = None if like is None else like.plan
        try:
            problems.append(problem(params, listed, number, table, name, progress, plan))
        except Sorry as error:
            if len(numbers) == 1:
                raise
            raise Sorry(f"experiment {number}: {error}") from error
    chosen = None
    if any("amplitudes" in one.built.names for one in problems):
        check_amplitudes(problems)
        seen = _seen(params.refine, problems, table)
        chosen, problems = with_amplitudes(params.refine.amplitudes, problems, seen)
    model = _joined(problems)
    known = {one.name: one for one in model.parameters.all}
    changes = build.changes_of(params.refine, known)
    if chosen is not None:
        changes = {**restraints(params.refine.amplitudes, chosen), **changes}
    model = model.changed(changes)
    names = _names(problems, model)
    target = Joint(
        model,
        tuple(one.target for one in problems),
        tuple(numbers),
        held=(names["scale"], names.get("b_factor", ())),
        amplitudes=frozenset(names.get("amplitudes", ())),
    )
    built = Built(model, names)
    stages = schedule.stages_of(params.refine)
    check(target, built, stages)
    spots = tuple(one.spots for one in problems) if params.refine.positions else None
    ranges = params.beam.hdivrange_mrad, params.beam.vdivrange_mrad
    of = tuple(problems), target, built, stages, fluence, spots
    return Whole(*of, chosen, ranges)


def _joined(problems: list[Problem]) -> JointModel:
    owners = [_owners(one, own) for one, own in zip(problems, _models(problems))]
    return joined([one.built.model for one in problems], owners, [one.number for one in problems])


def _seen(params: Any, problems: list[Problem], table: Any) -> list[Seen]:
    """What the shoeboxes have, where the fit to places has put the models; params: the scope
    refine, extracted."""
    if not params.amplitudes.neighbours:
        return [seen_by(one, None, table) for one in problems]
    model = _joined(problems)
    target = Joint(model, tuple(one.target for one in problems), tuple(p.number for p in problems))
    state = target.start()
    if params.positions:
        built = Built(model, _names(problems, model))
        spots = tuple(one.spots for one in problems)
        state = schedule.by_places(built, schedule.stages_of(params), state, spots)
    return [seen_by(one, own, table) for one, own in zip(problems, target.states(state))]


def numbers_of(chosen: Sequence[int] | None, count: int) -> list[int]:
    """Which experiments, of as many, are refined."""
    if chosen is None:
        return list(range(count))
    for number in chosen:
        if number >= count:
            raise Sorry(f"experiment={number}: the list holds {count}, counted from 0")
    if len(set(chosen)) < len(chosen):
        raise Sorry(f"experiment={','.join(map(str, chosen))} names one twice")
    return sorted(chosen)


def _like(problems: list[Problem], experiment: Any) -> Problem | None:
    """One that has the same panels and amplitudes, which are made once."""
    for one in problems:
        same = same_model(one.experiment, experiment, "detector")
        masked = any(panel.mask is not None for panel in one.plan.experiment.panels)
        theirs, ours = one.experiment.crystal, experiment.crystal
        if (
            same
            and not masked
            and theirs.get_space_group() == ours.get_space_group()
            and theirs.get_unit_cell().is_similar_to(ours.get_unit_cell(), 0.05, 2.0)
        ):
            return one
    return None


def _models(problems: Sequence[Problem]) -> list[dict[str, int]]:
    """Of each experiment and each kind of model the first experiment that has the same."""
    found = []
    for one in problems:
        first = {}
        for name in (*dict.fromkeys(OWNERS.values()), "scan"):
            same = (
                other.number
                for other in problems
                if same_model(other.experiment, one.experiment, name)
            )
            first[name] = next(same, one.number)
        found.append(first)
    return found


def _owners(one: Problem, first: dict[str, int]) -> dict[str, object]:
    """Of each parameter of an experiment what it belongs to."""
    found: dict[str, object] = {}
    for kind, names in one.built.names.items():
        owner = OWNERS.get(kind, "experiment")
        if kind == "amplitudes":
            owner = kind
        if kind.startswith(build.ALONG_SCAN):  # of a crystal as it was in a scan
            found.update(dict.fromkeys(names, (kind, (first["crystal"], first["scan"]))))
            continue
        for name in names:
            found[name] = owner, -1 if owner == "amplitudes" else first.get(owner, one.number)
    return found


def _names(problems: Sequence[Problem], model: JointModel) -> dict[str, tuple[str, ...]]:
    """Names of all parameters by what refine.parameters calls them."""
    found: dict[str, dict[str, None]] = {}
    for one, place in zip(problems, model.places):
        own = one.built.model.parameters.names
        at = {name: model.parameters.names[i] for name, i in zip(own, place.tolist())}
        for kind, names in one.built.names.items():
            found.setdefault(kind, {}).update(dict.fromkeys(at[name] for name in names))
    return {kind: tuple(names) for kind, names in found.items()}


def check(target: Joint, built: Built, stages: list[Stage]) -> None:
    """`Sorry` for a stage without anything to refine, or with more of it than pixels."""
    for stage in stages:
        own = schedule.of_stage(target, built, stage)
        if not own.shared_names:
            raise Sorry(f"nothing is left to refine in the stage {stage}")
        if own.degrees_of_freedom() <= 0:
            count = own.n - own.degrees_of_freedom()
            raise Sorry(
                f"{own.n} pixels do not determine {count} numbers, those of the shoeboxes' "
                "backgrounds included: give more reflections, or refine.shoeboxes.border_px"
            )
