"""How well parameters are known, from the information that the pixels hold."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from nanobragg_plugin.refine.target import State, Target

#: Part of a combination's length that a parameter must have to be named with it.
SHARE = 0.2
#: Square Angstrom: by how much the B of an image might be wrong at all.
MOST_B = 100.0
#: Of the least uncertain combination's information: below this a combination has none but rounding.
ROUNDING = 1e-13


@dataclass(frozen=True)
class Undetermined:
    """A combination of parameters that the data do not determine: names and how much of each, of
    its length 1 (by the parameters' reach), the largest first; sigma: of it, of the reach;
    correlation: of the first two, were all known to their reach already, or None of one alone."""

    names: tuple[str, ...]
    shares: tuple[float, ...]
    sigma: float
    correlation: float | None = None

    def __str__(self) -> str:
        terms = [f"{share:+.2f} {name}" for name, share in zip(self.names, self.shares)]
        words = " ".join(terms)
        if self.correlation is None:
            return words
        return f"{words} (correlation of the first two {self.correlation:.4f})"


@dataclass(frozen=True)
class Sigmas:
    """Of the shared parameters: names; covariance [s, s] of inner ones; sigma [s] in the
    parameters' units, infinite where undetermined; correlation [s, s]; undetermined: combinations
    that are."""

    names: tuple[str, ...]
    covariance: Tensor
    sigma: Tensor
    correlation: Tensor
    undetermined: tuple[Undetermined, ...]


def sigmas(target: Target, state: State, information: Tensor) -> Sigmas:
    """Of the reduced information [s, s] at a state (`Normal.reduced`): its inverse.

    A combination of parameters whose sigma is more than their reach is undetermined; those that
    take part in one have no sigma.
    """
    names = target.shared_names
    parameters, numbers = target.model.parameters, target.numbers
    slopes = parameters.slopes(state.inner)[numbers]
    reach, slopes = [parameters.reach[numbers]], [slopes]
    for kind in target.kinds:
        reach.append(torch.full_like(state.b, math.log(10) if kind == "scale" else MOST_B))
        slopes.append(state.log_scale.exp() if kind == "scale" else torch.ones_like(state.b))
    reach, slopes = torch.cat(reach), torch.cat(slopes)
    values, vectors = torch.linalg.eigh(reach[:, None] * information * reach)
    known = values > max(1.0, ROUNDING * float(values.max()))
    inverse = torch.where(known, 1 / torch.where(known, values, torch.ones_like(values)), 0.0)
    covariance = reach[:, None] * ((vectors * inverse) @ vectors.T) * reach
    reaching = (vectors / (values.clamp(min=0) + 1)) @ vectors.T
    lost, found = torch.zeros(len(names), dtype=torch.bool), []
    for number in (~known).nonzero()[:, 0].tolist():
        vector = vectors[:, number]
        lost |= vector.abs() > SHARE
        order = [
            i for i in vector.abs().argsort(descending=True).tolist() if abs(vector[i]) > SHARE
        ]
        shares = tuple(float(vector[i]) for i in order)
        sigma = float(values[number].clamp(min=1e-300)) ** -0.5
        correlation = None
        if len(order) > 1:
            i, j = order[:2]
            correlation = float(reaching[i, j] / (reaching[i, i] * reaching[j, j]).sqrt())
        of = tuple(names[i] for i in order), shares, sigma, correlation
        found.append(Undetermined(*of))
    deviation = covariance.diagonal().clamp(min=0).sqrt()
    safe = torch.where(deviation > 0, deviation, torch.ones_like(deviation))
    sigma = torch.where(lost, torch.full_like(deviation, torch.inf), slopes * deviation)
    return Sigmas(names, covariance, sigma, covariance / (safe[:, None] * safe), tuple(found))
