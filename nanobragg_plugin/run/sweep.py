"""One file of images: simulated in order and written as they come."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from nanobragg_plugin.format.nxmx_writer import NXmxWriter
from nanobragg_plugin.run.data_sets import DataSet
from nanobragg_plugin.run.truth import Truth

logger = logging.getLogger("dials.nanobragg_plugin.run.sweep")


def run_sweep(
    data_set: DataSet,
    path: Path,
    provenance: dict[str, Any],
    compression: str = "gzip",
    progress: Callable[[], None] = lambda: None,
    truth: Truth | None = None,
) -> list[np.ndarray]:
    """Simulate every image into the NXmx file `path`; the pixel values of the first one. truth:
    what counts the photons of its reflections too.

    The file appears only when it is whole: killed or failed, nothing is left under its name.
    """
    first, images, stills = None, data_set.images, data_set.stills
    rounded = images.detection.response.rounded
    with NXmxWriter(
        path,
        images.models,
        n_images=images.n_images,
        dtype="int32" if rounded else "float32",
        compression=compression,
        provenance=provenance,
        mask=images.good(),
        expected=not rounded,
        crystals=images.crystals,
        of_images=None if stills is None else map(stills.models, range(stills.count)),
        spectrum=images.spectrum() if stills is None or stills.one_spectrum else None,
    ) as writer:
        for index in range(images.n_images):
            expected = images.expected(index)
            values = images.values(index, expected)
            writer.write(index, values)
            if truth is not None:
                truth.add(index)
            if first is None:
                first = values
                brightest = max(float(image.max()) for image in expected)
                logger.info("Brightest pixel of the first image: %.4g photons expected", brightest)
            progress()
    return first
