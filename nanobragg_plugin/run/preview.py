"""The picture of an image that a simulation makes beside its files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nanobragg_plugin.run import picture
from nanobragg_plugin.run.page import Page
from nanobragg_plugin.run.pixels import Image


def write_preview(
    path: str | Path, images: Sequence[np.ndarray], detector: Any, beam: Any, title: str = ""
) -> None:
    """Write a PNG of one image, an array [slow, fast] a panel, on a logarithmic scale, with beam
    centre and resolution rings."""
    picture.write_picture(
        path, Image(images, title=title), Page.of(detector, beam), picture.Style()
    )
