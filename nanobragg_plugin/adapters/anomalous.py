"""Amplitudes of a model for the wavelengths of a beam: sources in groups, each with its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from libtbx import Auto
from libtbx.utils import Sorry

from nanobragg_plugin.adapters import dispersion, miller, model_f, reflection_file
from nanobragg_plugin.models import Beam
from nanobragg_plugin.structure_factors import StructureFactors


@dataclass(frozen=True)
class Amplitudes:
    """Of some of a beam's sources, by their places in the list."""

    sources: tuple[int, ...]
    structure_factors: StructureFactors


def amplitudes_of_beam(
    params: Any, beam: Beam, dxtbx_crystal: Any, d_min: float
) -> tuple[tuple[Amplitudes, ...], miller.MillerSummary]:
    """The beam's sources in groups of like f' and f'' with their amplitudes, whose images add up;
    one group of all unless structure_factors.model.wavelength is Auto.

    params: the scope structure_factors, extracted; dxtbx_crystal: whose they are; d_min: Angstrom,
    how far the detector's corners reach. Of a wavelength that changes along the scan the mean
    counts.
    """
    crystal = dxtbx_crystal.get_space_group().info(), dxtbx_crystal.get_unit_cell()
    dispersion.check(params.model)
    if params.model.wavelength is not Auto:
        factors, summary = miller.structure_factors_from_params(params, *crystal, d_min)
        return (Amplitudes(tuple(range(len(beam.weight))), factors),), summary
    path, kind = model_file(params)
    model = miller.read_model(path, kind, params, (*crystal, d_min))
    factors_at = dispersion.dispersion_of(params.model, model.structure, str(path))
    wavelengths = beam.wavelength.detach().mean(0).tolist()
    known = {wavelength: factors_at.at(wavelength) for wavelength in set(wavelengths)}
    each = [known[wavelength] for wavelength in wavelengths]
    groups = dispersion.wavelength_groups(wavelengths, each, params.model.anomalous.tolerance)
    parts, summary = [], None
    calculated = model_f.model_factors(
        model.structure, params.model, model.d_min, str(path), factors_at.elements
    )
    how = miller.how_calculated(model, params.model) + f", f' and f'' ({factors_at.source}) at "
    how += f"{len(known)} wavelengths in {len(groups)} groups"
    for group in groups:
        photons = beam.weight[list(group)].tolist()
        mean = {
            element: complex(np.average([each[i][element] for i in group], weights=photons))
            for element in factors_at.elements
        }
        array = calculated.at(mean)
        factors, summary = miller.of_model_array(array, how, model, params, crystal[1])
        parts.append(Amplitudes(tuple(group), factors))
    return tuple(parts), summary


def model_file(params: Any) -> tuple[Path, str]:
    """Path and kind of the file that structure_factors names, which must be a model."""
    path = Path(params.file or "").expanduser()
    kind = None if params.file is None else reflection_file.kind_of_file(path)
    if kind not in ("pdb", "cif model"):
        raise Sorry(
            "structure_factors.model.wavelength=Auto needs a model, whose F depend on it: give one "
            "as structure_factors.file (.pdb, .cif), or leave it away"
        )
    return path, kind
