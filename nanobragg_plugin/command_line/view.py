"""Make pictures of diffraction images: PNG, or an animated GIF of a scan.

Images are whatever DIALS reads: NXmx, CBF, ... files, templates, or an experiment list that names
them. Reflection files give marks of spots.

Examples::

  nanobragg.view simulated.expt

  nanobragg.view imported.expt strong.refl image=7 contrast=sqrt colours=magma_r

  nanobragg.view indexed.expt indexed.refl zoom=400,520,300,400 spots.hkl=True output=zoom.png

  nanobragg.view simulated.nxs animation=scan.gif sum_images=5
"""

from __future__ import annotations

import nanobragg_plugin  # noqa: F401  isort: skip  before dxtbx: torch keeps its threads

import sys
from collections.abc import Iterator
from typing import Any

from dials.util import show_mail_handle_errors
from libtbx.phil import parse

from nanobragg_plugin import phil as phil_files
from nanobragg_plugin.run import animation, messages, picture, view, view_images, view_spots

phil_scope = parse(phil_files.read("view"))
USAGE = "nanobragg.view IMAGES|models.expt [spots.refl] [parameters.phil] [name=value ...]"


@show_mail_handle_errors()
def run(args: list[str] | None = None) -> None:
    """The command."""
    with messages.clear(), messages.stoppable():
        _run(sys.argv[1:] if args is None else list(args))


def _run(args: list[str]) -> None:
    params, names, tables = view.parse_command(args, phil_scope, USAGE, __doc__)
    tables = [view_spots.read_table(name) for name in tables]
    series = view_images.Series.of(view_images.load(names.images), params.imageset)
    pictures, frames = view.pictures_of(params, series), view.frames_of(params, series)
    view.check_outputs([*pictures.values(), *([params.animation] if frames else [])], names)
    style = None
    for number, path in pictures.items():
        drawn = view.drawn(params, series, number, tables, style)
        picture.write_picture(path, *drawn)
        style = view.kept(style, drawn)
        print(f"Wrote {path}: {drawn[0].title}{view.counted(params, drawn)}")
    if frames:
        _animate(params, series, frames, tables)


def _animate(params: Any, series: Any, frames: range, tables: list[Any]) -> None:
    """Write the GIF."""
    first = view.drawn(params, series, frames[0], tables, animated=True)
    style = view.kept(None, first)

    def figures() -> Iterator[Any]:
        for number in view.progress(frames):
            yield picture.figure_of(*view.drawn(params, series, number, tables, style, True))

    count = animation.write_animation(
        params.animation, figures(), params.animation_frame_s, style.scale
    )
    print(f"Wrote {params.animation}: {count} frames, images {frames[0]} to {frames[-1]}")


if __name__ == "__main__":
    run()
