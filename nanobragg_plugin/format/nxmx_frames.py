"""The frame of an NXmx file: one rotation of the laboratory, and a goniometer as NeXus axes.

Stock NXmx readers know one beam: along +z of McStas, polarized about +y. So a file is written
as if the whole laboratory had been turned until its beam lies there. Everything below is in
dxtbx's (imgCIF's) frame unless it says McStas.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from dxtbx.model import MultiAxisGoniometer
from scipy.spatial.transform import Rotation

from nanobragg_plugin.adapters import dxtbx_versions

# imgCIF (dxtbx) to McStas (NeXus): x and z change sign; it is its own inverse.
# https://manual.nexusformat.org/design.html#the-nexus-coordinate-system
IMGCIF_TO_MCSTAS = np.diag([-1.0, 1.0, -1.0])

# Two rotations closer than this (largest element) are the same to any reader in float64.
SAME_ROTATION = 1e-12


@dataclass(frozen=True)
class RotationAxis:
    """One axis of a goniometer: a unit vector of the laboratory and its angle in degrees.

    ``scans`` marks the axis that turns during the scan, whose angle is the scan's.
    """

    name: str
    vector: np.ndarray
    angle: float = 0.0
    scans: bool = False


def mean_sample_to_source(beam) -> np.ndarray:
    """The unit vector from sample to source, the mean over the beam's scan points if it has any."""
    if beam.num_scan_points > 0:
        s0 = np.array([tuple(v) for v in beam.get_s0_at_scan_points()])
        direction = -s0.mean(axis=0)
    else:
        direction = np.array(beam.get_sample_to_source_direction())
    return direction / np.linalg.norm(direction)


def lab_rotation(beam) -> np.ndarray:
    """The rotation ``[3, 3]`` of the laboratory into the frame of the file.

    It takes the mean direction to the source to (0, 0, 1). What it turns about the beam is free,
    and is used to bring the polarization normal to (0, 1, 0), where stock readers take it to be.
    """
    z = mean_sample_to_source(beam)
    # a normal along the beam says nothing: then any other direction does
    for normal in (beam.get_polarization_normal(), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0)):
        across = np.array(normal) - np.dot(normal, z) * z
        if np.linalg.norm(across) > 1e-3 * np.linalg.norm(normal):
            break
    y = across / np.linalg.norm(across)
    return np.array([np.cross(y, z), y, z])


def goniometer_axes(goniometer, num_images: int) -> list[RotationAxis]:
    """The axes of a goniometer, the one next to the crystal first, as NeXus chains them.

    A single-axis goniometer whose fixed rotation F or setting rotation S is not the identity
    becomes a chain F, scan, S: R = S Rot(e) F as dxtbx has it. For a single image stock readers
    cannot tell which axis of a chain turns, so S and F are folded: Rot(S e), the same axis in the
    laboratory, for a crystal that is turned by S F. A scan-varying S is taken at its static value.
    """
    setting = np.array(goniometer.get_setting_rotation()).reshape(3, 3)
    fixed = np.array(goniometer.get_fixed_rotation()).reshape(3, 3)
    datum = np.array(goniometer.get_rotation_axis_datum())
    if num_images < 2:
        return [RotationAxis("omega", setting @ datum, scans=True)]
    if isinstance(goniometer, MultiAxisGoniometer):
        axes = _named_axes(goniometer)
        scan_axis = goniometer.get_scan_axis()
        if _same(_product(axes[:scan_axis]), fixed) and _same(
            _product(axes[scan_axis + 1 :]), setting
        ):
            return axes
    chain = [RotationAxis("omega", datum, scans=True)]
    if not _same(fixed, np.eye(3)):
        chain.insert(0, _axis_of("fixed_rotation", fixed))
    if not _same(setting, np.eye(3)):
        chain.append(_axis_of("setting_rotation", setting))
    return chain


def scan_axes(experiment, index: int) -> tuple[list[RotationAxis], float, float]:
    """The goniometer's axes, the one next to the crystal first, and the scan's start and width of
    image ``index``, degrees; no axes of an image that does not turn."""
    scan, goniometer = experiment.scan, experiment.goniometer
    if goniometer is None or not dxtbx_versions.is_rotation(scan):
        return [], 0.0, 0.0
    start, width = scan.get_oscillation(deg=True)
    return goniometer_axes(goniometer, 2), start + index * width, width


def _named_axes(goniometer) -> list[RotationAxis]:
    """The axes of a multi-axis goniometer, under its own names where HDF5 can hold them."""
    names = [name.replace("/", "_").strip(". ") for name in goniometer.get_names()]
    taken = names + [f"{name}_end" for name in names]
    if not all(names) or len(set(taken)) < len(taken):
        names = [f"axis_{i}" for i in range(len(names))]
    return [
        RotationAxis(name, np.array(vector), angle, i == goniometer.get_scan_axis())
        for i, (name, vector, angle) in enumerate(
            zip(names, goniometer.get_axes(), goniometer.get_angles())
        )
    ]


def _product(axes: list[RotationAxis]) -> np.ndarray:
    """The rotation of a chain of axes, the first of them next to the crystal."""
    product = np.eye(3)
    for axis in axes:
        unit = axis.vector / np.linalg.norm(axis.vector)
        product = Rotation.from_rotvec(np.radians(axis.angle) * unit).as_matrix() @ product
    return product


def _axis_of(name: str, matrix: np.ndarray) -> RotationAxis:
    """A rotation that does not move, as an axis and its angle."""
    vector = Rotation.from_matrix(matrix).as_rotvec()
    angle = np.linalg.norm(vector)
    return RotationAxis(name, vector / angle, float(np.degrees(angle)))


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(np.abs(a - b).max() < SAME_ROTATION)
