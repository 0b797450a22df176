"""A first stage by where spots were found: cheap, and right from further off than pixels are.

A reflection's residuals are its place on the panel, and how far its lattice point is from the Ewald
sphere at the angle at which it was seen, as an angle (the reason why stills know their orientation
about axes across the beam at all).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nanobragg_plugin.models import Experiment
from nanobragg_plugin.refine.arrow import Arrow
from nanobragg_plugin.refine.joint_model import JointModel
from nanobragg_plugin.refine.parametrisations import Model
from nanobragg_plugin.rotation import about_axis

#: Of a spot's place, pixels; what counts less from so many sigma on (Huber).
SIGMA_PX, FAR = 0.2, 3.0


@dataclass(frozen=True)
class Spots:
    """hkl [n, 3]; panel [n]; place [n, 2]: fast, slow, pixels; image [n], from 0, and phi [n],
    radians, where they were seen; sigma_phi [n] radians: how far from the Ewald sphere they may
    be."""

    hkl: Tensor
    panel: Tensor
    place: Tensor
    image: Tensor
    phi: Tensor
    sigma_phi: Tensor


def residuals(experiment: Experiment, spots: Spots) -> Tensor:
    """[n, 3], in sigma: fast, slow, and from the Ewald sphere."""
    beam, gonio, crystal = experiment.beam, experiment.goniometer, experiment.crystal
    points = [at_points(one, spots.image) for one in (crystal.A, gonio.setting)]
    turn = points[1] @ about_axis(gonio.axis, spots.phi) @ gonio.fixed
    q = (turn @ points[0] @ spots.hkl[..., None])[..., 0]
    direction = at_points(beam.direction.mean(1), spots.image)
    direction = direction / torch.linalg.vector_norm(direction, dim=-1, keepdim=True)
    s0 = direction / at_points(beam.wavelength.mean(1), spots.image)[:, None]
    s1 = s0 + q
    size = torch.linalg.vector_norm(s0, dim=-1) * torch.linalg.vector_norm(q, dim=-1)
    off = ((s1 * s1).sum(-1) - (s0 * s0).sum(-1)) / (2 * size)
    origin, fast, slow, pixel = (
        torch.stack([getattr(panel, name) for panel in experiment.panels])[spots.panel]
        for name in ("origin", "fast", "slow", "pixel_size")
    )
    normal = torch.linalg.cross(fast, slow)
    way = s1 * ((origin * normal).sum(-1) / (s1 * normal).sum(-1))[:, None] - origin
    place = torch.stack([(way * fast).sum(-1), (way * slow).sum(-1)], -1) / pixel
    return torch.cat([(place - spots.place) / SIGMA_PX, (off / spots.sigma_phi)[:, None]], -1)


def at_points(values: Tensor, image: Tensor) -> Tensor:
    """Of scan points [points, ...] those of images [n], or the one there is."""
    if len(values) == 1:
        return values.expand(len(image), *values.shape[1:])
    return values[image.floor().long().clamp(0, len(values) - 1)]


def refine(
    model: Model | JointModel,
    inner: Tensor,
    free: tuple[str, ...],
    spots: Spots | tuple[Spots | None, ...],
    report: Callable[[int, float], None] = lambda iteration, rms: None,
    rounds: int = 15,
) -> Tensor:
    """The inner parameters [p] that fit the places best (of spots of each experiment of a joint
    model), by Gauss and Newton's steps; each of those that are free is held to its start by its
    reach, and by its restraint."""
    parameters = model.parameters
    at = {name: number for number, name in enumerate(parameters.names)}
    numbers = torch.tensor([at[name] for name in free])
    start, reach = inner[numbers], parameters.reach[numbers]
    seen = _seen(model, spots, numbers)
    now = start
    for iteration in range(rounds):
        whole = inner.index_copy(0, numbers, now)
        _, slope, curvature = parameters.prior(whole)
        gradient = -(now - start) / reach**2 - slope[numbers]
        parts, square, count = [], 0.0, 0
        for one in seen:
            found, columns = one.slopes(whole, now)
            weight = (FAR / found.abs()).clamp(max=1.0)
            parts.append(((columns.T * weight) @ columns, one.free))
            gradient.index_add_(0, one.free, -columns.T @ (weight * found))
            square, count = square + float(found.square().sum()), count + len(found)
        information = Arrow.of(parts, reach**-2 + curvature[numbers])
        step = information.solved(gradient)
        moved = parameters.clamped(inner.index_copy(0, numbers, now + step))
        report(iteration + 1, (square / max(count, 1)) ** 0.5)
        done = float(step @ information.times(step)) < 1e-4
        now = moved[numbers]
        if done:
            break
    return inner.index_copy(0, numbers, now)


@dataclass(frozen=True)
class _Seen:
    """Of one experiment: its model and spots; place: of its parameters among all; own [k]: of its
    parameters, those that are free; free [k]: which these are of the free ones."""

    model: Model
    spots: Spots
    place: Tensor
    own: Tensor
    free: Tensor

    def slopes(self, whole: Tensor, now: Tensor) -> tuple[Tensor, Tensor]:
        """Residuals [n] at inner parameters, of all [p] and the free ones of them, and their
        derivatives [n, k]."""
        inner, parameters = whole[self.place], self.model.parameters

        def of(some: Tensor) -> Tensor:
            values = parameters.outer(inner.index_copy(0, self.own, some))
            return residuals(self.model.models(values)[0], self.spots).flatten()

        return of(now[self.free]), torch.func.jacfwd(of)(now[self.free])


def _seen(
    model: Model | JointModel, spots: Spots | tuple[Spots | None, ...], numbers: Tensor
) -> list[_Seen]:
    """Of all experiments that have spots; numbers: of the free parameters among all."""
    if isinstance(spots, Spots):
        each = [(model, spots, torch.arange(len(model.parameters)))]
    else:
        each = zip(model.each, spots, model.places)
    at = torch.full((len(model.parameters),), -1, dtype=torch.int64)
    at[numbers] = torch.arange(len(numbers))
    found = []
    for one, theirs, place in each:
        own = (at[place] >= 0).nonzero()[:, 0]
        if theirs is not None and len(own):
            found.append(_Seen(one, theirs, place, own, at[place[own]]))
    return found


def with_sigma(spots: Spots, experiment: Experiment, spread: float, width: float) -> Spots:
    """With sigma_phi of a mosaic spread, the domains' size, and images of a width, radians."""
    crystal = experiment.crystal
    q = torch.linalg.vector_norm((crystal.A[0] @ spots.hkl[..., None])[..., 0], dim=-1)
    size = (
        crystal.Ncells_abc * torch.linalg.vector_norm(torch.linalg.inv(crystal.A[0]), dim=-1)
    ).min()
    sigma = (spread**2 + (0.4 / (size * q)) ** 2 + width**2 / 12).sqrt()
    return replace(spots, sigma_phi=sigma)
