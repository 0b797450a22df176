"""What an experiment must have before it can be simulated: `Sorry`, in one sentence, if not."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from libtbx.utils import Sorry
from torch import Tensor

#: How far dxtbx lets fast . slow be from 0 (virtual_panel.h), with room for files in which
#: directions were rounded.
ORTHOGONAL_TOLERANCE = 1e-6

#: How far S and F may be from rotations: far above the rounding of any file.
ROTATION_TOLERANCE = 1e-4


def one_line(error: BaseException) -> str:
    """What an error says, as one line that a terminal shows as it is; the name of its kind if it
    says nothing."""
    words = " ".join(str(error).split())
    shown = "".join(c if c.isprintable() else "?" for c in words)
    return shown or type(error).__name__


def finite(values: float | Iterable[float], what: str) -> Tensor:
    """Numbers of a dxtbx model as float64 [n] (or [] of one); `Sorry` if any is NaN or infinite.

    `what` says what they are, for the message ("the origin of panel 'p3'").
    """
    numbers = float(values) if isinstance(values, (int, float)) else [float(x) for x in values]
    tensor = torch.tensor(numbers, dtype=torch.float64)
    if not bool(torch.isfinite(tensor).all()):
        raise Sorry(f"{what} is {numbers}: every number must be finite; mend the experiment file")
    return tensor


def positive(values: float | Iterable[float], what: str) -> Tensor:
    """As `finite`; `Sorry` unless all are above 0."""
    tensor = finite(values, what)
    if not bool((tensor > 0).all()):
        raise Sorry(f"{what} is {tensor.tolist()}: it must be positive; mend the experiment file")
    return tensor


def not_negative(values: float | Iterable[float], what: str) -> Tensor:
    """As `finite`; `Sorry` if any is below 0."""
    tensor = finite(values, what)
    if not bool((tensor >= 0).all()):
        raise Sorry(
            f"{what} is {tensor.tolist()}: it must not be negative; mend the experiment file"
        )
    return tensor


def rotation_matrix(elements: Sequence[float], what: str) -> Tensor:
    """[3, 3] of nine numbers, rows first; `Sorry` unless it is a proper rotation."""
    matrix = finite(elements, what).reshape(3, 3)
    error = (matrix @ matrix.T - torch.eye(3, dtype=torch.float64)).abs().max()
    if error > ROTATION_TOLERANCE or torch.linalg.det(matrix) < 0:
        raise Sorry(f"{what} is {matrix.tolist()}, not a rotation; mend the experiment file")
    return matrix


def orthogonal_axes(fast: Tensor, slow: Tensor, what: str) -> None:
    """`Sorry` unless fast [3] and slow [3] are unit vectors at right angles."""
    for axis in (fast, slow):
        if abs(float(torch.linalg.vector_norm(axis)) - 1) > ORTHOGONAL_TOLERANCE:
            raise Sorry(f"{what} has an axis {axis.tolist()} that is not a unit vector")
    cosine = float(fast @ slow)
    if abs(cosine) > ORTHOGONAL_TOLERANCE:
        angle = math.degrees(math.acos(cosine))
        raise Sorry(
            f"the fast and slow axes of {what} are {angle:.5f} degrees apart: only rectangular "
            "pixels can be simulated; make the axes orthogonal"
        )


def is_rotation(scan: object | None) -> bool:
    """Whether a dxtbx scan turns the crystal during an image."""
    return scan is not None and has_oscillation(scan) and not scan.is_still()


def has_oscillation(scan: object) -> bool:
    """Whether a dxtbx scan has an oscillation: since dxtbx 3.17 a scan is a table of properties,
    and one of stills or times of flight need not."""
    return not hasattr(scan, "has_property") or scan.has_property("oscillation")


#: What gives an experiment a model that its list lacks.
HOW_TO_GIVE = {
    "detector": "geometry.detector.panel.image_size, pixel_size, trusted_range and origin",
    "beam": "geometry.beam.wavelength and direction",
    "crystal": "geometry.crystal.unit_cell",
    "goniometer": "geometry.goniometer.axis",
}


def check_experiment(experiment: object) -> None:
    """`Sorry` unless a dxtbx experiment has all its models and they agree in length.

    A rotation needs a goniometer; each scan-varying model one value more than there are images
    (dials.predict quietly takes such a model for a static one).
    """
    needed = ["detector", "beam", "crystal"]
    if is_rotation(experiment.scan):
        needed.append("goniometer")
    missing = [name for name in needed if getattr(experiment, name) is None]
    if missing:
        raise Sorry(
            f"the experiment has no {' and no '.join(missing)}: give an experiment list that has, "
            f"or {'; '.join(HOW_TO_GIVE[name] for name in missing)}"
        )
    sizes = [panel.get_image_size() for panel in experiment.detector]
    if not sizes or min(map(min, sizes)) < 1:
        raise Sorry(f"the detector has panels of {sizes[:5]} pixels: there is nothing to simulate")
    scan = experiment.scan
    images = 1 if scan is None else scan.get_num_images()
    for name in ("crystal", "beam", "goniometer"):
        model = getattr(experiment, name)
        points = 0 if model is None else scan_points(model)
        if points not in (0, images + 1):
            raise Sorry(
                f"the scan-varying {name} has values at {points} scan points, but the scan has "
                f"{images} images, which need {images + 1}: slice the experiment with "
                "dials.slice_sequence, which keeps them together"
            )


def scan_points(model: object) -> int:
    """Number of scan points of a dxtbx crystal, beam or goniometer; 0 of a static model."""
    try:
        return int(model.num_scan_points)
    except RuntimeError:  # a PolychromaticBeam raises
        return 0
