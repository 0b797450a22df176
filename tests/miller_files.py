"""Helpers of the structure factor tests: parameters, structures, cctbx's own answers."""

from __future__ import annotations

from pathlib import Path

import libtbx.phil
import torch
from cctbx import crystal, miller, sgtbx, uctbx, xray

import nanobragg_plugin.phil
from nanobragg_plugin.adapters.miller import structure_factors_from_params
from nanobragg_plugin.adapters.model_f import made_up_structure
from nanobragg_plugin.structure_factors import StructureFactors, nearest

SCOPE = libtbx.phil.parse(
    file_name=str(Path(nanobragg_plugin.phil.__file__).parent / "structure_factors.phil")
)

# Space groups with and without centring, inversion, screws and a polar axis; cells of theirs.
CELLS = {
    "P 1": (11.1, 12.3, 13.7, 81.0, 95.0, 103.0),
    "P 1 21 1": (14.1, 9.3, 12.7, 90.0, 101.0, 90.0),
    "C 1 2 1": (21.3, 10.1, 12.9, 90.0, 112.0, 90.0),
    "P 1 21/c 1": (10.4, 12.2, 9.7, 90.0, 98.0, 90.0),
    "P 43 21 2": (14.9, 14.9, 11.2, 90.0, 90.0, 90.0),
    "R 3 :H": (19.1, 19.1, 12.3, 90.0, 90.0, 120.0),
    "I 2 3": (17.3, 17.3, 17.3, 90.0, 90.0, 90.0),
}

D_MIN = 2.1


def params(**values):
    """The scope structure_factors with some values, `model__k_sol` for model.k_sol."""
    text = "\n".join(
        f"structure_factors.{name.replace('__', '.')} = {value}" for name, value in values.items()
    )
    return SCOPE.fetch(libtbx.phil.parse(text)).extract().structure_factors


def symmetry(symbol: str) -> crystal.symmetry:
    return crystal.symmetry(CELLS[symbol], symbol)


def structure(symbol: str, anomalous: bool = False) -> xray.structure:
    """Twelve atoms at random, one of them a selenium with f'' where asked for."""
    s = symmetry(symbol)
    made_up = made_up_structure(s.space_group_info(), s.unit_cell(), seed=3, n_atoms=12)
    if anomalous:
        made_up.add_scatterer(
            xray.scatterer("Se", site=(0.13, 0.29, 0.41), u=0.2, fp=-5.0, fdp=6.0)
        )
    return made_up


def all_p1(symbol: str, d_min: float = D_MIN) -> miller.set:
    """Every index of the cell with d >= d_min, also those that symmetry makes absent."""
    p1 = crystal.symmetry(CELLS[symbol], "P 1")
    return miller.build_set(p1, anomalous_flag=True, d_min=d_min)


def p1_truth(atoms: xray.structure, symbol: str) -> dict:
    """|F| of every index from all atoms of the cell in P1, summed directly by cctbx."""
    f_calc = (
        all_p1(symbol)
        .structure_factors_from_scatterers(atoms.expand_to_p1(), algorithm="direct")
        .f_calc()
    )
    return dict(zip(f_calc.indices(), f_calc.amplitudes().data()))


def read(path, symbol: str, reach: float = D_MIN, crystal_group: str | None = None, **values):
    """(table, summary) of a file for the crystal of `symbol` and a detector up to `reach`."""
    group = sgtbx.space_group_info(crystal_group or symbol)
    cell = uctbx.unit_cell(CELLS[symbol])
    return structure_factors_from_params(params(file=path, **values), group, cell, reach)


def looked_up(sf: StructureFactors, indices) -> list[float]:
    hkl = torch.tensor(list(indices), dtype=torch.float64)
    return nearest(sf, *hkl.unbind(1)).tolist()


def worst(sf: StructureFactors, truth: dict) -> float:
    """Largest difference from the truth, in units of the largest F."""
    found = looked_up(sf, truth)
    differences = [abs(value - F) for value, F in zip(found, truth.values())]
    return max(differences) / max(truth.values())
