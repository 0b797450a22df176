"""The amplitudes that are refined, of all experiments together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from libtbx.utils import Sorry

from nanobragg_plugin.adapters import refined_amplitudes
from nanobragg_plugin.adapters.refined_amplitudes import Chosen
from nanobragg_plugin.refine.amplitudes import Amplitudes, AmplitudesTarget, name_of
from nanobragg_plugin.refine.build import Built
from nanobragg_plugin.refine.parametrisations import Model
from nanobragg_plugin.refine.problem import Problem

#: Of the mean amplitude: what a restraint takes for the least.
LEAST = 0.1


def with_amplitudes(
    params: Any, problems: list[Problem], table: Any
) -> tuple[Chosen, list[Problem]]:
    """The amplitudes of the reflections in all shoeboxes, and the problems with those of their own
    as parameters; params: the scope refine.amplitudes, extracted."""
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
    indices = np.array(table["miller_index"]).reshape(-1, 3)
    every = np.concatenate([indices[one.boxes.rows] for one in problems])
    chosen = refined_amplitudes.choose(
        first.experiment.crystal,
        every,
        first.plan.structure_factors,
        params.anomalous,
        params.d_min,
    )
    return chosen, [_with(one, chosen, indices[one.boxes.rows]) for one in problems]


def _with(one: Problem, chosen: Chosen, indices: np.ndarray) -> Problem:
    """A problem whose model has the amplitudes of reflections [n, 3]."""
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
