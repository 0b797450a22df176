"""What the pixels of each shoebox add up to, counted and expected."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from nanobragg_plugin.adapters.shoeboxes import Boxes
from nanobragg_plugin.refine.data import Picture
from nanobragg_plugin.refine.target import Expected, State, Target


@dataclass(frozen=True)
class Sums:
    """Of each box [n]: pixels; counts, model (the crystal's photons) and background; chi_sqr of its
    pixels; centroid [n, 3] of the model: fast, slow, image from 0, NaN where it has no photons.
    crops: of some boxes counts, expected and their variance [slow, fast], all images together, NaN
    where bad."""

    pixels: np.ndarray
    counts: np.ndarray
    model: np.ndarray
    background: np.ndarray
    chi_sqr: np.ndarray
    centroid: np.ndarray
    crops: dict[int, np.ndarray]


def sums(target: Target, state: State, boxes: Boxes, drawn: int = 12) -> Sums:
    """Of the boxes that the data of a target are of; drawn: how many crops are made, of the
    brightest and of those that fit worst."""
    n = len(boxes.rows)
    total, moments = np.zeros((5, n)), np.zeros((3, n))
    # columns of image scales would be as many a pixel as there are images
    target = replace(target, image_scales=False)
    expected = target.expected(state)
    for picture, found in zip(target.data.pictures, expected):
        images = _images(target, picture, found)
        for box in _in(boxes, picture):
            cut = _cut(images[boxes.panel[box]], boxes.limits[box])
            total[:, box] += np.nansum(cut.reshape(5, -1), axis=1)
            moments[:, box] += _moments(cut[2], boxes.limits[box], picture.number)
    pixels, counts, model, background, chi_sqr = total
    with np.errstate(invalid="ignore", divide="ignore"):
        centroid = (moments / model).T
        worst = chi_sqr / pixels
    half = drawn // 2
    chosen = [*np.argsort(-model)[:half], *np.argsort(-np.nan_to_num(worst))[:half]]
    crops = _crops(target, expected, boxes, [int(box) for box in dict.fromkeys(chosen)])
    return Sums(pixels, counts, model, background, chi_sqr, centroid, crops)


def _in(boxes: Boxes, picture: Picture) -> np.ndarray:
    low, high = boxes.limits[:, 4], boxes.limits[:, 5]
    return np.flatnonzero((low <= picture.number) & (picture.number < high))


def _images(target: Target, picture: Picture, found: Expected) -> list[np.ndarray]:
    """[5, slow, fast] a panel: 1 of a pixel, counts, model, background, chi^2; NaN elsewhere."""
    mu = found.bragg + found.background
    chi_sqr = target.noise.terms(picture.counts, mu).chi_sqr
    values = [chi_sqr * 0 + 1, picture.counts, found.bragg, found.background, chi_sqr]
    images, first = [], 0
    for mask in picture.masks:
        last = first + int(mask.sum())
        image = np.full((5, *mask.shape), np.nan)
        image[:, mask.numpy()] = np.stack([_numpy(one[first:last]) for one in values])
        images.append(image)
        first = last
    return images


def _numpy(values: Tensor) -> np.ndarray:
    return values.detach().cpu().numpy()


def _cut(image: np.ndarray, limits: np.ndarray) -> np.ndarray:
    x0, x1, y0, y1 = limits[:4]
    return image[:, y0:y1, x0:x1]


def _moments(model: np.ndarray, limits: np.ndarray, number: int) -> np.ndarray:
    """Of the model's photons in fast, slow and image."""
    model = np.nan_to_num(model)
    fast = (model.sum(0) * (np.arange(model.shape[1]) + limits[0] + 0.5)).sum()
    slow = (model.sum(1) * (np.arange(model.shape[0]) + limits[2] + 0.5)).sum()
    return np.array([fast, slow, model.sum() * (number + 0.5)])


def _crops(
    target: Target, expected: list[Expected], boxes: Boxes, chosen: list[int]
) -> dict[int, np.ndarray]:
    """[2, slow, fast] of each: counts and expected, summed over the images."""
    crops: dict[int, np.ndarray] = {}
    for picture, found in zip(target.data.pictures, expected):
        mine = set(_in(boxes, picture).tolist()) & set(chosen)
        images = _images(target, picture, found) if mine else []
        for box in mine:
            cut = _cut(images[boxes.panel[box]], boxes.limits[box])
            pair = np.stack([cut[1], cut[2] + cut[3]])
            crops[box] = crops[box] + pair if box in crops else pair
    return {box: crops[box] for box in chosen if box in crops}
