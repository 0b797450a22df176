"""The pixels that models are refined against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from nanobragg_plugin.models import Exposure

#: Pixels that are sorted at once.
MOST_AT_ONCE = 2_000_000


@dataclass(frozen=True)
class Picture:
    """An image's pixels in shoeboxes.

    number: as the scan has it; fluence: photons/m^2; shapes: (slow, fast) of every panel; pixels:
    of every panel the numbers of these pixels in its raster, ascending, int32; counts [n], float32:
    photons in them, panel after panel; box [n], int32: which shoebox, from 0, a pixel is of; place
    [n, 2], float32: where it is in it along slow and fast, about -1 to 1. That is 20 bytes a pixel.
    """

    number: int
    exposure: Exposure
    fluence: float
    shapes: tuple[tuple[int, int], ...]
    pixels: tuple[Tensor, ...]
    counts: Tensor
    box: Tensor
    place: Tensor

    def __post_init__(self) -> None:
        n = sum(map(len, self.pixels))
        if not n == len(self.counts) == len(self.box) == len(self.place):
            raise ValueError(f"image {self.number} has {n} pixels, {len(self.counts)} counts")
        if not bool(torch.isfinite(self.counts).all()):
            raise ValueError(f"image {self.number} has counts that are no numbers")

    @property
    def masks(self) -> tuple[Tensor, ...]:
        """Of every panel [slow, fast] bool, True of these pixels: made anew, as there may be very
        many images."""
        made = []
        for shape, pixels in zip(self.shapes, self.pixels):
            mask = torch.zeros(shape[0] * shape[1], dtype=torch.bool)
            mask[pixels.long()] = True
            made.append(mask.reshape(shape))
        return tuple(made)


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
            index = one.box.long()[:, None].expand(-1, 2)
            reach.scatter_reduce_(0, index, one.place.abs().double(), "amax")
        return reach

    def least(self, background: Tensor) -> Tensor:
        """[boxes]: the least that backgrounds [boxes, terms] can be at some pixel of their box."""
        slopes = background[:, 1:].abs() * self._reach[:, : background.shape[1] - 1]
        return background[:, 0] - slopes.sum(1)

    def flat(self, rounds: int = 5) -> Tensor:
        """[boxes]: the mean of the pixels that do not stand out, found in some rounds."""
        counts = torch.cat([one.counts for one in self.pictures])
        box = torch.cat([one.box for one in self.pictures])
        found = torch.zeros(self.boxes, dtype=torch.float64)
        # some boxes at a time: sorting takes several times the memory of what is sorted
        size = max(1, self.boxes * MOST_AT_ONCE // max(len(counts), 1))
        for first in range(0, self.boxes, size):
            last = min(first + size, self.boxes)
            mine = (box >= first) & (box < last)
            some = counts[mine].double(), box[mine].long() - first, last - first
            found[first:last] = _flat(*some, rounds)
        return found

    @property
    def n(self) -> int:
        """Pixels."""
        return sum(len(one.counts) for one in self.pictures)


def _flat(counts: Tensor, box: Tensor, boxes: int, rounds: int) -> Tensor:
    """Of boxes that may have no pixels: 0."""
    if len(counts) == 0:
        return counts.new_zeros(boxes)
    mean = counts.new_zeros(boxes)
    order = torch.argsort(counts)
    order = order[torch.argsort(box[order], stable=True)]
    sizes = torch.bincount(box, minlength=boxes)
    firsts = torch.cumsum(sizes, 0) - sizes
    median = counts[order][(firsts + sizes // 2).clamp(max=len(counts) - 1)]
    limit = median + 3 * (median + 1).sqrt()
    for _ in range(rounds):
        kept = counts <= limit[box]
        total = counts.new_zeros(boxes).index_add_(0, box[kept], counts[kept])
        mean = total / torch.bincount(box[kept], minlength=boxes).clamp(min=1)
        limit = mean + 3 * mean.clamp(min=0.1).sqrt() + 1
    return mean


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
    counts = torch.cat([image[mask].float() for image, mask in zip(images, masks)])
    box = torch.cat([label[mask].int() for label, mask in zip(labels, masks)])
    place = torch.cat([mask.nonzero() for mask in masks]).float()
    shapes = tuple((mask.shape[0], mask.shape[1]) for mask in masks)
    pixels = tuple(mask.flatten().nonzero()[:, 0].int() for mask in masks)
    return Picture(number, exposure, fluence, shapes, pixels, counts, box, place)


def centred(pictures: Sequence[Picture], boxes: int) -> Data:
    """The data of pictures whose places are pixels: they become about -1 to 1 in each shoebox."""
    count = torch.zeros(boxes, dtype=torch.float64)
    mean, square = torch.zeros(2, boxes, 2, dtype=torch.float64)
    for one in pictures:
        count += torch.bincount(one.box, minlength=boxes)
        mean.index_add_(0, one.box, one.place.double())
    count = count.clamp(min=1)[:, None]
    mean = mean / count
    for one in pictures:
        square.index_add_(0, one.box, (one.place - mean[one.box]) ** 2)
    half = (1.5 * (square / count).sqrt()).clamp(min=1.0)
    made = [
        replace(one, place=((one.place - mean[one.box]) / half[one.box]).float())
        for one in pictures
    ]
    return Data(tuple(made), boxes)
