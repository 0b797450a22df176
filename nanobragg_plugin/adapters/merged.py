"""Scaled intensities of a reflection table beside the true ones."""

from __future__ import annotations

from typing import Any

import numpy as np
from cctbx import miller
from cctbx.array_family import flex


def common_intensities(
    reflections: Any, reindex: np.ndarray, true_amplitudes: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Merged scaled intensities and true F^2 [n] of the unique reflections that both have.

    reflections: what dials.scale wrote; reindex [3, 3]: their indices are reindex h_true;
    true_amplitudes: a cctbx Miller array, whose symmetry merges them (Friedel mates too).
    """
    flags = reflections.flags
    scaled = reflections.select(reflections.get_flags(flags.scaled))
    scaled = scaled.select(~scaled.get_flags(flags.bad_for_scaling, all=False))
    found = np.array(scaled["miller_index"], dtype=int).reshape(-1, 3)
    true = np.rint(found @ np.linalg.inv(reindex).T).astype(int)
    factor = scaled["inverse_scale_factor"]
    sigmas = flex.sqrt(scaled["intensity.scale.variance"]) / factor
    indices = flex.miller_index([tuple(map(int, h)) for h in true])
    members = miller.set(true_amplitudes.crystal_symmetry(), indices, anomalous_flag=False)
    data = scaled["intensity.scale.value"] / factor
    observed = miller.array(members, data, sigmas).set_observation_type_xray_intensity()
    merged = observed.merge_equivalents().array()
    expected = true_amplitudes.as_non_anomalous_array().merge_equivalents().array()
    merged, expected = merged.common_sets(expected.map_to_asu().as_intensity_array())
    return merged.data().as_numpy_array(), expected.data().as_numpy_array()
