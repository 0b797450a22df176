"""Models that processing found beside those that were simulated."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from libtbx.utils import Sorry

from nanobragg_plugin.adapters import dxtbx_versions
from nanobragg_plugin.adapters.compared_tables import sources_of
from nanobragg_plugin.compare.truth import CrystalComparison, compare_crystals


def pairs_of(true: Any, other: Any) -> tuple[list[tuple[int, int]], str]:
    """Which experiment of `true` belongs to which of `other`, and how that was seen.

    By identifier, else stills by their images, else in their order where there are as many, else
    each of the other's by the crystal that fits best. `Sorry` where nothing of this can be done.
    """
    names = [[e.identifier for e in side] for side in (true, other)]
    if all(names[1]) and set(names[1]) <= set(names[0]):
        return [(names[0].index(name), i) for i, name in enumerate(names[1])], "identifiers"
    places = [sources_of(side) for side in (true, other)]
    stills = all(number is not None and name[0] != "#" for side in places for name, number in side)
    if stills and set(places[1]) <= set(places[0]):
        same = [[i for i, there in enumerate(places[0]) if there == place] for place in places[1]]
        if sum(map(len, same)) == len(other):
            return [(at[0], i) for i, at in enumerate(same)], "images"
        return _by_crystals(true, other, same), "images and crystals"
    if len(true) == len(other):
        return [(i, i) for i in range(len(true))], "order"
    return _by_crystals(true, other, [range(len(true))] * len(other)), "crystals"


def _by_crystals(true: Any, other: Any, among: list[Any]) -> list[tuple[int, int]]:
    """Each of the other's experiments with that of the true ones `among` which it may be whose
    crystal has the same lattice and is turned least; those that have none are left out."""
    pairs = []
    for number, candidates in enumerate(among):
        angles = {}
        for at in candidates:
            result = crystal_or_reason(true[at].crystal, other[number].crystal)
            if isinstance(result, CrystalComparison):
                angles[at] = result.misorientation_deg
        if angles:
            pairs.append((min(angles, key=angles.get), number))
    if not pairs:
        raise Sorry(
            f"{len(true)} true experiments and {len(other)} others: neither identifiers nor "
            "images nor crystals say which belong together; give lists of the same length"
        )
    return pairs


def crystal_or_reason(true: Any, found: Any) -> CrystalComparison | str:
    """The comparison of two crystals, or why there is none."""
    if true is None or found is None:
        return f"the {'true' if true is None else 'other'} experiment has no crystal"
    try:
        return compare_crystals(true, found)
    except Sorry as error:
        return str(error)


def compare_models(true: Any, other: Any) -> dict:
    """Figures of one pair of dxtbx experiments. Angles in degrees, lengths in mm, other - true."""
    return {
        "crystal": _crystal(true, other),
        "beam": _beam(true.beam, other.beam),
        "detector": _detector(true, other),
        "goniometer": _goniometer(true.goniometer, other.goniometer),
        "scan": _scan(true.scan, other.scan),
    }


def _crystal(true: Any, other: Any) -> dict:
    result = crystal_or_reason(true.crystal, other.crystal)
    if isinstance(result, str):
        return {"reason": result}
    return {
        "cell_true": true.crystal.get_unit_cell().parameters(),
        "cell": result.cell,
        "cell_error_percent": result.cell_error_percent,
        "angle_error_deg": result.angle_error_deg,
        "misorientation_deg": result.misorientation_deg,
        "misorientation_along_scan_deg": _along_scan(true.crystal, other.crystal, result.reindex),
        "reindex": result.reindex,
        "space_groups": [
            str(one.crystal.get_space_group().info().symbol_and_number()) for one in (true, other)
        ],
    }


def _along_scan(true: Any, other: Any, reindex: np.ndarray) -> float | None:
    """The largest misorientation at any scan point, where a crystal varies along the scan."""
    count = max(true.num_scan_points, other.num_scan_points)
    if not count or any(c.num_scan_points not in (0, count) for c in (true, other)):
        return None
    angles = []
    for point in range(count):
        a_true, a_other = (
            np.array(c.get_A_at_scan_point(point) if c.num_scan_points else c.get_A()).reshape(3, 3)
            for c in (true, other)
        )
        angles.append(turn_deg(nearest_rotation(a_other @ reindex @ np.linalg.inv(a_true))))
    return max(angles)


def _beam(true: Any, other: Any) -> dict:
    return {
        "wavelength_true": true.get_wavelength(),
        "wavelength_error": other.get_wavelength() - true.get_wavelength(),
        "direction_error_deg": angle_deg(true.get_s0(), other.get_s0()),
        "polarization_fraction_error": other.get_polarization_fraction()
        - true.get_polarization_fraction(),
    }


def _detector(true: Any, other: Any) -> dict:
    """Distance and beam centre of the first panel, and each panel's shift and tilt."""
    sizes = [[p.get_image_size() for p in one.detector] for one in (true, other)]
    if sizes[0] != sizes[1]:
        return {
            "reason": f"the detectors differ: {_sizes(sizes[0])} in the truth, {_sizes(sizes[1])}"
            " in the other"
        }
    distance = other.detector[0].get_distance() - true.detector[0].get_distance()
    shifts, tilts, pixels = [], [], []
    for one, two in zip(true.detector, other.detector):
        shifts.append(np.array(two.get_origin()) - np.array(one.get_origin()))
        frames = [
            np.array((*p.get_fast_axis(), *p.get_slow_axis(), *p.get_normal())) for p in (one, two)
        ]
        frames = [frame.reshape(3, 3).T for frame in frames]
        tilts.append(turn_deg(frames[1] @ frames[0].T))
        pixels.append(np.abs(np.array(two.get_pixel_size()) - np.array(one.get_pixel_size())).max())
    lengths = np.linalg.norm(shifts, axis=1)
    return {
        "panels": len(true.detector),
        "distance_true_mm": true.detector[0].get_distance(),
        "distance_error_mm": distance,
        "beam_centre_error_px": beam_centre(other) - beam_centre(true),
        "origin_shift_mm": shifts,
        "tilt_deg": tilts,
        "largest_shift_mm": float(lengths.max()),
        "largest_tilt_deg": max(tilts),
        "pixel_size_error_mm": float(max(pixels)),
    }


def beam_centre(experiment: Any) -> np.ndarray:
    """Where the direct beam goes, (fast, slow) pixels in the plane of the first panel; NaN where
    it does not meet that."""
    try:
        s0 = experiment.beam.get_s0()
        return np.array(experiment.detector[0].get_beam_centre_px(s0))
    except RuntimeError:
        return np.full(2, np.nan)


def _sizes(sizes: list) -> str:
    panels = "panel" if len(sizes) == 1 else "panels"
    return f"{len(sizes)} {panels}, the first of {sizes[0][0]} x {sizes[0][1]} pixels"


def _goniometer(true: Any, other: Any) -> dict | None:
    if true is None and other is None:
        return None
    if true is None or other is None:
        return {"reason": f"the {'truth' if true is None else 'other'} has no goniometer"}
    fixed, setting = (
        turn_deg(np.array(two).reshape(3, 3) @ np.array(one).reshape(3, 3).T)
        for one, two in (
            (true.get_fixed_rotation(), other.get_fixed_rotation()),
            (true.get_setting_rotation(), other.get_setting_rotation()),
        )
    )
    return {
        "axis_error_deg": angle_deg(true.get_rotation_axis(), other.get_rotation_axis()),
        "fixed_rotation_error_deg": fixed,
        "setting_rotation_error_deg": setting,
    }


def _scan(true: Any, other: Any) -> dict | None:
    if true is None and other is None:
        return None
    if true is None or other is None:
        return {"reason": f"the {'truth' if true is None else 'other'} has no scan"}
    if not all(map(dxtbx_versions.has_oscillation, (true, other))):
        return {"reason": "a scan has no oscillation"}
    start, width = np.array(other.get_oscillation()) - np.array(true.get_oscillation())
    first = [scan.get_image_range()[0] for scan in (true, other)]
    # the angle at the start of the same image
    start -= (first[1] - first[0]) * true.get_oscillation()[1]
    return {
        "image_range_true": true.get_image_range(),
        "image_range": other.get_image_range(),
        "start_error_deg": start,
        "width_error_deg": width,
    }


def angle_deg(a: Any, b: Any) -> float:
    """Angle between two vectors; as exact for small ones as for large ones."""
    a, b = (np.array(v, float) / np.linalg.norm(v) for v in (a, b))
    return math.degrees(2 * math.atan2(np.linalg.norm(a - b), np.linalg.norm(a + b)))


def nearest_rotation(matrix: np.ndarray) -> np.ndarray:
    """The orthogonal matrix nearest to `matrix`."""
    left, _, right = np.linalg.svd(matrix)
    return left @ right


def turn_deg(rotation: np.ndarray) -> float:
    """Angle of a rotation matrix [3, 3], 0 to 180 degrees; as exact for small ones."""
    # |R - R^T| is sqrt(8) times the sine, the trace 1 + 2 cosine
    sine, cosine = (
        np.linalg.norm(rotation - rotation.T) / math.sqrt(8),
        (np.trace(rotation) - 1) / 2,
    )
    return math.degrees(math.atan2(sine, cosine))
