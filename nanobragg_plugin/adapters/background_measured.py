"""Background as it was measured, a radial profile or an image: PHIL to `background.Measured`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from dxtbx.model.experiment_list import ExperimentListFactory
from libtbx.utils import Sorry

from nanobragg_plugin import curve
from nanobragg_plugin.adapters import checks
from nanobragg_plugin.adapters.background_phil import read_table
from nanobragg_plugin.adapters.strangers import refuse_pickles
from nanobragg_plugin.background import Measured

MEND = "give an image that dxtbx reads, or an .npy of numbers [slow, fast] or [panel, slow, fast]"


def measured_of(params: Any, detector: Any, device: torch.device) -> Measured:
    """Of the scope `background`; `Sorry` where a file is none or does not fit the detector."""
    for name in ("profile", "image"):
        scale = getattr(params, f"{name}_scale")
        if scale != 1 and getattr(params, f"{name}_file") is None:
            raise Sorry(
                f"background.{name}_scale={scale:g} does nothing without background.{name}_file"
            )
    profile, images = None, None
    if params.profile_file is not None:
        what = "photons per steradian"
        stol, photons = read_table(params.profile_file, "background.profile_file", what)
        values = (torch.as_tensor(x, device=device) for x in (stol, photons * params.profile_scale))
        profile = curve.linear(*values)
    if params.image_file is not None:
        shapes = [tuple(reversed(panel.get_image_size())) for panel in detector]
        arrays = _fitting(params.image_file, shapes)
        images = tuple(torch.as_tensor(a * params.image_scale, device=device) for a in arrays)
    return Measured(profile, images)


def _fitting(name: str, shapes: list[tuple[int, int]]) -> list[np.ndarray]:
    """Photons [slow, fast] of every panel, none negative; `Sorry` unless they are of `shapes`."""
    path = f"background.image_file={name}"
    if not Path(name).is_file():
        raise Sorry(f"{path}: there is no such file")
    arrays = _of_numpy(name, path) if name.endswith(".npy") else _of_dxtbx(name, path)
    if [array.shape for array in arrays] != shapes:
        theirs, ours = (
            ", ".join(sorted({f"{s} x {f}" for s, f in of}))
            for of in ([array.shape for array in arrays], shapes)
        )
        raise Sorry(
            f"{path} has {len(arrays)} panels of {theirs} pixels (slow x fast), the detector "
            f"{len(shapes)} of {ours}: give an image of this detector"
        )
    for array in arrays:
        if not np.isfinite(array).all():
            raise Sorry(f"{path} has pixels that are no finite number: set them to 0")
    return [array.clip(min=0) for array in arrays]


def _of_numpy(name: str, path: str) -> list[np.ndarray]:
    try:
        array = np.load(name, allow_pickle=False)
        numbers = isinstance(array, np.ndarray) and array.dtype.kind in "iuf"
    except (ValueError, OSError, EOFError, MemoryError) as error:
        raise Sorry(f"{path} cannot be read ({checks.one_line(error)}): {MEND}") from None
    if not numbers or array.ndim not in (2, 3):
        raise Sorry(f"{path} is no image: {MEND}")
    return [one.astype(float) for one in (array if array.ndim == 3 else array[None])]


def _of_dxtbx(name: str, path: str) -> list[np.ndarray]:
    """The first image, in photons; 0 where its mask leaves it out."""
    refuse_pickles([name])
    try:
        imageset = ExperimentListFactory.from_filenames([name])[0].imageset
        photons, good = imageset.get_corrected_data(0), imageset.get_mask(0)
    # whatever a format class makes of a file that is not quite its own
    except Exception as error:
        reason = checks.one_line(error)[:200]
        raise Sorry(f"{path} is no image that dxtbx can read ({reason}): {MEND}") from None
    pairs = zip(photons, good)
    return [np.where(m.as_numpy_array(), p.as_numpy_array(), 0.0) for p, m in pairs]
