"""What the parameters of nanobragg.view ask for."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from dials.util.options import ArgumentParser
from libtbx import Auto
from libtbx.utils import Sorry

from nanobragg_plugin.adapters.phil_values import check_values, word
from nanobragg_plugin.run import arguments, marks, messages, page, picture, pixels, view_spots
from nanobragg_plugin.run.outputs import check_writable
from nanobragg_plugin.run.phil_guard import check_arguments
from nanobragg_plugin.run.view_images import Series

#: Dots of an image in a picture, in an animation, unless given.
SIZE, SIZE_ANIMATED = 1100, 600
#: How files begin that may be replaced.
PICTURES = (b"\x89PNG", b"GIF8")
#: Options of DIALS' parser that are followed by a number.
LEVELS = ("-a", "--attributes-level", "-e", "--expert-level")


@dataclass(frozen=True)
class Names:
    """Of the files that are given: images and experiment lists, reflections, parameters."""

    images: list[str]
    reflections: list[str]
    parameters: list[str]


def parse_command(args: list[str], scope: Any, usage: str, epilog: str) -> tuple:
    """Extracted parameters, `Names`, and the names of the reflection files."""
    files = [
        arg
        for before, arg in zip(["", *args], args)
        if not arg.startswith("-") and "=" not in arg and before not in LEVELS
    ]
    arguments.check_readable([name for name in files if "#" not in name])
    names = Names(
        [one for one in files if not one.endswith((".refl", *arguments.PHIL_FILES))],
        [one for one in files if one.endswith(".refl")],
        [one for one in files if one.endswith(arguments.PHIL_FILES)],
    )
    rest = [arg for arg in args if arg not in (*names.images, *names.reflections)]
    parser = ArgumentParser(phil=scope, usage=usage, epilog=epilog, check_format=False)
    check_arguments(rest, scope)
    with messages.of_phil():
        params, _, unhandled = parser.parse_args(
            args=rest, show_diff_phil=False, return_unhandled=True
        )
    arguments.take_parameters(unhandled, scope, usage.split()[0])
    check_values(scope, params)
    return params, names, names.reflections


def pictures_of(params: Any, series: Series) -> dict[int, Path]:
    """The number of each image to show, and the file it goes to."""
    if params.image is None and params.animation:
        return {}
    numbers = list(dict.fromkeys(params.image or [series.first]))
    for number in numbers:
        series.check(number, params.sum_images, "image")
    path = _named(params.output, "output", ".png")
    if len(numbers) == 1:
        return {numbers[0]: path}
    return {number: path.with_name(f"{path.stem}_{number}{path.suffix}") for number in numbers}


def frames_of(params: Any, series: Series) -> range | None:
    """The first image of each frame of the animation; None: there is none."""
    if not params.animation:
        return None
    params.animation = _named(params.animation, "animation", ".gif")
    first, last = params.animation_range or (series.first, series.last)
    if first > last:
        raise Sorry(f"animation_range={first},{last}: the first image is after the last")
    for number in (first, last):
        series.check(number, 1, "animation_range")
    count = params.sum_images
    series.check(first, count, "animation_range")
    return range(first, last - count + 2, params.animation_step or count)


def _named(name: str, parameter: str, ending: str) -> Path:
    if Path(name or "").suffix.lower() != ending:
        raise Sorry(f"{parameter}={name}: give a name that ends in {ending}")
    return Path(name)


def check_outputs(paths: Iterable[Path], names: Names) -> None:
    """`Sorry` unless each can be written, over no input and nothing but an older picture."""
    inputs = {Path(name).resolve() for name in (*names.images, *names.reflections)}
    inputs |= {Path(name).resolve() for name in names.parameters}
    for path in paths:
        if path.resolve() in inputs:
            raise Sorry(f"{path} is an input: it would be overwritten; choose another name")
        check_writable(path, overwrite=True)
        if path.exists() and not path.read_bytes()[:4].startswith(PICTURES):
            raise Sorry(f"{path} exists and is no picture of this command: choose another name")


def drawn(
    params: Any,
    series: Series,
    number: int,
    tables: list[Any],
    style: picture.Style | None = None,
    animated: bool = False,
) -> tuple[pixels.Image, page.Page, picture.Style, tuple[marks.Spots, ...]]:
    """The arguments of `picture.figure_of` for the images that begin with a number."""
    shown = _page_of(params, *series.models(number))
    spots = _spots_of(params, series, number, tables)
    on_page = [one.shown(shown) for one in spots]
    if spots and not animated and not any(len(one.panel) for one in on_page):
        raise Sorry(f"there are no spots on what is shown of image {number}: {_hint(spots)}")
    image = series.image(number, params.sum_images)
    _check_sizes(image, shown)
    if params.spots.hkl:
        on_page = _labelled(on_page, params.spots.max_labels)
    return image, shown, style or _style_of(params, animated), tuple(on_page)


def _labelled(spots: list[marks.Spots], most: int) -> list[marks.Spots]:
    """With labels, unless there are too many; the predicted spot has that of the found one."""
    predicted = {
        tuple(map(int, hkl)) for one in spots if one.kind == "predicted" for hkl in one.hkl
    }
    wanted = [
        np.array([
            hkl.any() and (one.kind == "predicted" or tuple(map(int, hkl)) not in predicted)
            for hkl in one.hkl
        ], bool)
        for one in spots
    ]  # fmt: skip
    if sum(map(np.sum, wanted)) > most:
        return spots
    return [replace(one, labelled=which) for one, which in zip(spots, wanted)]


def _hint(spots: list[marks.Spots]) -> str:
    if any(len(one.panel) for one in spots):
        return "those of the image lie on other panels, or outside zoom"
    return "the file has none on it; choose another, or give spots.margin_images"


def _check_sizes(image: pixels.Image, shown: page.Page) -> None:
    for number in shown.panels:
        size = tuple(reversed(shown.detector[number].get_image_size()))
        if number >= len(image.values) or image.values[number].shape != size:
            raise Sorry(
                f"the image's panel {number} is not of the {size[0]} x {size[1]} pixels that the "
                "detector model says: the experiment list is of other images"
            )


def _page_of(params: Any, detector: Any, beam: Any) -> page.Page:
    """Which panels are shown, and what of them."""
    panel = params.panel
    if panel is not None and panel >= len(detector):
        raise Sorry(f"panel={panel}: the detector has {len(detector)}, counted from 0")
    if params.zoom is None:
        return (
            page.Page.of(detector, beam) if panel is None else page.Page(detector, beam, (panel,))
        )
    if panel is None and len(detector) > 1:
        raise Sorry(f"zoom is of one of the {len(detector)} panels: give panel= too")
    n_fast, n_slow = detector[panel or 0].get_image_size()
    left, right, top, bottom = params.zoom
    if not (0 <= left <= right < n_fast and 0 <= top <= bottom < n_slow):
        raise Sorry(
            f"zoom={left},{right},{top},{bottom} is not within the panel's pixels: fast 0 to "
            f"{n_fast - 1}, slow 0 to {n_slow - 1}, first and last of each"
        )
    return page.Page(detector, beam, (panel or 0,), (left, right + 1, top, bottom + 1))


def _style_of(params: Any, animated: bool) -> picture.Style:
    given = (params.vmin, params.vmax)
    low, high = params.percentiles
    if low >= high and None in given:
        raise Sorry(f"percentiles={low:g},{high:g}: the first must be less than the second")
    rings = params.resolution_rings
    if rings is None or rings is Auto:
        rings = None if rings is Auto else ()
    elif not all(0 < d < float("inf") for d in rings):
        raise Sorry("resolution_rings must be above 0 Angstrom")
    size = params.size_px
    if size is Auto:
        size = SIZE_ANIMATED if animated else SIZE
    return picture.Style(
        pixels.Scale(params.contrast, *given, (low, high), params.colours),
        None if rings is None else tuple(rings),
        params.beam_centre,
        size,
        params.frame,
    )


def _spots_of(params: Any, series: Series, number: int, tables: list[Any]) -> list[marks.Spots]:
    """All spots that are asked for, on the images."""
    count, margin = params.sum_images, params.spots.margin_images
    show = word(params.spots.show)
    result = []
    for table in tables:
        result += view_spots.of_table(table, series, number, count, show, margin)
    if params.spots.predict:
        result.append(view_spots.predicted(series, number, count, margin))
    asked = {"hkl": params.spots.hkl, "show": show != "auto", "margin_images": margin}
    if not tables and not result and any(asked.values()):
        name = next(name for name, value in asked.items() if value)
        raise Sorry(f"spots.{name}: there are no spots; give a .refl file, or spots.predict=True")
    return result


def kept(style: picture.Style | None, drawn: tuple) -> picture.Style:
    """The style of what has been drawn, its scale's ends known, for the pictures after it."""
    if style is not None:
        return style
    image, shown, open_style, _ = drawn
    factor = picture.Layout.of(shown, open_style.size_px).factor
    scale = open_style.scale.fitted(picture.cut(image, shown), factor)
    return replace(open_style, scale=scale)


def counted(params: Any, drawn: tuple) -> str:
    """How many spots there are, and whether they are labelled."""
    spots = [one for one in drawn[3] if len(one.panel)]
    text = "".join(f", {len(one.panel)} {one.kind}" for one in spots)
    if params.spots.hkl and all(one.labelled is None for one in spots):
        text += "; too many to label: zoom in, or raise spots.max_labels"
    return text


def progress(frames: range) -> Iterable[int]:
    """The frames, with a bar on a terminal."""
    from tqdm import tqdm

    return tqdm(frames, unit="frame", disable=not sys.stderr.isatty())
