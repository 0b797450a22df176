"""Structure factors calculated from atoms, through cctbx: of a model, or of a made-up structure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import iotbx.cif
import iotbx.pdb
import iotbx.pdb.mmcif
import mmtbx.masks
import numpy as np
from cctbx import adptbx, crystal, eltbx, miller, sgtbx, uctbx, xray
from cctbx.array_family import flex
from libtbx.utils import Sorry

from nanobragg_plugin.adapters import dispersion
from nanobragg_plugin.adapters.checks import one_line

# Five Gaussians an element, good to sin(theta)/lambda = 6 / Angstrom.
_SCATTERING_TABLE = "wk1995"

# How finely the density is laid on its grid.  cctbx's own defaults (100, 1e-3) leave errors of
# 1 % of the largest F, these 0.2 % at the same cost (measured against the direct sum).
_FFT_QUALITY = {"quality_factor": 1000.0, "wing_cutoff": 1e-4}

# Atoms of a protein without its hydrogens: element and share.
_PROTEIN = (("C", 0.63), ("N", 0.17), ("O", 0.19), ("S", 0.01))

# Cubic Angstrom of a protein crystal, half of it solvent, for each atom but hydrogen.
_VOLUME_PER_ATOM = 35.0


def read_model(path: Path, kind: str) -> xray.structure:
    """The atoms of a model file; `kind` as `reflection_file.kind_of_file` says it.

    Sorry where there is no cell, no atom, an atom of no known element, or more than one model.
    """
    try:
        structure = _cif_structure(path) if kind == "cif model" else _pdb_structure(path)
        if structure.unit_cell() is None or structure.space_group_info() is None:
            raise Sorry("it has no unit cell or no space group (CRYST1): add them")
        if structure.scatterers().size() == 0:
            raise Sorry("it has no atoms")
        structure.scattering_type_registry(table=_SCATTERING_TABLE)
    except (Sorry, RuntimeError, ValueError, AssertionError, AttributeError, KeyError) as error:
        raise Sorry(f"{path} cannot be used as a model: {one_line(error).rstrip('.')}.") from error
    return structure


@dataclass(frozen=True)
class ModelFactors:
    """F at any wavelength: F0 + sum over elements (f' + i f'') G.

    base: complex F0, electrons, Friedel mates apart; of_element: G of each element, the F of its
    atoms as if each were a single electron at its place.
    """

    base: miller.array
    of_element: Mapping[str, flex.complex_double]

    def at(self, factors: Mapping[str, complex]) -> miller.array:
        """Complex F for f' + i f'' of the elements."""
        total = self.base.data().deep_copy()
        for element, factor in factors.items():
            total += self.of_element[element] * factor
        return self.base.customized_copy(data=total)


def model_factors(
    structure: xray.structure, options: Any, d_min: float, name: str, elements: Sequence[str]
) -> ModelFactors:
    """What F of a model at any wavelength is made of, as `model_structure_factors` calculates it;
    elements: those that have f' and f''."""
    structure = structure.deep_copy_scatterers()
    base = _amplitudes(structure, options, d_min, name, anomalous=True)
    symbols = np.array([atom.element_symbol() for atom in structure.scatterers()])
    of_element = {}
    for element in elements:
        atoms = structure.select(flex.bool(symbols == element)).deep_copy_scatterers()
        types = atoms.scattering_type_registry().type_index_pairs_as_dict()
        point = {kind: eltbx.xray_scattering.gaussian(1.0) for kind in types}
        atoms.scattering_type_registry(custom_dict=point)
        of_element[element] = _f_calc(atoms, base, options.algorithm).data()
    return ModelFactors(base, of_element)


def model_structure_factors(
    structure: xray.structure, options: Any, d_min: float, name: str
) -> miller.array:
    """Complex F, electrons, of all reflections with d >= d_min Angstrom in the model's own
    asymmetric unit, Friedel mates apart where the model has f''.

    options: the PHIL scope structure_factors.model.  With bulk_solvent it is cctbx's model of
    Jiang and Brunger (1994), F = F_calc + k_sol exp(-b_sol / 4 d^2) F_mask, with mmtbx's mask.
    F(000) is not among them.  Sorry for elements without radius or dispersion in the tables.
    """
    structure = structure.deep_copy_scatterers()
    anomalous = options.wavelength is not None
    if anomalous:
        factors = dispersion.dispersion_of(options, structure, name).at(options.wavelength)
        for atom in structure.scatterers():
            factor = factors.get(atom.element_symbol(), 0j)
            atom.fp, atom.fdp = factor.real, factor.imag
            atom.flags.set_use_fp_fdp(True)
    return _amplitudes(structure, options, d_min, name, anomalous)


def _amplitudes(
    structure: xray.structure, options: Any, d_min: float, name: str, anomalous: bool
) -> miller.array:
    """Complex F of the atoms as they are, and of bulk solvent if it is asked for."""
    try:
        structure.scattering_type_registry(table=_SCATTERING_TABLE)
        reflections = structure.build_miller_set(anomalous_flag=anomalous, d_min=d_min)
        f_calc = _f_calc(structure, reflections, options.algorithm)
        if not options.bulk_solvent:
            return f_calc
        f_mask = mmtbx.masks.manager(f_calc, xray_structure=structure).shell_f_masks()[0]
    except (RuntimeError, ValueError) as error:
        raise Sorry(f"{name} gives no structure factors: {one_line(error).rstrip('.')}.") from error
    stol_sq = f_calc.sin_theta_over_lambda_sq().data()
    k_mask = options.k_sol * flex.exp(-options.b_sol * stol_sq)
    return f_calc.customized_copy(data=f_calc.data() + f_mask.data() * k_mask)


def made_up_structure_factors(
    space_group: sgtbx.space_group_info,
    unit_cell: uctbx.unit_cell,
    d_min: float,
    seed: int,
    n_atoms: int | None = None,
) -> miller.array:
    """Amplitudes of a structure that does not exist: protein atoms at random places.

    Their mean square falls with resolution as a protein's does beyond 4 Angstrom or so (Wilson's
    line, B of 20 +- 7 A^2); the same seed gives the same amplitudes.  n_atoms: atoms of the
    asymmetric unit, by default as many as a protein crystal of this cell has.  Returns the
    amplitudes, electrons, of the asymmetric unit's reflections with d >= d_min Angstrom, as
    observation type amplitude.
    """
    structure = made_up_structure(space_group, unit_cell, seed, n_atoms)
    reflections = structure.build_miller_set(anomalous_flag=False, d_min=d_min)
    amplitudes = _f_calc(structure, reflections, "fft").amplitudes()
    amplitudes.set_observation_type_xray_amplitude()
    return amplitudes.set_info(miller.array_info(labels=["F"], source="made up"))


def made_up_structure(
    space_group: sgtbx.space_group_info,
    unit_cell: uctbx.unit_cell,
    seed: int,
    n_atoms: int | None = None,
) -> xray.structure:
    """The structure of `made_up_structure_factors`."""
    if n_atoms is None:
        volume = unit_cell.volume() / space_group.group().order_z()
        n_atoms = max(1, round(volume / _VOLUME_PER_ATOM))
    rng = np.random.RandomState(seed)  # whose numbers no version of numpy changes
    elements, shares = zip(*_PROTEIN)
    names = rng.choice(elements, size=n_atoms, p=shares)
    sites = rng.uniform(size=(n_atoms, 3))
    b_factors = rng.gamma(shape=8.0, scale=2.5, size=n_atoms)
    structure = xray.structure(
        crystal_symmetry=crystal.symmetry(unit_cell, space_group_info=space_group)
    )
    for name, site, b in zip(names, sites, b_factors):
        structure.add_scatterer(
            xray.scatterer(str(name), site=tuple(site), u=adptbx.b_as_u(float(b)))
        )
    structure.scattering_type_registry(table=_SCATTERING_TABLE)
    return structure


def _f_calc(structure: xray.structure, reflections: miller.set, algorithm: str) -> miller.array:
    """Complex F of the atoms alone; algorithm: auto, direct or fft."""
    return reflections.structure_factors_from_scatterers(
        structure, algorithm=None if algorithm == "auto" else algorithm, **_FFT_QUALITY
    ).f_calc()


def _pdb_structure(path: Path) -> xray.structure:
    lines = flex.split_lines(path.read_text(encoding="latin-1"))
    return _one_model(iotbx.pdb.input(source_info=str(path), lines=lines))


def _cif_structure(path: Path) -> xray.structure:
    """The atoms of an mmCIF model, or of the core CIF of a small molecule."""
    reader = iotbx.cif.reader(file_path=str(path))
    if any("_atom_site.Cartn_x" in block for block in reader.model().values()):
        return _one_model(iotbx.pdb.mmcif.cif_input(cif_object=reader.model()))
    structures = list(reader.build_crystal_structures().values())
    if len(structures) != 1:
        raise Sorry(f"it holds {len(structures)} structures: give a file with one")
    return structures[0]


def _one_model(pdb_input: Any) -> xray.structure:
    models = pdb_input.construct_hierarchy().models_size()
    if models == 0:
        raise Sorry("it has no atoms")
    if models != 1:
        raise Sorry(f"it holds {models} models: give a file with one")
    if pdb_input.crystal_symmetry() is None:
        raise Sorry("it has no unit cell or no space group (CRYST1): add them")
    return pdb_input.xray_structure_simple()
