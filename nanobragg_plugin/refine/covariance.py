"""The covariance of the parameters of many experiments, of which parts are asked for: as a whole it
would have a number for each pair of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nanobragg_plugin.refine.arrow import Arrow, inverse_of

#: Rows that are made at once, where all are looked at.
ROWS = 512


@dataclass(frozen=True)
class Covariance:
    """ways [s, c] and of_ways [c]: their products with themselves, ways of_ways ways^T, are what
    all have together; each experiment's block has own [k] rows and square [k, k] besides."""

    ways: Tensor
    of_ways: Tensor
    own: tuple[Tensor, ...]
    squares: tuple[Tensor, ...]

    def __len__(self) -> int:
        return len(self.ways)

    def part(self, rows: Tensor, columns: Tensor) -> Tensor:
        """[n, m]."""
        found = (self.ways[rows] * self.of_ways) @ self.ways[columns].T
        of, at = self._blocks()
        theirs = of[columns]
        for number in of[rows].unique().tolist():
            if number >= 0:
                here, there = ((x == number).nonzero()[:, 0] for x in (of[rows], theirs))
                more = self.squares[number][at[rows[here]][:, None], at[columns[there]]]
                found[here[:, None], there] += more
        return found

    def diagonal(self) -> Tensor:
        """[s]."""
        found = (self.ways.square() * self.of_ways).sum(1)
        for own, square in zip(self.own, self.squares):
            found[own] += square.diagonal()
        return found

    def whole(self) -> Tensor:
        """[s, s]."""
        every = torch.arange(len(self))
        return self.part(every, every)

    def pairs(self, least: float) -> list[tuple[int, int, float]]:
        """Of all pairs whose correlation is at least so large, either way: i < j, and it."""
        size, found = self.diagonal().clamp(min=0).sqrt(), []
        size = torch.where(size > 0, size, torch.ones_like(size))
        every = torch.arange(len(self))
        for rows in every.split(ROWS):
            some = self.part(rows, every) / (size[rows, None] * size)
            some = torch.where(rows[:, None] < every, some, 0.0)
            places = (some.abs() >= least).nonzero()
            values = some[places[:, 0], places[:, 1]].tolist()
            found += [(int(rows[0]) + i, j, x) for (i, j), x in zip(places.tolist(), values)]
        return found

    def _blocks(self) -> tuple[Tensor, Tensor]:
        """Of each row the number of its block, or -1, and its place there."""
        of = torch.full((len(self),), -1, dtype=torch.int64)
        at = torch.zeros_like(of)
        for number, own in enumerate(self.own):
            of[own], at[own] = number, torch.arange(len(own))
        return of, at


@dataclass(frozen=True)
class Lost:
    """A combination [s] that has less information than `least`, so much of it."""

    vector: Tensor
    information: float


def inverted(arrow: Arrow, rounding: float) -> tuple[Covariance, list[Lost]]:
    """Of information in units in which 1 is as little as none, its inverse without combinations of
    less than 1 (or than `rounding` of the largest), and these.

    A combination of what an experiment has alone is lost if it were so with all else known; one of
    what several have if it, or a parameter of one experiment that follows it, is.
    """
    ways = arrow.square.new_zeros(arrow.size, len(arrow.common))
    ways[arrow.common] = torch.eye(len(arrow.common), dtype=ways.dtype)
    square, squares, lost = arrow.square.clone(), [], []
    for one in arrow.blocks:
        values, vectors = torch.linalg.eigh(one.square)
        known = values > max(1.0, rounding * float(values[-1]))
        for number in (~known).nonzero()[:, 0].tolist():
            vector = ways.new_zeros(arrow.size)
            vector[one.own] = vectors[:, number]
            lost.append(Lost(vector, float(values[number])))
        inverse = (vectors * inverse_of(values, known)) @ vectors.T
        across = inverse @ one.mixed
        index = one.common[:, None], one.common
        square.index_put_(index, -(one.mixed.T @ across), accumulate=True)
        ways[one.own[:, None], one.common] = -across
        squares.append(inverse)
    own = tuple(one.own for one in arrow.blocks)
    if not len(square):
        return Covariance(ways, square.new_zeros(0), own, tuple(squares)), lost
    values, vectors = torch.linalg.eigh((square + square.T) / 2 if own else square)
    ways = ways @ vectors
    # what follows from a combination of length 1 may be wrong by more than that
    longest = ways.abs().amax(0).clamp(min=1.0).square()
    most = float(values[-1].clamp(min=float(arrow.square.diagonal().max())))
    known = (values > rounding * most) & (values / longest > 1)
    of_lost = [
        Lost(ways[:, number] / torch.linalg.vector_norm(ways[:, number]), information)
        for number, information in enumerate((values / longest).tolist())
        if not known[number]
    ]
    return Covariance(ways, inverse_of(values, known), own, tuple(squares)), [*of_lost, *lost]


def reaching(arrow: Arrow, pairs: Sequence[tuple[int, int]]) -> list[float]:
    """Correlations of pairs of rows, were all known to 1 already."""
    if not pairs:
        return []
    inverse, _ = inverted(arrow.plus(1.0), 0.0)
    found = []
    for pair in pairs:
        both = torch.tensor(pair)
        part = inverse.part(both, both)
        found.append(float(part[0, 1] / (part[0, 0] * part[1, 1]).sqrt()))
    return found
