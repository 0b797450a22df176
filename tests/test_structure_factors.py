"""The box of amplitudes against a dictionary, and its gradients against finite differences."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanobragg_plugin.structure_factors import (
    MAX_BOX_ELEMENTS,
    StructureFactors,
    constant,
    interpolated,
    nearest,
    table,
)

INDEX = st.tuples(st.integers(-9, 7), st.integers(-40, -30), st.integers(-3, 12))
AMPLITUDES = st.dictionaries(INDEX, st.floats(0, 1e4), max_size=30)


def boxed(amplitudes: dict, default_F: float = 0.0, dtype=torch.float64) -> StructureFactors:
    indices = torch.tensor(list(amplitudes), dtype=torch.int64).reshape(-1, 3)
    return table(indices, torch.tensor(list(amplitudes.values()), dtype=dtype), default_F)


@settings(max_examples=60, deadline=None)
@given(
    amplitudes=AMPLITUDES,
    others=st.lists(
        st.tuples(st.integers(-15, 15), st.integers(-45, 5), st.integers(-15, 15)), max_size=20
    ),
    default_F=st.sampled_from([0.0, 17.5]),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.int64, torch.int16]),
)
def test_lookup_is_a_dictionary_lookup(amplitudes, others, default_F, dtype):
    wanted = list(amplitudes) + others
    hkl = torch.tensor(wanted, dtype=dtype).reshape(-1, 3)
    found = nearest(boxed(amplitudes, default_F), *hkl.unbind(1))
    assert found.tolist() == [amplitudes.get(index, default_F) for index in wanted]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.int64])
def test_what_no_box_holds_is_default_F(dtype):
    sf = boxed({(-300, 2, 5): 7.0, (-299, 3, 4): 8.0}, default_F=2.5)
    far = [60000, -60000] if dtype == torch.float16 else [2**31 - 128, -(2**31)]
    if dtype.is_floating_point:
        far += [float("nan"), float("inf"), -float("inf")]
    for value in far:
        for axis in range(3):
            hkl = torch.tensor([-300, 2, 5], dtype=dtype)
            assert nearest(sf, *hkl) == 7.0
            hkl[axis] = value
            assert nearest(sf, *hkl) == 2.5


def test_shape_and_broadcast():
    sf = boxed({(1, 0, 0): 1.0, (2, -1, 3): 5.0})
    found = nearest(
        sf,
        torch.tensor([1.0, 2.0])[:, None],
        torch.tensor([0.0, -1.0, 4.0]),
        torch.tensor(3),
    )
    assert found.tolist() == [[0.0, 0.0, 0.0], [0.0, 5.0, 0.0]]


def test_box_is_padded_with_default_F_and_knows_its_origin():
    sf = boxed({(-2, 0, 5): 1.0, (-1, 2, 5): 2.0}, default_F=9.0)
    assert sf.hkl_min == (-2, 0, 5)
    assert sf.Fhkl.shape == (4, 5, 3)
    assert sf.Fhkl[1, 1, 1] == 1.0 and sf.Fhkl[2, 3, 1] == 2.0
    assert (sf.Fhkl == 9.0).sum() == 4 * 5 * 3 - 2


def test_empty_table_and_constant():
    assert boxed({}, default_F=3.0).Fhkl.unique().tolist() == [3.0]
    sf = constant(4.0, dtype=torch.float32)
    found = nearest(sf, *torch.tensor([[0.0, 1.0, -7.0]] * 3))
    assert found.tolist() == [4.0] * 3 and found.dtype == torch.float32


def test_gradients_reach_the_amplitudes():
    generator = torch.Generator().manual_seed(5)
    amplitudes = torch.rand(4, generator=generator, dtype=torch.float64, requires_grad=True)
    indices = torch.tensor([[0, 0, 1], [-3, 2, 1], [1, 1, 1], [-1, 0, 0]])
    # One reflection twice, one that no entry has, one outside the box.
    hkl = torch.tensor([[-3, 2, 1], [-3, 2, 1], [1, 1, 1], [0, 1, 1], [9, 9, 9]])

    def intensity(values):
        return nearest(table(indices, values, 0.5), *hkl.double().unbind(1)) ** 2

    assert torch.autograd.gradcheck(intensity, (amplitudes,))
    assert torch.autograd.gradgradcheck(intensity, (amplitudes,))
    intensity(amplitudes).sum().backward()
    expected = 2 * amplitudes.detach() * torch.tensor([0, 2, 1, 0])
    torch.testing.assert_close(amplitudes.grad, expected, rtol=0, atol=0)


def test_gradients_reach_the_box():
    sf = boxed({(0, 0, 0): 2.0, (1, 0, 0): 3.0})
    Fhkl = sf.Fhkl.clone().requires_grad_()
    leaf = StructureFactors(Fhkl, sf.hkl_min, sf.default_F)
    nearest(leaf, *torch.tensor([[1.0], [0.0], [0.0]])).sum().backward()
    assert Fhkl.grad[2, 1, 1] == 1.0 and Fhkl.grad.sum() == 1.0


def test_to_keeps_values_and_gradients():
    amplitudes = torch.tensor([1.25, 2.5], dtype=torch.float64, requires_grad=True)
    sf = table(torch.tensor([[0, 0, 0], [1, 2, 3]]), amplitudes).to(dtype=torch.float32)
    assert sf.Fhkl.dtype == torch.float32 and sf.hkl_min == (0, 0, 0)
    nearest(sf, *torch.tensor([1, 2, 3])).backward()
    assert amplitudes.grad.tolist() == [0.0, 1.0]
    assert sf.to().Fhkl.dtype == torch.float32


def test_duplicate_is_refused_by_name():
    indices = torch.tensor([[1, 2, 3], [0, -4, 2], [1, 2, 2], [0, -4, 2]])
    with pytest.raises(ValueError, match=r"\(0, -4, 2\) was given more than once"):
        table(indices, torch.ones(4))


def test_huge_box_is_refused():
    indices = torch.tensor([[0, 0, 0], [5000, -5000, 5000]])
    with pytest.raises(ValueError, match=r"\(0, -5000, 0\) to \(5000, 0, 5000\)"):
        table(indices, torch.ones(2))
    assert 5003**3 > MAX_BOX_ELEMENTS


@pytest.mark.parametrize(
    ("indices", "amplitudes"),
    [
        (torch.zeros(3, 3), torch.ones(3)),
        (torch.zeros(3, 2, dtype=torch.int64), torch.ones(3)),
        (torch.zeros(3, 3, dtype=torch.int64), torch.ones(4)),
        (torch.zeros(3, 3, dtype=torch.int64), torch.ones(3, dtype=torch.int64)),
    ],
)
def test_shapes_that_do_not_fit(indices, amplitudes):
    with pytest.raises(ValueError, match="must be"):
        table(indices, amplitudes)


def test_a_box_far_from_the_origin():
    """Its flat indices pass 2^24 on the way although the box is small: found by a plain lookup."""
    h, k, l = torch.arange(60, 64), torch.arange(-300, 301, 7), torch.arange(-300, 301, 5)
    indices = torch.cartesian_prod(h, k, l)
    amplitudes = torch.arange(1, len(indices) + 1, dtype=torch.float64)
    sf = table(indices, amplitudes)
    assert torch.equal(nearest(sf, *indices.double().unbind(1)), amplitudes)
    assert torch.equal(nearest(sf, *indices.unbind(1)), amplitudes)


# Interpolation


def cubic(seed: int):
    """A polynomial of degree 3 in each of h, k and l."""
    coefficients = torch.randn(
        4, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )

    def value(hkl: torch.Tensor) -> torch.Tensor:
        powers = hkl[..., None, :] ** torch.arange(4)[:, None]
        return torch.einsum("ijk,...i,...j,...k", coefficients, *powers.unbind(-1))

    return value


def box_of(polynomial, low=(-4, 2, -3), high=(5, 8, 4), dtype=torch.float64) -> StructureFactors:
    axes = [torch.arange(bottom, top + 1) for bottom, top in zip(low, high)]
    indices = torch.cartesian_prod(*axes)
    return table(indices, polynomial(indices.double()).to(dtype), default_F=1e3)


def between(low: list[float], high: list[float], n: int = 200) -> torch.Tensor:
    draw = torch.rand(n, 3, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    return torch.tensor(low) + draw * (torch.tensor(high) - torch.tensor(low))


def test_a_cubic_is_interpolated_exactly():
    """Four points an axis determine a cubic; measured 4e-16 of the largest."""
    polynomial = cubic(1)
    hkl = between([-2.0, 4.0, -1.0], [3.0, 6.0, 2.0])
    found, expected = interpolated(box_of(polynomial), *hkl.unbind(1)), polynomial(hkl)
    assert (found - expected).abs().max() < 1e-14 * expected.abs().max()
    # single precision: measured 3e-7
    found = interpolated(box_of(polynomial, dtype=torch.float32), *hkl.unbind(1))
    assert found.dtype == torch.float32
    assert (found - expected).abs().max() < 2e-6 * expected.abs().max()


def test_on_a_reflection_it_has_its_amplitude_and_between_it_may_overshoot():
    sf = boxed({(h, k, l): 100.0 * (h == k == l == 0) for h in range(-4, 5)
                for k in range(-4, 5) for l in range(-4, 5)})  # fmt: skip
    zero, half = torch.zeros(4), torch.tensor([0.0, 0.5, 1.5, 1.0])
    # Lagrange: 9/16 of the two next to the middle, -1/16 of the two beyond
    assert interpolated(sf, zero, half, zero).tolist() == [100.0, 56.25, -6.25, 0.0]


@pytest.mark.parametrize("axis", range(3))
def test_near_the_ends_of_the_box_the_nearest_is_taken(axis):
    """nanoBragg.c's condition: h - h_min + 3 > h_max - h_min + 1 or h - 2 < h_min is out."""
    sf = box_of(cubic(2))
    low, high = ((-4, 2, -3)[axis], (5, 8, 4)[axis])
    hkl = torch.tensor([0.3, 5.3, 0.7], dtype=torch.float64).repeat(8, 1)
    hkl[:, axis] = torch.tensor(
        [
            low + 2,
            high - 2,
            low + 1.9999,
            high - 1.9999,
            low - 7.2,
            high + 7.2,
            torch.nan,
            torch.inf,
        ]
    )
    found = interpolated(sf, *hkl.unbind(1))
    taken = nearest(sf, *torch.ceil(hkl - 0.5).unbind(1))
    torch.testing.assert_close(found[:2], cubic(2)(hkl[:2]), rtol=1e-11, atol=1e-11)
    assert torch.equal(found[2:], taken[2:])
    assert not (found[:2] == taken[:2]).any()


def test_a_box_too_small_to_interpolate():
    hkl = between([-3.0, -3.0, -3.0], [3.0, 3.0, 3.0]).unbind(1)
    for sf in (constant(4.0), boxed({(0, 0, 0): 2.0, (2, 2, 2): 3.0}, default_F=1.0)):
        found = interpolated(sf, *hkl)
        assert torch.equal(found, nearest(sf, *(torch.ceil(x - 0.5) for x in hkl)))


def test_interpolation_in_a_box_of_more_than_2_to_the_24():
    """A flat index in float32 would be off here: on a reflection its own amplitude is found."""
    shape = (8, 1500, 1500)
    Fhkl = torch.arange(8 * 1500 * 1500, dtype=torch.int32).reshape(shape) % 9973
    sf = StructureFactors(Fhkl.float(), (-1, -700, -700), 0.0)
    hkl = between([1.0, 600.0, 600.0], [3.0, 790.0, 790.0], 50).round().float()
    assert torch.equal(interpolated(sf, *hkl.unbind(1)), nearest(sf, *hkl.unbind(1)))


def test_gradients_of_the_interpolation():
    """To the amplitudes, and to h, k and l: inside, outside and on the edge of the box."""
    sf = box_of(cubic(3))
    Fhkl = sf.Fhkl.clone().requires_grad_()
    hkl = torch.tensor([[0.3, 5.3, 0.7], [-1.7, 4.9, 1.2], [7.3, 5.0, 0.2]], dtype=torch.float64)
    hkl.requires_grad_()

    def function(Fhkl, hkl):
        return interpolated(StructureFactors(Fhkl, sf.hkl_min, 0.0), *hkl.unbind(1))

    assert torch.autograd.gradcheck(function, (Fhkl, hkl))
    to_box, to_hkl = torch.autograd.grad(function(Fhkl, hkl).sum(), (Fhkl, hkl))
    # the shares of the 64 amplitudes add up to one, in each of three places
    assert to_box.sum().item() == pytest.approx(3.0, rel=1e-12)
    assert to_hkl[:2].all() and not to_hkl[2].any()
