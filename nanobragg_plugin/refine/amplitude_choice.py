"""The amplitudes that are refined, of all experiments together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from libtbx.utils import Sorry

from nanobragg_plugin.adapters import refined_amplitudes
from nanobragg_plugin.adapters.refined_amplitudes import Chosen
from nanobragg_plugin.refine.amplitudes import Amplitudes, AmplitudesTarget, name_of
from nanobragg_plugin.refine.build import Built
from nanobragg_plugin.refine.neighbours import Lit, lit_by
from nanobragg_plugin.refine.parametrisations import Model
from nanobragg_plugin.refine.problem import Problem
from nanobragg_plugin.refine.sampled import coarse
from nanobragg_plugin.refine.target import State

#: Of the mean amplitude: what a restraint takes for the least.
LEAST = 0.1
#: By how much chi^2 would be larger without a reflection's photons, of the start, from which on its
#: F is refined though no table lists it (measured: Ncells_abc of spots that overlap were up to 4
#: sigma off with 1, 2 with 0.1); and from which on an experiment is one that sees a refined F.
NOTICED, LIGHT = 0.1, 1e-3


@dataclass(frozen=True)
class Seen:
    """Of one experiment: listed [n, 3], indices of its shoeboxes; lit: what lights their pixels,
    or None: that does not matter."""

    listed: np.ndarray
    lit: Lit | None = None


def with_amplitudes(
    params: Any, problems: list[Problem], seen: list[Seen]
) -> tuple[Chosen, list[Problem]]:
    """The amplitudes of the reflections in all shoeboxes, and of those that light their pixels, and
    the problems with those of their own as parameters; params: the scope refine.amplitudes,
    extracted."""
    first = problems[0]

    def choose(indices: np.ndarray) -> Chosen:
        crystal, factors = first.experiment.crystal, first.plan.structure_factors
        of = crystal, indices, factors, params.anomalous, params.d_min
        return refined_amplitudes.choose(*of)

    listed = chosen = choose(np.concatenate([one.listed for one in seen]))
    if params.neighbours:
        others = [one.lit.hkl.numpy() for one in seen]
        every = choose(np.concatenate([listed.hkl.numpy(), *others]))
        chi_sqr = np.zeros(len(every.hkl))
        for one, indices in zip(seen, others):
            which = every.of(indices)
            np.add.at(chi_sqr, which[which >= 0], one.lit.chi_sqr.numpy()[which >= 0])
        chi_sqr[every.of(listed.hkl.numpy())] = np.inf
        chosen = choose(every.hkl.numpy()[chi_sqr > NOTICED])
    note = f"Amplitudes: {len(listed.hkl)} of the reflections listed, and "
    note += f"{len(chosen.hkl) - len(listed.hkl)} of others that have photons in their shoeboxes"
    problems = [_with(one, chosen, own) for one, own in zip(problems, seen)]
    return chosen, [replace(problems[0], notes=(*problems[0].notes, note)), *problems[1:]]


def check(problems: list[Problem]) -> None:
    """`Sorry` where crystals have no amplitudes in common, or these cannot be refined."""
    first = problems[0]
    group = first.experiment.crystal.get_space_group()
    for one in problems:
        if one.experiment.crystal.get_space_group() != group:
            raise Sorry(
                f"refine.parameters amplitudes: the crystals of experiments {first.number} and "
                f"{one.number} have different space groups; reindex them, or choose (experiment=)"
            )
        if one.target.options.interpolate:
            raise Sorry("refine.parameters amplitudes: they are not interpolated while refined")


def seen_by(one: Problem, state: State | None, table: Any) -> Seen:
    """What an experiment's shoeboxes have, of a table of reflections, at a state (None: no matter
    what lights them)."""
    listed = np.array(table["miller_index"]).reshape(-1, 3)[one.boxes.rows]
    if state is None:
        return Seen(listed)
    try:
        return Seen(listed, lit_by(coarse(one.target), state))
    except ValueError as error:  # of default_F, whose indices are too many
        raise Sorry(f"refine.amplitudes.neighbours: {error}; give False") from error


def _with(one: Problem, chosen: Chosen, seen: Seen) -> Problem:
    """A problem whose model has the amplitudes of what is seen of it."""
    indices = seen.listed
    if seen.lit is not None:
        light = seen.lit.chi_sqr > LIGHT
        indices = np.concatenate([indices, seen.lit.hkl[light].numpy()])
    mine = np.unique(chosen.of(indices))
    mine = torch.from_numpy(mine[mine >= 0])
    back = torch.full((len(chosen.hkl),), -1, dtype=torch.int64)
    back[mine] = torch.arange(len(mine))
    which = chosen.which
    which = torch.where(which >= 0, back[which.clamp(min=0)], which)
    part = Amplitudes(chosen.hkl[mine], chosen.start[mine], which)
    old = one.built.model
    model = Model((old.start[0], chosen.factors), [part, *old.parts])
    names = {**one.built.names, "amplitudes": tuple(p.name for p in part.parameters)}
    target = one.target
    of = model, target.data, target.options, target.noise, target.background
    return replace(one, built=Built(model, names), target=AmplitudesTarget(*of, amplitudes=part))


def restraints(params: Any, chosen: Chosen) -> dict[str, dict]:
    """What holds amplitudes to their start, by names of parameters."""
    if params.sigma is None:
        return {}
    if not params.sigma > 0:
        raise Sorry("refine.amplitudes.sigma must be above 0; None: there is no restraint")
    least = LEAST * float(chosen.start.mean())
    pairs = zip(chosen.hkl.tolist(), chosen.start.tolist())
    return {
        name_of(hkl): {"prior": (value, params.sigma * max(value, least, 1e-6))}
        for hkl, value in pairs
    }
