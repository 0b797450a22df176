"""The pixels that models are refined against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from nanobragg_plugin.models import Exposure


@dataclass(frozen=True)
class Picture:
    """An image's pixels in shoeboxes.

    number: as the scan has it; fluence: photons/m^2; masks: of every panel [slow, fast] bool, True
    of these pixels (all False: of none); counts [n]: photons in them, panel after panel in raster
    order; box [n]: which shoebox, from 0, a pixel is of; place [n, 2]: where it is in it along slow
    and fast, about -1 to 1.
    """

    number: int
    exposure: Exposure
    fluence: float
    masks: tuple[Tensor, ...]
    counts: Tensor
    box: Tensor
    place: Tensor

    def __post_init__(self) -> None:
        n = sum(int(mask.sum()) for mask in self.masks)
        if not n == len(self.counts) == len(self.box) == len(self.place):
            raise ValueError(f"image {self.number}: masks of {n} pixels, {len(self.counts)} counts")
        if not bool(torch.isfinite(self.counts).all()):
            raise ValueError(f"image {self.number} has counts that are no numbers")


@dataclass(frozen=True)
class Data:
    """Pictures, and how many shoeboxes they have between them."""

    pictures: tuple[Picture, ...]
    boxes: int

    def __post_init__(self) -> None:
        if self.n == 0:
            raise ValueError("there is no pixel to refine against")
        if max(int(one.box.max()) for one in self.pictures if len(one.box)) >= self.boxes:
            raise ValueError(f"a pixel is of a shoebox beyond the {self.boxes}")

    @cached_property
    def _reach(self) -> Tensor:
        """[boxes, 2]: how far from the middle of a box its pixels are along slow and fast."""
        reach = torch.zeros(self.boxes, 2, dtype=torch.float64)
        for one in self.pictures:
            index = one.box[:, None].expand(-1, 2)
            reach.scatter_reduce_(0, index, one.place.abs(), "amax")
        return reach

    def least(self, background: Tensor) -> Tensor:
        """[boxes]: the least that backgrounds [boxes, terms] can be at some pixel of their box."""
        slopes = background[:, 1:].abs() * self._reach[:, : background.shape[1] - 1]
        return background[:, 0] - slopes.sum(1)

    @property
    def n(self) -> int:
        """Pixels."""
        return sum(len(one.counts) for one in self.pictures)


def picture(
    images: Sequence[Tensor],
    labels: Sequence[Tensor],
    number: int,
    exposure: Exposure,
    fluence: float,
) -> Picture:
    """Of images [slow, fast] a panel, photons, and labels of the same shapes: the shoebox a pixel
    is of, from 0, or -1 of none."""
    masks = tuple(label >= 0 for label in labels)
    counts = torch.cat([image[mask].double() for image, mask in zip(images, masks)])
    box = torch.cat([label[mask] for label, mask in zip(labels, masks)])
    place = torch.cat([mask.nonzero() for mask in masks]).double()
    return Picture(number, exposure, fluence, masks, counts, box, place)


def centred(pictures: Sequence[Picture], boxes: int) -> Data:
    """The data of pictures whose places are pixels: they become about -1 to 1 in each shoebox."""
    box = torch.cat([one.box for one in pictures])
    place = torch.cat([one.place for one in pictures])
    count = torch.bincount(box, minlength=boxes).clamp(min=1)[:, None].double()
    mean = torch.zeros(boxes, 2, dtype=torch.float64).index_add_(0, box, place) / count
    away = place - mean[box]
    square = torch.zeros_like(mean).index_add_(0, box, away**2) / count
    away = away / (1.5 * square.sqrt()).clamp(min=1.0)[box]
    parts = away.split([len(one.box) for one in pictures])
    made = tuple(
        Picture(p.number, p.exposure, p.fluence, p.masks, p.counts, p.box, part)
        for p, part in zip(pictures, parts)
    )
    return Data(made, boxes)
