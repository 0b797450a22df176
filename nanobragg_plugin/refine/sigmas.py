"""How well parameters are known, from the information that the pixels hold."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from nanobragg_plugin.refine.arrow import Arrow
from nanobragg_plugin.refine.covariance import Covariance, Lost, inverted, reaching
from nanobragg_plugin.refine.target import State, Target

#: Of what a combination has most of: so much of it a parameter must have to be named with it.
SHARE = 0.2
#: Terms of a combination that are printed.
MOST_TERMS = 12
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
        more = len(terms) - MOST_TERMS
        words = " ".join(terms[:MOST_TERMS]) + (f" and {more} more" if more > 0 else "")
        if self.correlation is None:
            return words
        return f"{words} (correlation of the first two {self.correlation:.4f})"


@dataclass(frozen=True)
class Sigmas:
    """Of the shared parameters: names; spread: the covariance of inner ones, in units of reach
    [s]; sigma [s] in the parameters' units, infinite where undetermined; undetermined: combinations
    that are."""

    names: tuple[str, ...]
    spread: Covariance
    reach: Tensor
    sigma: Tensor
    undetermined: tuple[Undetermined, ...]

    @property
    def covariance(self) -> Tensor:
        """[s, s], of inner ones."""
        return self.covariance_of(torch.arange(len(self.names)))

    def covariance_of(self, rows: Tensor) -> Tensor:
        """[n, n] of some of them."""
        return self.reach[rows, None] * self.spread.part(rows, rows) * self.reach[rows]


def sigmas(target: Target, state: State, information: Tensor | Arrow) -> Sigmas:
    """Of the reduced information at a state ([s, s], `Normal.reduced`, or `arrow`): its inverse.

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
    arrow = information if isinstance(information, Arrow) else Arrow.whole(information)
    arrow = arrow.scaled(reach)
    spread, combinations = inverted(arrow, ROUNDING)
    deviation = reach * spread.diagonal().clamp(min=0).sqrt()
    lost = torch.zeros(len(names), dtype=torch.bool)
    for one in combinations:
        lost |= _large(one.vector)
    sigma = torch.where(lost, torch.full_like(deviation, torch.inf), slopes * deviation)
    return Sigmas(names, spread, reach, sigma, _named(names, arrow, combinations))


def _large(vector: Tensor) -> Tensor:
    """[s]: which parameters have much of a combination; of one of very many none has much alone."""
    return vector.abs() > SHARE * vector.abs().max()


def _named(names: tuple[str, ...], arrow: Arrow, lost: list[Lost]) -> tuple[Undetermined, ...]:
    found, orders = [], []
    for one in lost:
        some = _large(one.vector).nonzero()[:, 0]
        order = one.vector[some].abs().argsort(descending=True)
        orders.append(some[order].tolist())
    pairs = [(order[0], order[1]) for order in orders if len(order) > 1]
    correlations = iter(reaching(arrow, pairs))
    for one, order in zip(lost, orders):
        of = tuple(names[i] for i in order), tuple(one.vector[order].tolist())
        correlation = next(correlations) if len(order) > 1 else None
        found.append(Undetermined(*of, max(one.information, 1e-300) ** -0.5, correlation))
    return tuple(found)
