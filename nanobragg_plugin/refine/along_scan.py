"""What was found along a scan: image by image, with sigmas."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from nanobragg_plugin.refine.crystal_parts import Cell, Orientation
from nanobragg_plugin.refine.joint import Joint
from nanobragg_plugin.refine.minimise import Found
from nanobragg_plugin.refine.sigmas import Sigmas
from nanobragg_plugin.refine.target import Target


def along_scans(
    target: Joint, found: Found, known: Sigmas, first: Sequence[int]
) -> list[dict[str, Any]]:
    """Of each experiment of which something varies along its scan, as JSON has it: curves and
    images, of `image` (its number in the scan, whole in the middle of one), value and sigma (None:
    undetermined), by name; first: of each experiment the number of its first image."""
    made = []
    several = len(target.targets) > 1
    states = target.states(found.state)
    for at, (own, state) in enumerate(zip(target.own, states)):
        names = [target.model.parameters.names[i] for i in target.model.places[at].tolist()]
        curves = _curves(own, state.inner, names, known, first[at])
        number = target.numbers_of[at]
        images = _images(own, state, f".{number}" if several else "", known, first[at])
        if curves or images:
            made.append({"experiment": number, "curves": curves, "images": images})
    return made


def _curves(
    target: Target, inner: Tensor, names: list[str], known: Sigmas, first: int
) -> dict[str, Any]:
    """Turns from the start, and cells, at scan points."""
    outer, curves, done = target.model.parameters.outer(inner), {}, 0
    for part in target.model.parts:
        own = slice(done, done + len(part.parameters))
        done = own.stop
        if not isinstance(part, (Orientation, Cell)) or part.design is None:
            continue
        changes = part.changes(outer[own])
        values = changes if isinstance(part, Orientation) else part.cells + changes
        count, knots = len(changes), part.design.shape[1]
        same = len(part.parameters) // (knots + 1)
        for place, one in enumerate(part.parameters[:same]):
            start = own.start + same + place * knots
            column = place if isinstance(part, Orientation) else _column(part, place)
            curves[one.name] = {
                "unit": one.unit,
                "image": [first - 0.5 + point for point in range(count)],
                "value": values[:, column].tolist(),
                "sigma": _sigma(part.design, names[start : start + knots], known),
            }
    return curves


def _column(part: Cell, place: int) -> int:
    """Of a free number of a cell, which of the six it is."""
    return ("a", "b", "c", "alpha", "beta", "gamma").index(part.names[place])


def _sigma(design: Tensor, names: list[str], known: Sigmas) -> list[float | None]:
    """Of a curve [points] through numbers of these names; None: undetermined, or held."""
    if not set(names) <= set(known.names):
        return [None] * len(design)
    at = torch.tensor([known.names.index(name) for name in names])
    lost = (design.abs() > 1e-6) & torch.isinf(known.sigma[at])
    covariance = known.covariance_of(at)
    variance = torch.einsum("pi,ij,pj->p", design, covariance, design).clamp(min=0)
    pairs = zip(variance.sqrt().tolist(), lost.any(1).tolist())
    return [None if undetermined else sigma for sigma, undetermined in pairs]


def _images(target: Target, state: Any, end: str, known: Sigmas, first: int) -> dict[str, Any]:
    """Scales and B of images, of several."""
    found: dict[str, Any] = {}
    if len(target.data.pictures) < 2:
        return found
    values = {"scale": ("", state.log_scale.exp()), "B": ("A^2", state.b)}
    sigmas = dict(zip(known.names, known.sigma.tolist()))
    for kind in target.kinds:
        unit, value = values[kind]
        numbers = [one.number for one in target.data.pictures]
        sigma = [sigmas[f"{kind}_{number}{end}"] for number in numbers]
        found[kind] = {
            "unit": unit,
            "image": [first + number for number in numbers],
            "value": value.tolist(),
            "sigma": [one if math.isfinite(one) else None for one in sigma],
        }
    return found
