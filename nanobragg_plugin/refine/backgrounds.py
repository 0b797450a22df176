"""A background that all shoeboxes have together: a smooth function of the scattering angle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from nanobragg_plugin.models import Experiment
from nanobragg_plugin.refine.data import Data, Picture

#: Names of backgrounds that are of all shoeboxes: of each image its own, or of all images one.
IN_ONE = ("image", "global")
#: Places along the angle at which it has a value of its own; straight lines between them.
KNOTS = 8


def in_one(pictures: Sequence[Picture], experiment: Experiment, all_images: bool) -> Data:
    """The data of pictures whose pixels are all of one background, or of one an image.

    A background's terms are a level and KNOTS - 1 hats: `Target.design` takes ones and `place`.
    """
    sines = [sin_theta(picture, experiment) for picture in pictures]
    low = min(float(one.min()) for one in sines)
    high = max(float(one.max()) for one in sines)
    made = []
    for number, (picture, sine) in enumerate(zip(pictures, sines)):
        at = (sine - low) / max(high - low, 1e-9) * (KNOTS - 1)
        hats = (1 - (at[:, None] - torch.arange(1, KNOTS).double()).abs()).clamp(min=0)
        box = torch.full_like(picture.box, 0 if all_images else number)
        made.append(replace(picture, box=box, place=hats))
    return Data(tuple(made), 1 if all_images else len(made))


def sin_theta(picture: Picture, experiment: Experiment) -> Tensor:
    """[n] of the pixels' centres, about the first mean direction of the beam."""
    beam = experiment.beam.direction[0].mean(0)
    beam = beam / torch.linalg.vector_norm(beam)
    found = []
    for panel, mask in zip(experiment.panels, picture.masks):
        place = (mask.nonzero().double() + 0.5) * panel.pixel_size.flip(0)
        ray = panel.origin + place[:, 1:] * panel.fast + place[:, :1] * panel.slow
        cosine = ray @ beam / torch.linalg.vector_norm(ray, dim=-1)
        found.append(((1 - cosine).clamp(min=0) / 2).sqrt())
    return torch.cat(found)
