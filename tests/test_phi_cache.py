"""The phi cache of DESIGN section 5: allocation, lookup, store, invalidation, and which phi is
exactly 0. What it does to images is in test_carryover.py."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from nanobragg_plugin import carryover
from nanobragg_plugin.rotation import phi_steps


def vectors(value: float, domains: int = 2, **options) -> Tensor:
    return torch.full((domains, 3, 3), value, dtype=torch.float64, **options)


# The cache: allocation, lookup, store, invalidation


def test_an_empty_cache_holds_nothing():
    cache = carryover.initialize_phi_cache((4, 5), 2)
    assert not cache.valid and cache.shape == (4, 5) and cache.domains == 2
    with pytest.raises(LookupError, match="no sample has been evaluated"):
        cache[torch.tensor([0]), torch.tensor([0])]


def test_an_empty_cache_gives_the_unrotated_cell():
    cache = carryover.initialize_phi_cache((4, 5), 2)
    at = torch.tensor([0, 2]), torch.tensor([1, 3])
    found = carryover.apply_phi_carryover(cache, *at, vectors(7.0))
    assert torch.equal(found, vectors(7.0).expand(2, 2, 3, 3))


def test_lookup_after_store():
    empty = carryover.initialize_phi_cache((4, 5), 2)
    stored = carryover.store_phi_final(
        empty, torch.tensor([1, 1]), torch.tensor([2, 3]), vectors(3.0)
    )
    assert stored.valid and not empty.valid  # a value: the old one is as it was
    slow, fast = torch.tensor([1, 1, 2, 3]), torch.tensor([2, 3, 0, 4])
    assert torch.equal(stored[slow, fast], vectors(3.0).expand(4, 2, 3, 3))
    # (1, 2) came first and has no predecessor; the others follow it across row ends and holes
    found = carryover.apply_phi_carryover(stored, slow, fast, vectors(7.0))
    assert (found[0] == 7.0).all() and (found[1:] == 3.0).all()


def test_the_first_pixel_stays_the_first():
    cache = carryover.initialize_phi_cache((4, 5), 2)
    for slow, fast, value in ((2, 4, 3.0), (3, 0, 4.0)):
        at = torch.tensor([slow]), torch.tensor([fast])
        cache = carryover.store_phi_final(cache, *at, vectors(value))
    assert cache.first == 2 * 5 + 4
    assert (cache[torch.tensor([3]), torch.tensor([1])] == 4.0).all()


def test_storing_no_pixels_changes_nothing():
    cache = carryover.initialize_phi_cache((4, 5), 2)
    none = torch.zeros(0, dtype=torch.long)
    assert carryover.store_phi_final(cache, none, none, vectors(1.0)) == cache


def test_a_store_of_other_domains_is_refused():
    cache = carryover.initialize_phi_cache((4, 5), 3)
    with pytest.raises(ValueError, match="3 domains"):
        carryover.store_phi_final(cache, torch.tensor([0]), torch.tensor([0]), vectors(1.0))


def test_invalidation():
    cache = carryover.initialize_phi_cache((4, 5), 2)
    full = carryover.store_phi_final(cache, torch.tensor([0]), torch.tensor([1]), vectors(1.0))
    assert carryover.invalidate_phi_cache(full) == cache
    assert full.matches((4, 5), 2)
    assert not full.matches((5, 4), 2)  # the detector's shape
    assert not full.matches((4, 5), 3)  # the mosaic domains


def test_memory_is_orders_of_magnitude_below_the_budget():
    """The original's budget is 224 MB for 2527 x 2463, float32, one domain."""
    cache = carryover.initialize_phi_cache((2527, 2463), 1)
    at = torch.tensor([685]), torch.tensor([1039])
    cache = carryover.store_phi_final(cache, *at, vectors(1.0, 1).float())
    slow = torch.arange(2527).repeat_interleave(2463)
    fast = torch.arange(2463).repeat(2527)
    whole = cache[slow, fast]
    assert whole.shape == (2527 * 2463, 1, 3, 3)
    assert whole.untyped_storage().nbytes() == cache.vectors.untyped_storage().nbytes() == 36
    assert whole.stride(0) == 0


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
@pytest.mark.parametrize("device", ("cpu", "meta"))
def test_dtype_device_and_gradient_are_preserved(dtype, device):
    left, fresh = (
        torch.ones(2, 3, 3, dtype=dtype, device=device, requires_grad=True) for _ in range(2)
    )
    slow, fast = (torch.tensor(v, device=device) for v in ([1, 1, 3], [2, 4, 0]))
    # the pixel that came first is looked up on the host: its indices are ordinary there
    cache = carryover.initialize_phi_cache((4, 5), 2)
    cache = carryover.store_phi_final(cache, torch.tensor([1]), torch.tensor([2]), left)
    assert cache.vectors is left
    found = carryover.apply_phi_carryover(cache, slow, fast, fresh)
    seen = carryover.stale_steps(torch.stack([fresh, 2 * fresh]), (True, False), left)
    for tensor in (found, seen, cache[slow, fast]):
        assert (tensor.dtype, tensor.device.type) == (dtype, device)
        assert tensor.requires_grad
    if device == "cpu":
        weights = torch.tensor([1.0, 10.0, 100.0], dtype=dtype)[:, None, None, None]
        from_left, from_fresh = torch.autograd.grad((found * weights).sum(), [left, fresh])
        assert (from_left == 110).all() and (from_fresh == 1).all()


# Which phi is exactly 0


def test_which_steps_are_not_rotated():
    assert carryover.is_zero((0.0, -0.0, 1e-300, -0.1)) == (True, True, False, False)


@pytest.mark.parametrize(
    "start, width, steps, phistep, zero",
    [
        (0.0, 1.0, 10, None, 0),
        (-0.5, 1.0, 4, None, 2),
        (-1.0, 2.0, 8, None, 4),
        (-0.3, 0.6, 6, None, 3),
        (-0.7, 1.4, 14, None, 7),
        (-0.3, 0.9, 9, None, None),  # 5.6e-17 or so beside 0
        (-0.3, 0.3, 4, 0.1, None),
        (-0.6, 1.0, 10, None, None),
        (-1.2, 1.3, 13, None, None),
        (-0.3, 0.3, 3, None, None),  # ends before 0
        (30.0, 1.0, 10, None, None),
    ],
)
def test_zero_is_decided_in_the_order_of_the_c_program(start, width, steps, phistep, zero):
    """Which step is at 0 is what a C program of nanoBragg.c's statements says (gcc -O3): phi0
    and osc = atof/RTD, phistep = osc/phisteps or atof/RTD, RTD = 180.0*M_1_PI, phi = phi0 +
    phistep*phi_tic. M_1_PI is math.h's literal."""
    rtd = 180.0 * 0.31830988618379067154
    step = width / rtd / steps if phistep is None else phistep / rtd
    found = phi_steps(start, width, steps, "start", phistep)
    assert list(found) == [start / rtd + step * tic for tic in range(steps)]
    unrotated = [k for k, at_zero in enumerate(carryover.is_zero(found)) if at_zero]
    assert unrotated == ([] if zero is None else [zero])


def test_midpoints_are_half_a_step_later():
    start, middle = (phi_steps(-0.5, 1.0, 4, sampling) for sampling in ("start", "midpoint"))
    half = math.radians(0.125)
    assert middle == pytest.approx([phi + half for phi in start], abs=1e-15)
