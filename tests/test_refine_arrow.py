"""Of many experiments: what each has alone is a block, which is solved and inverted by itself.

Everything is held against torch.linalg's solutions of the whole matrix.
"""

from __future__ import annotations

import time
from dataclasses import replace

import nanobragg_plugin  # noqa: F401  isort: skip  before dxtbx

import pytest
import torch
from refine_models import FLOAT, vector
from test_refine_fit import target_of
from torch import Tensor

pytest.importorskip("dials")

from nanobragg_plugin.refine import report  # noqa: E402
from nanobragg_plugin.refine.arrow import Arrow  # noqa: E402
from nanobragg_plugin.refine.covariance import inverted, reaching  # noqa: E402
from nanobragg_plugin.refine.joint import Joint  # noqa: E402
from nanobragg_plugin.refine.joint_model import joined  # noqa: E402
from nanobragg_plugin.refine.minimise import minimise  # noqa: E402
from nanobragg_plugin.refine.report import found_sigmas  # noqa: E402
from nanobragg_plugin.refine.schedule import chosen_method  # noqa: E402
from nanobragg_plugin.refine.sigmas import Undetermined, _large  # noqa: E402
from nanobragg_plugin.refine.target import State  # noqa: E402

#: Of each experiment its parameters among 11; 0, 4 and 10 are of several.
PLACES = [[0, 1, 2, 3, 4], [5, 0, 6, 4], [7, 8, 4, 10], [9, 10, 0]]
COMMON = [0, 4, 10]


def parts_of(
    places: list[list[int]], seed: int = 1, most: float = 30.0
) -> list[tuple[Tensor, Tensor]]:
    """Information of `most` times three observations a parameter."""
    made = torch.Generator().manual_seed(seed)
    found = []
    for place in places:
        columns = most * torch.randn(3 * len(place), len(place), generator=made, dtype=FLOAT)
        found.append((columns.T @ columns, torch.tensor(place)))
    return found


def summed(parts: list[tuple[Tensor, Tensor]], diagonal: Tensor) -> Tensor:
    whole = torch.diag(diagonal)
    for part, place in parts:
        for i, row in enumerate(place.tolist()):
            for j, column in enumerate(place.tolist()):
                whole[row, column] += part[i, j]
    return whole


@pytest.fixture
def both() -> tuple[Arrow, Tensor]:
    parts, diagonal = parts_of(PLACES), torch.linspace(1, 3, 11, dtype=FLOAT)
    return Arrow.of(parts, diagonal), summed(parts, diagonal)


def test_as_the_whole(both) -> None:
    """Sums, products and steps, with all free and with some held (measured: 2e-13)."""
    arrow, whole = both
    assert arrow.common.tolist() == COMMON and len(arrow.blocks) == 4
    right = torch.linspace(-2, 5, 11, dtype=FLOAT)
    torch.testing.assert_close(arrow.dense(), whole)
    torch.testing.assert_close(arrow.diagonal(), whole.diagonal())
    torch.testing.assert_close(arrow.times(right), whole @ right)
    torch.testing.assert_close(arrow.plus(2.0).dense(), whole + 2 * torch.eye(11, dtype=FLOAT))
    torch.testing.assert_close(arrow.solved(right), torch.linalg.solve(whole, right))
    free = torch.tensor([1, 1, 0, 1, 1, 1, 1, 0, 1, 1, 0], dtype=FLOAT)
    some = free.nonzero()[:, 0]
    step = arrow.scaled(free).solved(free * right)
    expected = torch.linalg.solve(whole[some][:, some], right[some])
    torch.testing.assert_close(step[some], expected)
    assert bool((step[free == 0] == 0).all())


def test_what_has_no_pixels_stays() -> None:
    """A parameter without information takes no step, of one experiment or of several."""
    parts = parts_of(PLACES)
    for part, place in parts:
        lost = (place == 4) | (place == 6)
        part[lost], part[:, lost] = 0.0, 0.0
    zeros = torch.zeros(11, dtype=FLOAT)
    step = Arrow.of(parts, zeros).solved(torch.ones(11, dtype=FLOAT))
    kept = torch.tensor([i for i in range(11) if i not in (4, 6)])
    whole = summed(parts, zeros)[kept][:, kept]
    torch.testing.assert_close(step[kept], torch.linalg.solve(whole, torch.ones_like(step[kept])))
    assert step[4] == step[6] == 0


def test_rows_of_all_are_common() -> None:
    """What a direction without steps goes through has no block."""
    parts, zeros = parts_of(PLACES), torch.zeros(11, dtype=FLOAT)
    row = torch.zeros(11, dtype=FLOAT)
    row[[1, 5]] = vector(20.0, -30.0)
    arrow = Arrow.of(parts, zeros, [row])
    assert arrow.common.tolist() == sorted([*COMMON, 1, 5])
    torch.testing.assert_close(arrow.dense(), summed(parts, zeros) + row[:, None] * row)


def test_covariance(both) -> None:
    """All of it, some of it, and the largest correlations (measured: 1e-15 of 1)."""
    arrow, whole = both
    found, lost = inverted(arrow, 1e-13)
    inverse = torch.linalg.inv(whole)
    assert not lost
    torch.testing.assert_close(found.whole(), inverse)
    torch.testing.assert_close(found.diagonal(), inverse.diagonal())
    rows, columns = torch.tensor([9, 3, 4, 1]), torch.tensor([2, 10, 9])
    torch.testing.assert_close(found.part(rows, columns), inverse[rows][:, columns])
    size = inverse.diagonal().sqrt()
    correlation = inverse / (size[:, None] * size)
    pairs = {(i, j): x for i, j, x in found.pairs(0.2)}
    expected = (torch.triu(correlation, 1).abs() >= 0.2).nonzero().tolist()
    assert len(expected) > 5 and set(pairs) == set(map(tuple, expected))
    for (i, j), x in pairs.items():
        assert x == pytest.approx(float(correlation[i, j]), abs=1e-12)


def test_lost_of_one_and_of_several(both) -> None:
    """0.3 of one experiment's, and a combination of what all have with what each has: as a
    distance with cells, of which more experiments know no more."""
    places = [[0, 1 + 2 * n, 2 + 2 * n] for n in range(40)]
    parts = []
    for own, place in parts_of(places):
        # nothing is seen of the first two growing together
        turn = torch.eye(3, dtype=FLOAT)
        turn[1, 0] = -1.0
        own[0], own[:, 0] = 0.0, 0.0
        parts.append((turn.T @ own @ turn, place))
    last = torch.tensor([81])
    parts.append((torch.tensor([[0.3]], dtype=FLOAT), last))
    zeros = torch.zeros(82, dtype=FLOAT)
    found, lost = inverted(Arrow.of(parts, zeros), 1e-13)
    assert len(lost) == 2
    together, alone = lost
    assert alone.information == pytest.approx(0.3) and alone.vector.abs().argmax() == 81
    grown = torch.tensor([0, *range(1, 81, 2)])
    expected = torch.full((41,), 41**-0.5, dtype=FLOAT)
    torch.testing.assert_close(together.vector[grown].abs(), expected)
    assert abs(together.information) < 1e-9
    # what is left is the inverse where these are known
    known = torch.tensor([i for i in range(1, 81)])
    inverse = torch.linalg.inv(summed(parts, zeros)[known][:, known])
    torch.testing.assert_close(found.part(known, known), inverse, rtol=1e-7, atol=1e-12)


def test_reaching(both) -> None:
    """As of the whole matrix with 1 more on the diagonal."""
    arrow, whole = both
    inverse = torch.linalg.inv(whole + torch.eye(11, dtype=FLOAT))
    for i, j in ((1, 2), (0, 9), (3, 8)):
        expected = float(inverse[i, j] / (inverse[i, i] * inverse[j, j]).sqrt())
        assert reaching(arrow, [(i, j)]) == pytest.approx([expected], abs=1e-12)


def test_thousands() -> None:
    """5000 experiments of nine parameters and three of all: a matrix of 16 GB, whose eigenvectors
    would take days; measured: 6 s in all."""
    places = [[0, 1, 2, *range(3 + 9 * n, 12 + 9 * n)] for n in range(5000)]
    parts = parts_of(places)
    begun = time.process_time()
    arrow = Arrow.of(parts, torch.ones(45003, dtype=FLOAT))
    right = torch.linspace(-1, 1, 45003, dtype=FLOAT)
    step = arrow.solved(right)
    spread, _ = inverted(arrow, 1e-13)
    assert bool((spread.diagonal() > 0).all())
    assert time.process_time() - begun < 60
    torch.testing.assert_close(arrow.times(step), right, rtol=1e-8, atol=1e-10)


def joint(stills: int = 3) -> Joint:
    """Of stills of one crystal model, with orientations and scales of their own; the detector's
    shift is of all."""
    each = [target_of(("orientation", "scale", "detector"), seed=n) for n in range(stills)]
    names = each[0].model.parameters.names
    owners = [{name: -1 if "detector" in name else n for name in names} for n in range(stills)]
    model = joined([one.model for one in each], owners, range(stills))
    free = tuple(name for name in model.parameters.names if "tilt" not in name)
    return Joint(model, tuple(each), tuple(range(stills)), free)


def off(target: Joint) -> State:
    state = target.start()
    away = {"rotation_x": 0.03, "rotation_y": -0.02, "detector_fast": 0.05}
    for number, name in enumerate(target.model.parameters.names):
        state.inner[number] += away.get(name.partition(".")[0], 0.0)
    return state


def test_joint_without_the_whole_matrix(monkeypatch) -> None:
    """A search and its sigmas never make it; the step and the sigmas are those of it."""
    target = joint()
    shared = [target.free.index(name) for name in target.free if "detector" in name]
    normal = target.normal(off(target))
    arrow, gradient = normal.arrow()
    assert arrow.common.tolist() == shared and target.widest == 4
    torch.testing.assert_close(
        arrow.solved(gradient), torch.linalg.solve(normal.reduced()[0], gradient)
    )

    def dense(self: Arrow) -> None:
        raise AssertionError("the whole matrix is made")

    with monkeypatch.context() as patch:
        patch.setattr(Arrow, "dense", dense)
        found = minimise(target, off(target))
        known = found_sigmas(target, found)
    assert found.converged and not known.undetermined
    whole = torch.linalg.inv(found.normal.reduced()[0])
    torch.testing.assert_close(known.covariance, whole, rtol=1e-6, atol=1e-14)
    assert chosen_method("auto", target) == "lm"


def test_bounds_hold_in_a_block() -> None:
    """A rotation that may not go where the counts lead stays at its bound; the others converge as
    they do where it is no parameter."""
    target, name = joint(2), "rotation_x.1"
    at = target.model.parameters.names.index(name)
    changes = {name: {"bounds": (0.03, 1.0), "value": 0.03}}
    bounded = replace(target, model=target.model.changed(changes))
    found = minimise(bounded, off(target))
    assert found.converged and float(found.state.inner[at]) == 0.03
    without = replace(target, free=tuple(one for one in target.free if one != name))
    other = minimise(without, off(target))
    kept = bounded.normal(found.state)
    assert kept.loss == pytest.approx(other.normal.loss, abs=0.01)
    torch.testing.assert_close(found.state.inner, other.state.inner, rtol=0, atol=2e-4)


def test_common_after_directions() -> None:
    """Amplitudes make the scales' mean a direction without steps: then scales are of all."""
    target = joint(2)
    free = set(target.free)
    scales = tuple(name for name in target.model.parameters.names if name.startswith("scale."))
    held = replace(target, held=(scales, ()), amplitudes=frozenset(sorted(free)[:1]))
    assert target.widest == 4 and held.widest == 5
    arrow, _ = held.normal(held.start()).arrow()
    assert {target.free[i] for i in arrow.common.tolist()} >= set(scales)


def test_little_is_printed_of_many() -> None:
    """One row of what 11 stills have each, 20 pairs, 12 names of a combination."""
    one = {"unit": "", "start": 1.0, "value": 2.0, "refined": True, "sigma": 0.1}
    rows = [{"name": f"a.{n}", **one, "value": float(n)} for n in range(11)]
    rows += [{"name": "distance", **one}, {"name": "b.1", **one}]
    printed = report.rows_of({"parameters": rows})
    assert [row[0] for row in printed] == ["a.*", "distance", "b.1"]
    assert printed[0][3] == "0.00 to 10.00"
    assert len(report.rows_of({"parameters": rows[1:]})) == 12
    pairs = [{"names": ["a.1", f"a.{n}"], "correlation": 0.95} for n in range(30)]
    lines = report.correlated({"correlations": pairs})
    assert len(lines) == 21 and "and of 10 more pairs" in lines[-1]
    assert len(report.correlated({"correlations": pairs[:20]})) == 20
    names = tuple(f"a.{n}" for n in range(100))
    said = report.undetermined([Undetermined(names, (0.1,) * 100, 9.0)])
    assert "a.11, 88 more" in said and "+0.10 a.11 and 88 more" in said and len(said) < 600


def test_small_shares_are_named() -> None:
    """Of a combination of very many parameters each has a small share: all are named."""
    vector = torch.full((400,), 0.05, dtype=FLOAT)
    assert bool(_large(vector).all())
