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
