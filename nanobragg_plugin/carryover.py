"""The phi carryover of nanoBragg.c, which rotates the cell only `if (phi != 0.0)`.

At a step whose phi is exactly 0 the C program still has the vectors of the step before: of
the same sample if there was one, else of the last step of the sample evaluated before it
(DESIGN section 5). These last vectors are the same for every sample of a run (an image of a
panel), so the cache is a value: the vectors, and which pixel came first and so has no
predecessor. It is never written in place, and `cache[slow, fast]` reads it as an array of the
whole panel's shape.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class PhiCache:
    """Real-space vectors after the last phi step.

    shape: (slow, fast) of the panel; domains; vectors [domains, 3 (a b c), 3 (x y z)]
    Angstrom, or None while no sample has been evaluated; first: the flat index of the pixel
    that was evaluated first.
    """

    shape: tuple[int, int]
    domains: int
    vectors: Tensor | None = None
    first: int | None = None

    @property
    def valid(self) -> bool:
        """Whether a sample has been evaluated."""
        return self.vectors is not None

    def matches(self, shape: tuple[int, int], domains: int) -> bool:
        """Whether this cache belongs to a panel of this shape and a crystal of so many domains."""
        return self.shape == tuple(shape) and self.domains == domains

    def __getitem__(self, at: tuple[Tensor, Tensor]) -> Tensor:
        """a, b, c [n, domains, 3, 3] left behind by pixels (slow_indices, fast_indices) [n]:
        a view of stride 0."""
        if self.vectors is None:
            raise LookupError("the phi cache is empty: no sample has been evaluated")
        slow_indices, _ = at
        return self.vectors.expand(len(slow_indices), *self.vectors.shape)


def initialize_phi_cache(shape: tuple[int, int], domains: int) -> PhiCache:
    """An empty cache for one image of one panel of `shape` (slow, fast)."""
    return PhiCache(tuple(shape), domains)


def invalidate_phi_cache(cache: PhiCache) -> PhiCache:
    """The cache without its vectors: the next sample has no predecessor."""
    return replace(cache, vectors=None, first=None)


def store_phi_final(
    cache: PhiCache, slow_indices: Tensor, fast_indices: Tensor, vectors: Tensor
) -> PhiCache:
    """The cache after pixels [n], in raster order, whose last phi step had `vectors`
    [domains, 3, 3]."""
    if vectors.shape != (cache.domains, 3, 3):
        raise ValueError(
            f"vectors of shape {tuple(vectors.shape)} for a cache of {cache.domains} domains"
        )
    if len(slow_indices) == 0:
        return cache
    first = cache.first
    if first is None:
        first = int(slow_indices[0]) * cache.shape[1] + int(fast_indices[0])
    return replace(cache, vectors=vectors, first=first)


def apply_phi_carryover(
    cache: PhiCache, slow_indices: Tensor, fast_indices: Tensor, fresh: Tensor
) -> Tensor:
    """a, b, c [n, domains, 3, 3] that the first step of pixels [n] finds if its phi is 0.

    A pixel's predecessor is the pixel before it in raster order among those simulated,
    across row ends, masks and ROI holes; all of them leave the same vectors behind. The run's
    first pixel has none and sees `fresh` [domains, 3, 3], the unrotated cell.
    """
    n = len(slow_indices)
    fresh = fresh.expand(n, *fresh.shape)
    if not cache.valid:
        return fresh
    flat = slow_indices * cache.shape[1] + fast_indices
    is_first = (flat == cache.first)[:, None, None, None]
    return torch.where(is_first, fresh, cache[slow_indices, fast_indices])


def is_zero(phi: tuple[float, ...]) -> tuple[bool, ...]:
    """Which steps nanoBragg.c does not rotate: phi exactly 0 in float64 radians."""
    return tuple(angle == 0.0 for angle in phi)


def stale_steps(steps: Tensor, zero: tuple[bool, ...], entering: Tensor) -> Tensor:
    """The vectors nanoBragg.c sees: [steps, domains, 3, 3], where a step whose phi is zero
    keeps those of the step before it, the first step those it found, `entering`
    [domains, 3, 3]."""
    seen, current = [], entering
    for k, unrotated in enumerate(zero):
        current = current if unrotated else steps[k]
        seen.append(current)
    return torch.stack(seen)
