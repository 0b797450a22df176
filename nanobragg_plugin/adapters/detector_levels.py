"""Levels of a detector's hierarchy: which panels move together, and groups that follow them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from libtbx.utils import Sorry

from nanobragg_plugin.models import Panel

#: How far panels may be off one rigid body's motion, mm (and as fractions of their axes): what
#: frames lose as they are multiplied, and no more.
RIGID = 1e-9


def groups(detector: Any, level: int) -> list[tuple[str, tuple[int, ...]]]:
    """Names and panels' numbers of the nodes of a dxtbx detector at a level below its root, from 0;
    a panel that is less deep is on its own. `Sorry` where the hierarchy is not so deep."""
    found: list[tuple[str, tuple[int, ...]]] = []

    def visit(node: Any, depth: int) -> int:
        if depth == level or node.is_panel():
            found.append((node.get_name(), _panels(node)))
            return depth
        return max((visit(child, depth + 1) for child in node.children()), default=depth)

    deepest = visit(detector.hierarchy(), 0)
    if deepest < level:
        raise Sorry(
            f"refine.detector_level={level}: the detector's hierarchy has levels 0 to {deepest}"
        )
    return [(name, own) for name, own in found if own]


def _panels(node: Any) -> tuple[int, ...]:
    if node.is_panel():
        return (node.index(),)
    return tuple(one for child in node.children() for one in _panels(child))


def write(detector: Any, panels: Sequence[Panel]) -> None:
    """Put a dxtbx detector's panels where the models [panels] are. Groups whose panels have moved
    as one rigid body move with them, as whoever refines or moves groups expects."""
    new = [np.array([*map(_array, (one.fast, one.slow, one.origin))]) for one in panels]
    motions = [_motion(_frame(old), frame) for old, frame in zip(detector, new)]
    _move(detector.hierarchy(), motions)
    for panel, frame in zip(detector, new):
        panel.set_frame(*map(tuple, frame.tolist()))


def _move(node: Any, motions: list[tuple[np.ndarray, np.ndarray]]) -> None:
    """A group and those below it, the uppermost first: setting one takes along what is below."""
    if node.is_panel():
        return
    own = [motions[number] for number in _panels(node)]
    if own and all(np.allclose(a, b, atol=RIGID) for one in own for a, b in zip(one, own[0])):
        turn, shift = own[0]
        fast, slow, origin = _frame(node)
        node.set_frame(tuple(turn @ fast), tuple(turn @ slow), tuple(turn @ origin + shift))
        return
    for child in node.children():
        _move(child, motions)


def _motion(old: np.ndarray, new: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rotation [3, 3] and the shift [3] that take frames [3, 3] (rows: fast, slow, origin) from
    one place to another."""
    axes = [np.stack([f, s, np.cross(f, s)], axis=1) for f, s, _ in (old, new)]
    turn = axes[1] @ axes[0].T
    return turn, new[2] - turn @ old[2]


def _frame(node: Any) -> np.ndarray:
    return np.array([node.get_fast_axis(), node.get_slow_axis(), node.get_origin()])


def _array(vector: Any) -> np.ndarray:
    return vector.detach().numpy()
