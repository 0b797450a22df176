"""One file of images, or one for each: simulated in order and written as they come."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from nanobragg_plugin.run.data_sets import DataSet
from nanobragg_plugin.run.maps import Maps
from nanobragg_plugin.run.truth import Truth
from nanobragg_plugin.run.writers import NXMX, Form, open_writer

logger = logging.getLogger("dials.nanobragg_plugin.run.sweep")


def run_sweep(
    data_set: DataSet,
    path: Path,
    provenance: dict[str, Any],
    form: Form = NXMX,
    progress: Callable[[], None] = lambda: None,
    truth: Truth | None = None,
) -> list[np.ndarray]:
    """Simulate every image into `path`, as `Outputs.images` has it; the pixels of the first one.
    truth: what counts the photons of its reflections too.

    A file appears only when it is whole: killed or failed, nothing is left under its name.
    """
    first, images = None, data_set.images
    maps = Maps(images) if form.maps else None
    names = maps.names if maps else ()
    with open_writer(form, path, data_set, provenance, names) as writer:
        for index in range(images.n_images):
            expected = images.expected(index)
            values = images.values(index, expected)
            kept = [image.cpu().numpy() for image in expected] if form.expected else None
            writer.write(index, values, kept, maps.of(index) if maps else None)
            if truth is not None:
                truth.add(index)
            if first is None:
                first = values
                brightest = max(float(image.max()) for image in expected)
                logger.info("Brightest pixel of the first image: %.4g photons expected", brightest)
            progress()
    return first
