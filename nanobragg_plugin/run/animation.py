"""A GIF of the pictures of a scan."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from nanobragg_plugin.run import marks, picture, pixels
from nanobragg_plugin.run.outputs import whole

#: Colours of the map, and greys, in the palette of all frames.
MAP_COLOURS, GREYS = 200, 24


def write_animation(
    path: str | Path, figures: Iterable[Any], frame_s: float, scale: pixels.Scale
) -> int:
    """Write matplotlib figures, one at a time in memory, as frames of a GIF which repeats; their
    number. All frames share a palette, so that nothing flickers, and are kept as one byte a dot
    until the end."""
    from matplotlib.animation import PillowWriter

    class Writer(PillowWriter):
        """One that keeps frames small."""

        def grab_frame(self, **kwargs: Any) -> None:
            super().grab_frame(**kwargs)
            self._frames[-1] = with_palette(self._frames[-1], colours)

    colours = palette(scale)
    writer, count = Writer(fps=1 / frame_s), 0
    with whole(path) as temporary:
        # the writer knows a GIF by its name
        named = temporary.with_name(f"{temporary.name}.gif")
        try:
            for figure in figures:
                if count == 0:
                    writer.setup(figure, str(named), dpi=picture.DPI)
                writer.fig = figure
                writer.grab_frame()
                count += 1
            writer.finish()
            named.replace(temporary)
        finally:
            named.unlink(missing_ok=True)
    return count


def with_palette(image: Any, colours: Any) -> Any:
    """An image of PIL in the nearest colours of the palette of another."""
    from PIL import Image

    pixels_rgb = np.asarray(image.convert("RGB")).astype(np.int64)
    known, which = np.unique(pixels_rgb @ (65536, 256, 1), return_inverse=True)
    rgb = np.stack([known >> 16, known >> 8 & 255, known & 255], axis=-1)
    entries = np.array(colours.getpalette()).reshape(-1, 3)
    nearest = [np.argmin(((entries - one) ** 2).sum(1)) for one in rgb]
    numbers = np.array(nearest, np.uint8)[which].reshape(pixels_rgb.shape[:2])
    result = Image.fromarray(numbers, mode="P")
    result.putpalette(colours.getpalette())
    return result


def palette(scale: pixels.Scale) -> Any:
    """An image of PIL with the colours of a picture: those of its map, greys, lines and marks."""
    from matplotlib.colors import to_rgb
    from PIL import Image

    colours = [*scale.colour_map()(np.linspace(0, 1, MAP_COLOURS))[:, :3]]
    colours += [np.full(3, grey) for grey in np.linspace(0, 1, GREYS)]
    paper = scale.paper
    named = [pixels.MASKED[paper], pixels.OVERLOAD, picture.CENTRE[paper], picture.LINES[paper][0]]
    named += [one[2][paper] for one in marks.KINDS.values()]
    ground = np.full(3, 1.0 if paper else 0.0)
    for name in named:  # and lighter, as lines are at their edges
        colours += [(1 - part) * np.array(to_rgb(name)) + part * ground for part in (0, 0.3, 0.6)]
    result = Image.new("P", (1, 1))
    result.putpalette([int(round(255 * level)) for colour in colours for level in colour])
    return result
