"""Which experiments of a list are crystals of the same images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from libtbx.utils import Sorry


def groups(experiments: Sequence[Any], which: str = "auto") -> list[list[int]]:
    """Numbers of the experiments whose crystals lie in the same images, in the list's order.

    which: `auto` goes by the images, or the scan, that experiments share; `together` takes all to
    be in the same images, `apart` none. `Sorry` where they share some of their images only, or do
    not agree in their detector, beam or angles.
    """
    if which == "together":
        found = [list(range(len(experiments)))]
    elif which == "apart":
        found = [[number] for number in range(len(experiments))]
    else:
        found = _sharing(experiments)
    for group in found:
        for number in group[1:]:
            _check_alike(experiments[group[0]], experiments[number], group[0], number)
    return found


def _sharing(experiments: Sequence[Any]) -> list[list[int]]:
    found: list[list[int]] = []
    seen: dict[tuple, list[list[int]]] = {}
    for number, experiment in enumerate(experiments):
        key = _images_of(experiment)
        images = _range(experiment)
        for group in [] if key is None else seen.setdefault(key, []):
            other = _range(experiments[group[0]])
            if images == other:
                group.append(number)
                break
            if images[0] <= other[1] and other[0] <= images[1]:
                raise Sorry(
                    f"experiments {group[0]} and {number} of the list share some of their images, "
                    f"{other[0]} to {other[1]} and {images[0]} to {images[1]}, but not all: give "
                    "them the same images, or crystal.lattices=apart"
                )
        else:
            found.append([number])
            if key is not None:
                seen[key].append(found[-1])
    return found


def _images_of(experiment: Any) -> tuple | None:
    """What tells one sweep's or still's images from another's; None where nothing does."""
    imageset = experiment.imageset
    if imageset is not None:
        return ("files", *imageset.paths(), *imageset.indices())
    if experiment.scan is not None:
        return ("models", *(id(getattr(experiment, name)) for name in ("scan", "detector", "beam")))
    return None


def _range(experiment: Any) -> tuple[int, int]:
    return (1, 1) if experiment.scan is None else experiment.scan.get_image_range()


def _check_alike(first: Any, other: Any, number: int, other_number: int) -> None:
    """`Sorry` unless what two experiments of the same images must have in common is the same."""
    for name in ("detector", "beam", "goniometer", "scan"):
        one, two = getattr(first, name), getattr(other, name)
        if one is two:
            continue
        if one is None or two is None or not one == two:
            raise Sorry(
                f"experiments {number} and {other_number} of the list are crystals of the same "
                f"images, but do not have the same {name}: give them the same one, or "
                "crystal.lattices=apart"
            )
