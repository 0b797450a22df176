"""The true reflections of simulated images as a DIALS reflection table.

Positions are DIALS's own predictions; photons and centroids are of the expected image.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from dials.algorithms.spot_prediction import StillsReflectionPredictor
from dials.array_family import flex
from dxtbx.imageset import ImageSetFactory

from nanobragg_plugin.adapters import truth_factors
from nanobragg_plugin.adapters.params import Plan

#: Degrees beyond the scan in which reflections are predicted whose tails it may hold.
PADDING = 1.5
#: Photons that a reflection of a still must have: nothing else bounds their number.
LEAST_PHOTONS = 0.01
#: Pixels by which a centroid on another panel is taken to be off its prediction.
OTHER_PANEL = 30.0
#: The same of an image.
PIXELS_OF_IMAGE = 10.0


@dataclass(frozen=True)
class Seen:
    """Photons of reflections image by image, a row for each reflection, image and panel: hkl [n,
    3]; image [n], from 0; panel [n]; photons, fast, slow [n]: sum and centroid, pixels."""

    hkl: np.ndarray
    image: np.ndarray
    panel: np.ndarray
    photons: np.ndarray
    fast: np.ndarray
    slow: np.ndarray


def of_rotation(plan: Plan, seen: Seen) -> Any:
    """The table of a crystal that turns.

    All that cross the Ewald sphere during the scan and hit a panel are in it, those beyond its ends
    that have photons in it, and those that have LEAST_PHOTONS though they are not predicted: in the
    blind region, on the edge of a panel. These are not flagged as predicted; their positions are
    their centroids.
    """
    experiment = _with_sequence(plan.dxtbx_experiment)
    table = flex.reflection_table.from_predictions(experiment, dmin=_d_min(plan), padding=PADDING)
    first, last = experiment.scan.get_array_range()
    xyz, panels = _predicted(table)
    row = _nearest(_codes(table), xyz, panels, seen, first)
    others, row = _not_predicted(plan, seen, row, len(table), first)
    table.set_flags(flex.bool(len(table), True), table.flags.predicted)
    n_predicted = len(table)
    table.extend(others)
    sums = _sums(len(table), row, seen, first)
    keep = sums[:, 0] > 0
    keep[:n_predicted] |= (xyz[:, 2] >= first) & (xyz[:, 2] < last)
    keep[n_predicted:] &= sums[n_predicted:, 0] >= LEAST_PHOTONS
    table = table.select(flex.bool(keep))
    z = np.where(sums[keep, 0] > 0, sums[keep, 3], table["xyzcal.px"].as_numpy_array()[:, 2])
    _fill(table, plan, sums[keep], np.floor(z - first))
    return table


def _not_predicted(
    plan: Plan, seen: Seen, row: np.ndarray, first_row: int, first: int
) -> tuple[Any, np.ndarray]:
    """A table of what has photons and no prediction, and the rows of all of `seen`."""
    lost = row < 0
    unique, number = np.unique(seen.hkl[lost], axis=0, return_inverse=True)
    row = row.copy()
    row[lost] = first_row + number.ravel()
    sums = _sums(first_row + len(unique), row, seen, first)[first_row:]
    detector, beam = plan.dxtbx_experiment.detector, plan.dxtbx_experiment.beam
    table = _table(unique, sums[:, 4])
    mm, s1 = [], []
    width = plan.dxtbx_experiment.scan.get_oscillation(deg=False)[1]
    start = plan.dxtbx_experiment.scan.get_angle_from_array_index(0, deg=False)
    for panel, (x, y, z) in zip(sums[:, 4].astype(int), sums[:, 1:4]):
        model = detector[int(panel)]
        ray = np.array(model.get_pixel_lab_coord((x, y)))
        s1.append(tuple(ray / np.linalg.norm(ray) / beam.get_wavelength()))
        mm.append((*model.pixel_to_millimeter((x, y)), start + z * width))
    table["s1"], table["xyzcal.mm"] = flex.vec3_double(s1), flex.vec3_double(mm)
    table["xyzcal.px"] = flex.vec3_double(np.ascontiguousarray(sums[:, 1:4]))
    return table, row


def _table(hkl: np.ndarray, panel: np.ndarray) -> Any:
    """A table of these reflections."""
    table = flex.reflection_table()
    table["miller_index"] = flex.miller_index([tuple(map(int, one)) for one in hkl])
    table["panel"] = flex.size_t(panel.astype(int).tolist())
    table["id"] = flex.int(len(hkl), 0)
    table["entering"] = flex.bool(len(hkl), False)
    table["flags"] = flex.size_t(len(hkl), 0)
    return table


def of_still(plan: Plan, seen: Seen) -> Any:
    """The table of a still: all reflections that have LEAST_PHOTONS photons."""
    # photons of a reflection on a second panel, or of another part, are of the same spot
    unique, row = np.unique(seen.hkl, axis=0, return_inverse=True)
    sums = _sums(len(unique), row.ravel(), seen, 0)
    kept = sums[:, 0] >= LEAST_PHOTONS
    unique, sums = unique[kept], sums[kept]
    table, experiment = _table(unique, sums[:, 4]), plan.dxtbx_experiment
    for name in ("xyzcal.px", "xyzcal.mm", "s1"):
        table[name] = flex.vec3_double(len(unique))
    table["delpsical.rad"] = flex.double(len(unique))
    if len(unique):
        StillsReflectionPredictor(experiment, dmin=_d_min(plan)).for_reflection_table(
            table, experiment.crystal.get_A()
        )
    table.set_flags(flex.bool(len(table), True), table.flags.predicted)
    _fill(table, plan, sums, np.floor(sums[:, 3]))
    return table


def _with_sequence(experiment: Any) -> Any:
    """The experiment with an image set of files that need not exist: DIALS goes by its kind."""
    result = copy.copy(experiment)
    first, last = experiment.scan.get_image_range()
    result.imageset = ImageSetFactory.make_sequence(
        "image_######.cbf",
        list(range(first, last + 1)),
        beam=experiment.beam,
        detector=experiment.detector,
        goniometer=experiment.goniometer,
        scan=copy.deepcopy(experiment.scan),  # which gets another batch offset
        check_format=False,
    )
    return result


def _d_min(plan: Plan) -> float:
    """Angstrom, of the farthest corner; no further than the beam's wavelength reaches."""
    wavelength = plan.dxtbx_experiment.beam.get_wavelength()
    return max(0.999 / truth_factors.q_max(plan), 0.5001 * wavelength)


def _predicted(table: Any) -> tuple[np.ndarray, np.ndarray]:
    return table["xyzcal.px"].as_numpy_array(), table["panel"].as_numpy_array()


def _codes(table: Any) -> np.ndarray:
    return _code(table["miller_index"].as_vec3_double().as_numpy_array().astype(np.int64))


def _code(hkl: np.ndarray) -> np.ndarray:
    """One number for each hkl [n, 3]."""
    shifted = hkl.astype(np.int64) + (1 << 20)
    return (shifted[:, 0] << 42) | (shifted[:, 1] << 21) | shifted[:, 2]


def _nearest(
    codes: np.ndarray, xyz: np.ndarray, panels: np.ndarray, seen: Seen, first: int
) -> np.ndarray:
    """Row of the prediction that each row of `seen` belongs to, of those of its hkl the nearest; -1
    where there is none."""
    order = np.argsort(codes, kind="stable")
    code = _code(seen.hkl)
    begin = np.searchsorted(codes[order], code, "left")
    count = np.searchsorted(codes[order], code, "right") - begin
    best, row = np.full(len(code), np.inf), np.full(len(code), -1)
    for k in range(int(count.max(initial=0))):
        some = np.flatnonzero(count > k)
        candidate = order[begin[some] + k]
        dx = seen.fast[some] - xyz[candidate, 0]
        dy = seen.slow[some] - xyz[candidate, 1]
        dz = (seen.image[some] + 0.5 + first - xyz[candidate, 2]) * PIXELS_OF_IMAGE
        apart = np.where(seen.panel[some] == panels[candidate], np.hypot(dx, dy), OTHER_PANEL)
        cost = np.hypot(apart, dz)
        better = cost < best[some]
        best[some[better]], row[some[better]] = cost[better], candidate[better]
    return row


def _sums(number: int, row: np.ndarray, seen: Seen, first: int) -> np.ndarray:
    """[number, 5]: photons; mean fast, slow (of the panel with most photons), mean image; panel."""
    result = np.zeros((number, 5))
    known = row >= 0
    row, photons = row[known], seen.photons[known]
    result[:, 0] = np.bincount(row, photons, number)
    images = np.bincount(row, photons * (seen.image[known] + 0.5 + first), number)
    # the centroid is of one panel: that which has most of the photons
    pair, which = np.unique(np.stack([row, seen.panel[known]]), axis=1, return_inverse=True)
    sums = [
        np.bincount(which.ravel(), photons * value, pair.shape[1])
        for value in (1.0, seen.fast[known], seen.slow[known])
    ]
    order = np.argsort(sums[0], kind="stable")  # the most photons come last, and stay
    owner = pair[0, order]
    some = sums[0][order] > 0
    for column, values in ((1, sums[1]), (2, sums[2])):
        result[owner[some], column] = (values[order] / np.maximum(sums[0][order], 1e-300))[some]
    result[owner[some], 4] = pair[1, order][some]
    lit = result[:, 0] > 0
    result[lit, 3] = images[lit] / result[lit, 0]
    return result


def _fill(table: Any, plan: Plan, sums: np.ndarray, image: np.ndarray) -> None:
    """The columns of a table of predictions; sums as `_sums` has them; image: the number of each
    one's, from 0."""
    lit = sums[:, 0] > 0
    centroid = np.where(lit[:, None], sums[:, 1:4], table["xyzcal.px"].as_numpy_array())
    table["xyzobs.px.value"] = flex.vec3_double(np.ascontiguousarray(centroid))
    # an expected image has no error; what counting such a spot would leave, at least
    variance = np.repeat((1 / 12 / np.maximum(sums[:, :1], 1.0)), 3, axis=1)
    table["xyzobs.px.variance"] = flex.vec3_double(np.ascontiguousarray(variance))
    table["intensity.sum.value"] = flex.double(np.ascontiguousarray(sums[:, 0]))
    table["intensity.sum.variance"] = flex.double(np.ascontiguousarray(sums[:, 0]))
    table.compute_d_single(plan.dxtbx_experiment)
    hkl = table["miller_index"].as_vec3_double().as_numpy_array()
    s1 = table["s1"].as_numpy_array()
    image = np.clip(image.astype(int), 0, plan.n_images - 1)
    panel = table["panel"].as_numpy_array()
    factors = truth_factors.factors(plan, hkl, s1, panel, image)
    for name in ("f_squared", "lorentz", "polarization"):
        table[name] = flex.double(np.ascontiguousarray(getattr(factors, name)))
    partiality = np.zeros(len(table))
    np.divide(sums[:, 0], factors.whole, out=partiality, where=factors.whole > 0)
    table["partiality"] = flex.double(partiality)


def joined(
    tables: Sequence[Any], identifiers: Sequence[str], imagesets: Sequence[int] | None = None
) -> Any:
    """One table of those of experiments 0, 1, ..., which have these identifiers, and of the image
    sets with these numbers; without: each has its own."""
    result = flex.reflection_table()
    for number, table in enumerate(tables):
        table["id"] = flex.int(len(table), number)
        of = number if imagesets is None else imagesets[number]
        table["imageset_id"] = flex.int(len(table), of)
        result.extend(table)
    for number, identifier in enumerate(identifiers):
        if identifier:
            result.experiment_identifiers()[number] = identifier
    return result
