"""Symmetric matrices in an arrow's shape: of many experiments together most parameters are of one
alone, which gives a block on the diagonal each, and few are of several.

They are solved and inverted by Schur's complement, whose cost grows with the number of blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

#: Of the largest information: below this a step has no length along what has it.
LEAST = 1e-13


@dataclass(frozen=True)
class Block:
    """own [k]: rows that no other block has; common [m]: which of the common rows it touches;
    square [k, k]; mixed [k, m]."""

    own: Tensor
    common: Tensor
    square: Tensor
    mixed: Tensor


@dataclass(frozen=True)
class Arrow:
    """size: rows of all; common [c]: those that are of no block; square [c, c] of them."""

    size: int
    common: Tensor
    square: Tensor
    blocks: tuple[Block, ...] = ()

    @classmethod
    def whole(cls, square: Tensor) -> Arrow:
        """Of a matrix [s, s] without blocks."""
        return cls(len(square), torch.arange(len(square)), square)

    @classmethod
    def of(
        cls, parts: Sequence[tuple[Tensor, Tensor]], diagonal: Tensor, rows: Sequence[Tensor] = ()
    ) -> Arrow:
        """The sum of a diagonal [s], small matrices [n, n], each with its places [n] among all, and
        products of rows [s] with themselves. What one of several matrices alone has, and no row, is
        its own."""
        count = torch.zeros(len(diagonal), dtype=torch.int64)
        for _, place in parts:
            count[place] += 1
        for row in rows:
            count[row != 0] += 2
        alone = (count == 1) & (len(parts) > 1)
        common = (~alone).nonzero()[:, 0]
        at = torch.full((len(diagonal),), -1, dtype=torch.int64)
        at[common] = torch.arange(len(common))
        square, blocks = torch.diag(diagonal[common]), []
        for row in rows:
            square += row[common, None] * row[common]
        for part, place in parts:
            own, others = (one.nonzero()[:, 0] for one in (alone[place], ~alone[place]))
            touched = at[place[others]]
            index = touched[:, None], touched
            square.index_put_(index, part[others[:, None], others], accumulate=True)
            if len(own):
                inner = part[own[:, None], own] + torch.diag(diagonal[place[own]])
                mixed = part[own[:, None], others]
                blocks.append(Block(place[own], touched, inner, mixed))
        return cls(len(diagonal), common, square, tuple(blocks))

    def finite(self) -> bool:
        """Whether all of it are numbers."""
        parts = [self.square, *(x for one in self.blocks for x in (one.square, one.mixed))]
        return all(bool(torch.isfinite(one).all()) for one in parts)

    def dense(self) -> Tensor:
        """[s, s]."""
        whole = self.square.new_zeros(self.size, self.size)
        whole[self.common[:, None], self.common] = self.square
        for one in self.blocks:
            whole[one.own[:, None], one.own] = one.square
            others = self.common[one.common]
            whole[one.own[:, None], others] = one.mixed
            whole[others[:, None], one.own] = one.mixed.T
        return whole

    def diagonal(self) -> Tensor:
        """[s]."""
        found = self.square.new_zeros(self.size)
        found[self.common] = self.square.diagonal()
        for one in self.blocks:
            found[one.own] = one.square.diagonal()
        return found

    def plus(self, number: float) -> Arrow:
        """With a number more on the diagonal."""

        def more(square: Tensor) -> Tensor:
            return square + number * torch.eye(len(square), dtype=square.dtype)

        blocks = tuple(replace(one, square=more(one.square)) for one in self.blocks)
        return replace(self, square=more(self.square), blocks=blocks)

    def scaled(self, factors: Tensor) -> Arrow:
        """Rows and columns times factors [s]."""
        common, blocks = factors[self.common], []
        for one in self.blocks:
            own, others = factors[one.own], common[one.common]
            square = own[:, None] * one.square * own
            blocks.append(replace(one, square=square, mixed=own[:, None] * one.mixed * others))
        square = common[:, None] * self.square * common
        return replace(self, square=square, blocks=tuple(blocks))

    def times(self, vector: Tensor) -> Tensor:
        """The product with a vector [s]."""
        found, others = torch.zeros_like(vector), vector[self.common]
        along = self.square @ others
        for one in self.blocks:
            found[one.own] = one.square @ vector[one.own] + one.mixed @ others[one.common]
            along.index_add_(0, one.common, one.mixed.T @ vector[one.own])
        found[self.common] = along
        return found

    def solved(self, vector: Tensor) -> Tensor:
        """The step [s] whose product is a vector [s], of no length along what has no rows."""
        size = self.diagonal().clamp(min=0).sqrt()
        size = torch.where(size > 0, size, torch.ones_like(size))
        arrow, right = self.scaled(1 / size), vector / size
        inverses, (square, others) = [], (arrow.square.clone(), right[self.common])
        for one in arrow.blocks:
            values, vectors = torch.linalg.eigh(one.square)
            inverse = (vectors * _inverse(values, LEAST * values[-1])) @ vectors.T
            across = one.mixed.T @ inverse
            inverses.append(inverse)
            square.index_put_(
                (one.common[:, None], one.common), -(across @ one.mixed), accumulate=True
            )
            others.index_add_(0, one.common, -(across @ right[one.own]))
        step = torch.zeros_like(vector)
        if len(square):
            values, vectors = torch.linalg.eigh((square + square.T) / 2)
            # rounding is of what it was before the blocks were taken off
            least = LEAST * values[-1].clamp(min=float(arrow.square.diagonal().max()))
            others = vectors @ (_inverse(values, least) * (vectors.T @ others))
        step[self.common] = others
        for one, inverse in zip(arrow.blocks, inverses):
            step[one.own] = inverse @ (right[one.own] - one.mixed @ others[one.common])
        return step / size


def _inverse(values: Tensor, least: Tensor) -> Tensor:
    """Of those above the least; of the others 0."""
    return inverse_of(values, values > least.clamp(min=1e-300))


def inverse_of(values: Tensor, known: Tensor) -> Tensor:
    """Of those that are known; of the others 0."""
    return torch.where(known, 1 / torch.where(known, values, torch.ones_like(values)), 0.0)
