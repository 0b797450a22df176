"""Merged intensities beside the true ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from cctbx import crystal, miller
from cctbx.array_family import flex
from libtbx.utils import Sorry


@dataclass(frozen=True)
class Merged:
    """Unique reflections that both have, arrays [n]: d, Angstrom; found, sigma (NaN where there
    is none) and true intensities; and how many unique ones each side has."""

    d: np.ndarray
    found: np.ndarray
    sigma: np.ndarray
    true: np.ndarray
    n_found: int
    n_true: int


def common_intensities(
    reflections: Any, reindex: dict[int, np.ndarray] | None, true: Any
) -> Merged:
    """Scaled intensities, merged, beside true F^2.

    reflections: what dials.scale wrote; reindex: of each experiment the matrix [3, 3] for which
    the indices are reindex h_true (reflections of others are left out), None: they are h_true;
    true: a cctbx Miller array of amplitudes or intensities, whose symmetry merges them (Friedel
    mates too).
    """
    flags = reflections.flags
    scaled = reflections.select(reflections.get_flags(flags.scaled))
    scaled = scaled.select(~scaled.get_flags(flags.bad_for_scaling, all=False))
    if not len(scaled):
        raise Sorry("the reflection table has no scaled reflections that are good: run dials.scale")
    found = np.array(scaled["miller_index"], dtype=int).reshape(-1, 3)
    if reindex is not None:
        experiment, h_true = np.array(scaled["id"], dtype=int), np.zeros_like(found)
        for number, matrix in reindex.items():
            use = experiment == number
            h_true[use] = np.rint(found[use] @ np.linalg.inv(matrix).T)
        known = np.isin(experiment, list(reindex))
        scaled, found = scaled.select(flex.bool(known.tolist())), h_true[known]
    factor = scaled["inverse_scale_factor"]
    indices = flex.miller_index([tuple(map(int, h)) for h in found])
    members = miller.set(true.crystal_symmetry(), indices, anomalous_flag=False)
    data = scaled["intensity.scale.value"] / factor
    sigmas = flex.sqrt(scaled["intensity.scale.variance"]) / factor
    observed = miller.array(members, data, sigmas).set_observation_type_xray_intensity()
    return common(observed, true)


def common(observed: Any, true: Any) -> Merged:
    """Two cctbx Miller arrays, amplitudes or intensities, as merged intensities; the truth's
    symmetry is taken for both."""
    expected = merged_intensities(true)
    observed = observed.customized_copy(crystal_symmetry=expected.crystal_symmetry())
    merged = merged_intensities(observed.set_observation_type(observed))
    n_found, n_true = len(merged.data()), len(expected.data())
    merged, expected = merged.common_sets(expected)
    values = merged.data().as_numpy_array()
    sigmas = merged.sigmas()
    return Merged(
        expected.d_spacings().data().as_numpy_array(),
        values,
        np.full(len(values), np.nan) if sigmas is None else sigmas.as_numpy_array(),
        expected.data().as_numpy_array(),
        n_found,
        n_true,
    )


def merged_intensities(array: Any) -> Any:
    """A cctbx Miller array's intensities in the asymmetric unit, each once, Friedel mates too."""
    if array.is_complex_array():
        array = array.amplitudes()
    kind = array
    array = array.select(flex.bool(np.isfinite(array.data().as_numpy_array()).tolist()))
    if array.anomalous_flag():
        array = array.as_non_anomalous_array()
    array = array.set_observation_type(kind).map_to_asu()
    intensities = array if array.is_xray_intensity_array() else array.f_as_f_sq()
    intensities = intensities.set_observation_type_xray_intensity()
    merged = intensities.merge_equivalents().array()
    return merged.set_observation_type_xray_intensity()


def true_of_table(reflections: Any, experiment: Any) -> Any:
    """The true F^2 of a truth table (f_squared) as a cctbx Miller array; experiment: the dxtbx
    experiment whose crystal says cell and space group."""
    model = experiment.crystal
    symmetry = crystal.symmetry(
        model.get_space_group().average_unit_cell(model.get_unit_cell()),
        space_group=model.get_space_group(),
    )
    members = miller.set(symmetry, reflections["miller_index"], anomalous_flag=False)
    return miller.array(members, reflections["f_squared"]).set_observation_type_xray_intensity()
