"""The tables of a full imgCIF file of one image, from dxtbx models.

imgCIF's laboratory is dxtbx's own (cif_img.dic, category AXIS), so vectors stand as they are.
The layout is the one that the stock classes of every dxtbx since 3.11 read alike: a panel is an
array whose two surface axes depend on each other (fast on slow), and slow, offset by the panel's
origin, on one axis that all panels share.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from nanobragg_plugin.format.image_files import exclusive_range, times_of_image
from nanobragg_plugin.format.nxmx_frames import RotationAxis, scan_axes

FRAME, SCAN, DIFFRN = "FRAME1", "SCAN1", "DIFFRN1"
DETECTOR, MEASUREMENT, WAVELENGTH = "DETECTOR1", "GONIOMETER1", "WAVELENGTH1"
#: The axis on which all panels depend; `equipment_component` makes it a group to dxtbx.
ROOT = "DETECTOR_ROOT"
SOURCE = "SOURCE"
PANEL = "PANEL_"

Rows = list[tuple]
#: A table: its category, its columns, its rows.
Table = tuple[str, tuple[str, ...], Rows]


def tables(experiment, index: int, number: int, compressions: list[str]) -> list[Table]:
    """All but the pixels of image ``index``, from 0; number: that the scan gives it; compressions:
    of the panels' pixels, as imgCIF calls them."""
    axes, start, width = scan_axes(experiment, index)
    axes = [_named(axis, i) for i, axis in enumerate(axes)]
    return [
        ("diffrn", ("id", "crystal_id"), [(DIFFRN, "simulated")]),
        ("diffrn_source", ("diffrn_id", "source", "type"), [(DIFFRN, "simulation", "nanobragg")]),
        *_beam(experiment.beam),
        *_goniometer(axes),
        *_scan(experiment.scan, index, number),
        *_settings(axes, start, width, experiment.detector),
        *_detector(experiment.detector),
        _axes(experiment, axes),
        *_arrays(experiment.detector, compressions),
    ]


def _named(axis: RotationAxis, place: int) -> RotationAxis:
    """An axis under a name that imgCIF can have (ASCII), and that is not one of ours."""
    ours = axis.name in (ROOT, SOURCE) or axis.name.startswith(PANEL)
    if axis.name.isascii() and axis.name.isprintable() and not ours:
        return axis
    return replace(axis, name=f"AXIS_{place}")


def polarization_angle(beam) -> float:
    """Degrees from y to the polarization normal, as dxtbx reads it: (sin, cos, 0) is the normal."""
    x, y, _ = beam.get_polarization_normal()
    return math.degrees(math.atan2(x, y))


def panel_name(number: int) -> str:
    """Of a panel's array; sorted by name they stay in the detector's order."""
    return f"{PANEL}{number:05d}"


def _beam(beam) -> list[Table]:
    row = [DIFFRN, WAVELENGTH, "x-ray", beam.get_polarization_fraction(), polarization_angle(beam)]
    # dxtbx takes this ratio, which imgCIF has as (Ip - In)/(Ip + In), for the fraction Ip
    columns = ["diffrn_id", "wavelength_id", "probe", "polarizn_source_ratio"]
    columns += ["polarizn_source_norm"]
    wavelengths = [(WAVELENGTH, beam.get_wavelength(), 1.0)]
    return [
        ("diffrn_radiation", tuple(columns), [tuple(row)]),
        ("diffrn_radiation_wavelength", ("id", "wavelength", "wt"), wavelengths),
    ]


def _goniometer(axes: list[RotationAxis]) -> list[Table]:
    if not axes:  # to dxtbx, who has this table has a goniometer
        return []
    columns = "diffrn_id", "id", "number_of_axes", "method"
    return [
        ("diffrn_measurement", columns, [(DIFFRN, MEASUREMENT, len(axes), "rotation")]),
        (
            "diffrn_measurement_axis",
            ("measurement_id", "axis_id"),
            [(MEASUREMENT, axis.name) for axis in axes],
        ),
    ]


def _scan(scan, index: int, number: int) -> list[Table]:
    exposure, moment = times_of_image(scan, index)
    frame = [(FRAME, number, exposure, SCAN, moment.isoformat(timespec="milliseconds"))]
    return [
        (
            "diffrn_scan",
            ("id", "frame_id_start", "frame_id_end", "frames"),
            [(SCAN, FRAME, FRAME, 1)],
        ),
        (
            "diffrn_scan_frame",
            ("frame_id", "frame_number", "integration_time", "scan_id", "date"),
            frame,
        ),
    ]


def _settings(axes: list[RotationAxis], start: float, width: float, detector) -> list[Table]:
    """Where the axes stand: those of a goniometer at angles, those of the detector at 0."""
    whole, one = [], []
    for axis in axes:
        angle, step = (start, width) if axis.scans else (axis.angle, 0.0)
        whole.append((SCAN, axis.name, angle, step, step, 0.0, 0.0, 0.0))
        one.append((FRAME, axis.name, angle, step, 0.0, 0.0))
    for name in [ROOT, *(axis for i in range(len(detector)) for axis in surface_axes(i))]:
        whole.append((SCAN, name, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0))
        one.append((FRAME, name, 0.0, 0.0, 0.0, 0.0))
    parts = "start", "range", "increment"
    moves = [f"{what}_{part}" for what in ("angle", "displacement") for part in parts]
    steps = "angle", "angle_increment", "displacement", "displacement_increment"
    return [
        ("diffrn_scan_axis", ("scan_id", "axis_id", *moves), whole),
        ("diffrn_scan_frame_axis", ("frame_id", "axis_id", *steps), one),
    ]


def surface_axes(panel: int) -> tuple[str, str]:
    """The names of a panel's fast and slow axis."""
    return f"{panel_name(panel)}_FAST", f"{panel_name(panel)}_SLOW"


def _detector(detector) -> list[Table]:
    columns = "diffrn_id", "id", "type", "number_of_axes"
    names = [panel_name(i) for i in range(len(detector))]
    return [
        ("diffrn_detector", columns, [(DIFFRN, DETECTOR, "nanobragg simulation", 1)]),
        ("diffrn_detector_axis", ("detector_id", "axis_id"), [(DETECTOR, ROOT)]),
        (
            "diffrn_detector_element",
            ("id", "detector_id"),
            [(f"ELEMENT_{name}", DETECTOR) for name in names],
        ),
        (
            "diffrn_data_frame",
            ("id", "detector_element_id", "array_id", "binary_id"),
            [(FRAME, f"ELEMENT_{name}", name, i + 1) for i, name in enumerate(names)],
        ),
    ]


def _axes(experiment, axes: list[RotationAxis]) -> Table:
    zero = (0.0, 0.0, 0.0)
    source = experiment.beam.get_sample_to_source_direction()
    rows = [(SOURCE, "general", "source", ".", *source, *zero, ".")]
    outer = "."
    for axis in reversed(axes):
        vector = axis.vector / np.linalg.norm(axis.vector)
        rows.append((axis.name, "rotation", "goniometer", outer, *vector, *zero, "goniometer"))
        outer = axis.name
    rows.append((ROOT, "translation", "detector", ".", 0.0, 0.0, 1.0, *zero, "detector"))
    for i, panel in enumerate(experiment.detector):
        fast, slow = surface_axes(i)
        name = panel_name(i)
        kind = "translation", "detector"
        rows.append((slow, *kind, ROOT, *panel.get_slow_axis(), *panel.get_origin(), name))
        rows.append((fast, *kind, slow, *panel.get_fast_axis(), *zero, name))
    vectors = [f"{what}[{i}]" for what in ("vector", "offset") for i in (1, 2, 3)]
    columns = "id", "type", "equipment", "depends_on", *vectors, "equipment_component"
    return "axis", columns, rows


def _arrays(detector, compressions: list[str]) -> list[Table]:
    """How the pixels of a panel lie, and what their values mean."""
    lists, steps, kinds, intensities = [], [], [], []
    for i, panel in enumerate(detector):
        name = panel_name(i)
        for axis, way in enumerate(surface_axes(i)):
            lists.append(
                (name, axis + 1, panel.get_image_size()[axis], axis + 1, "increasing", way)
            )
            steps.append((way, way, 0.0, panel.get_pixel_size()[axis]))
        kinds.append((name, "signed 32-bit integer", compressions[i], "little_endian"))
        low, high = exclusive_range(panel)
        intensities.append((name, i + 1, "linear", panel.get_gain(), 0.0, high, low))
    values = "gain", "gain_esd", "overload", "undefined_value"
    list_columns = "array_id", "index", "dimension", "precedence", "direction", "axis_set_id"
    return [
        ("array_structure_list", list_columns, lists),
        (
            "array_structure_list_axis",
            ("axis_set_id", "axis_id", "displacement", "displacement_increment"),
            steps,
        ),
        (
            "array_structure",
            ("id", "encoding_type", "compression_type", "byte_order"),
            kinds,
        ),
        ("array_intensities", ("array_id", "binary_id", "linearity", *values), intensities),
    ]
