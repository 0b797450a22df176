"""Models of several experiments: what they share is one parameter, what is their own many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nanobragg_plugin.refine.parameters import Parameters
from nanobragg_plugin.refine.parametrisations import Model, Models


@dataclass(frozen=True)
class JointModel:
    """each: the experiments' models; places: of each one's parameters, where they are among all
    `parameters`."""

    each: tuple[Model, ...]
    places: tuple[Tensor, ...]
    parameters: Parameters

    def models(self, values: Tensor) -> list[Models]:
        """Of each experiment, with values [p] of all parameters."""
        return [model.models(values[place]) for model, place in zip(self.each, self.places)]

    def changed(self, changes: dict[str, dict]) -> JointModel:
        """With other priors and bounds of some parameters, by name."""
        made = [replace(one, **changes.get(one.name, {})) for one in self.parameters.all]
        return replace(self, parameters=Parameters(made))


def joined(
    models: Sequence[Model], owners: Sequence[dict[str, object]], numbers: Sequence[int]
) -> JointModel:
    """owners: of each model's parameters, by name, what they belong to: those of a name and an
    owner are one. A name that is of several gets .N, the number of the first experiment it is of.
    """
    known: dict[tuple[str, object], int] = {}
    places, all_of, first = [], [], []
    for model, owner, number in zip(models, owners, numbers):
        mine = []
        for one in model.parameters.all:
            key = one.name, owner[one.name]
            if key not in known:
                known[key] = len(all_of)
                all_of.append(one)
                first.append(number)
            mine.append(known[key])
        places.append(torch.tensor(mine, dtype=torch.int64))
    count = Counter(one.name for one in all_of)
    named = [
        one if count[one.name] == 1 else replace(one, name=f"{one.name}.{number}")
        for one, number in zip(all_of, first)
    ]
    return JointModel(tuple(models), tuple(places), Parameters(named))
