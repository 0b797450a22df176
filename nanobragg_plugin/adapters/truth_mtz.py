"""The true amplitudes as a merged .mtz."""

from __future__ import annotations

import numpy as np
from cctbx import crystal, miller, sgtbx
from cctbx.array_family import flex
from libtbx.utils import Sorry

from nanobragg_plugin.adapters import truth_factors
from nanobragg_plugin.adapters.params import Plan

#: Relative difference of amplitudes that a space group makes equal, above which it does not hold.
SAME = 1e-5


def true_amplitudes(plan: Plan) -> miller.array:
    """F, electrons, of all reflections that the detector's corners see, in the crystal's space
    group and, where mates of Friedel differ, by mates; in P1 where the amplitudes do not have the
    space group's symmetry. Where F differs between a beam's colours, the root of the mean F^2."""
    model = plan.dxtbx_experiment.crystal
    symmetry = crystal.symmetry(model.get_unit_cell(), space_group=model.get_space_group())
    p1 = symmetry.customized_copy(space_group_info=sgtbx.space_group_info("P1"))
    d_min = 1 / truth_factors.q_max(plan)
    indices = miller.build_set(p1, anomalous_flag=True, d_min=d_min)
    hkl = indices.indices().as_vec3_double().as_numpy_array().astype(int)
    values = np.sqrt(truth_factors.f_squared_of(plan, hkl))
    array = indices.array(data=flex.double(np.ascontiguousarray(values)))
    array = array.set_observation_type_xray_amplitude()
    for of, anomalous in ((symmetry, False), (symmetry, True), (p1, False)):
        mapped = array.customized_copy(crystal_symmetry=of, anomalous_flag=anomalous).map_to_asu()
        merging = mapped.merge_equivalents()
        if merging.r_merge() < SAME:
            return merging.array().set_observation_type_xray_amplitude()
    return array


def write(path: str, plan: Plan) -> None:
    """Write F, and F^2 as the intensities of a perfect experiment."""
    amplitudes = true_amplitudes(plan)
    dataset = amplitudes.as_mtz_dataset(column_root_label="F")
    squares = amplitudes.f_as_f_sq().set_observation_type_xray_intensity()
    dataset.add_miller_array(squares, column_root_label="I")
    try:
        dataset.mtz_object().write(path)
    except RuntimeError as error:  # which does not say why
        raise Sorry(
            f"the true amplitudes cannot be written ({error}): is the disk full?"
        ) from error
