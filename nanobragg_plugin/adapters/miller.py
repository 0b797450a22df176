"""Structure factors of an experiment: from a file or a model to a P1 table of amplitudes.

Everything is written out to P1 by the file's own space group, in the crystal's cell, with
Friedel mates: both, where the data are anomalous; the same F twice, where they are not; the one
that was measured for both, where an anomalous pair lacks one.  A centred lattice stays in its
centred cell: h, k, l, and with them Ncells_abc, count conventional cells.

default_F stands for amplitudes that are not known.  Those of reflections that symmetry makes
absent are known: they are 0 also where default_F is not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cctbx import crystal, miller, sgtbx, uctbx, xray
from libtbx.utils import Sorry

from nanobragg_plugin.adapters import crystal_symmetry, fdump, in_reach, model_f, reflection_file
from nanobragg_plugin.structure_factors import StructureFactors, table

made_up_structure_factors = model_f.made_up_structure_factors


@dataclass(frozen=True)
class MillerSummary:
    """What the log says of the structure factors.

    n_unique: reflections as the source has them; n_p1: entries in P1.  d_max, d_min: Angstrom,
    the range they cover, None without a reflection.  completeness: the share, 0 to 1, of the
    reflections to the resolution that the caller asked for.
    """

    file: str | None
    labels: str
    space_group: str
    n_unique: int
    n_p1: int
    d_max: float | None
    d_min: float | None
    how: str
    completeness: float
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"Structure factors: {self.how}"]
        if self.file is not None:
            lines.append(f"  file: {self.file}" + (f", {self.labels}" if self.labels else ""))
            lines.append(f"  space group: {self.space_group}")
        if self.d_min is not None:
            lines.append(
                f"  reflections: {self.n_unique} unique, {self.n_p1} in P1, "
                f"{self.d_max:.2f} to {self.d_min:.2f} A, "
                f"{100 * self.completeness:.1f} % of those in reach"
            )
        return "\n".join(lines + [f"  note: {note}" for note in self.notes])


@dataclass(frozen=True)
class _Source:
    """P1 amplitudes, electrons, as they come from a file: indices ``[n, 3]``, amplitudes ``[n]``,
    and the symmetry that makes reflections absent (None: absences are not known of)."""

    indices: np.ndarray
    amplitudes: np.ndarray
    absences: sgtbx.space_group_info | None
    summary: dict[str, Any]
    notes: list[str]


def structure_factors_from_params(
    params: Any,
    space_group: sgtbx.space_group_info,
    unit_cell: uctbx.unit_cell,
    d_min: float,
) -> tuple[StructureFactors, MillerSummary]:
    """The amplitudes for a crystal of this space group and cell.

    params: the PHIL scope structure_factors, extracted.  d_min: Angstrom, how far the detector's
    corners reach.  The table is float64, on the CPU.  Sorry for anything that cannot be read or
    is ambiguous, for a cell or space group that contradicts the crystal's, and for no
    structure factors at all.
    """
    if not math.isfinite(params.default_F):
        raise Sorry(
            f"structure_factors.default_F is {params.default_F}: give a number of electrons."
        )
    return _finished(_source(params, space_group, unit_cell, d_min), params, unit_cell, d_min)


def of_model_array(
    array: miller.array, how: str, model: Model, params: Any, unit_cell: uctbx.unit_cell
) -> tuple[StructureFactors, MillerSummary]:
    """The table of amplitudes that were calculated from a model, as `structure_factors_from_params`
    has it; array: complex F; how: words on where they come from."""
    source = _expanded(array.amplitudes(), how, "", model.remark)
    return _finished(source, params, unit_cell, model.reach)


def _finished(
    source: _Source, params: Any, unit_cell: uctbx.unit_cell, d_min: float
) -> tuple[StructureFactors, MillerSummary]:
    """The table of a source and its summary; default_F for what is not there."""
    indices, amplitudes = source.indices, source.amplitudes
    if params.default_F != 0 and source.absences is not None:
        absent = in_reach.absent_indices(
            source.absences, unit_cell, in_reach.reach(unit_cell, d_min)
        )
        indices = np.concatenate([indices, absent])
        amplitudes = np.concatenate([amplitudes, np.zeros(len(absent))])
    try:
        factors = table(
            torch.from_numpy(np.ascontiguousarray(indices)),
            torch.from_numpy(np.ascontiguousarray(amplitudes)),
            float(params.default_F),
        )
    except ValueError as error:
        raise Sorry(f"The structure factors of {params.file} do not fit: {error}.") from error
    return factors, _summary(source, params, unit_cell, d_min)


def _source(
    params: Any, space_group: sgtbx.space_group_info, unit_cell: uctbx.unit_cell, d_min: float
) -> _Source:
    """The amplitudes in P1, from whatever the parameters name."""
    if params.file is None:
        if params.default_F == 0:
            raise Sorry(
                "There are no structure factors: give structure_factors.file (.mtz, .cif, .hkl, "
                ".sca, .pdb) or structure_factors.default_F."
            )
        how = f"default_F = {params.default_F:g} for every reflection"
        nothing = np.empty((0, 3), dtype=np.int64)
        return _Source(nothing, np.empty(0), space_group, {"how": how}, [])
    path = Path(params.file).expanduser()
    kind = reflection_file.kind_of_file(path)
    if kind in ("text", "dump"):
        return _source_of_text(path, kind, params, unit_cell)
    if kind in ("pdb", "cif model"):
        return _source_of_model(path, kind, params, (space_group, unit_cell, d_min))
    return _source_of_reflections(path, kind, params, (space_group, unit_cell))


def _source_of_text(path: Path, kind: str, params: Any, unit_cell: uctbx.unit_cell) -> _Source:
    """h k l F in P1 or nanoBragg.c's dump of them, taken as they are, as it takes them."""
    read = fdump.read if kind == "dump" else reflection_file.read_hkl_text
    indices, amplitudes = read(path)
    notes = []
    if params.d_min is not None:
        kept = in_reach.d_spacings(indices, unit_cell) >= params.d_min
        indices, amplitudes = indices[kept], amplitudes[kept]
        notes = _cut_note(int((~kept).sum()), params.d_min)
    summary = {
        "how": f"amplitudes of P1 {kind}, as they are",
        "space_group": "P 1 (the file says none)",
        "n_unique": len(indices),
    }
    return _Source(indices, amplitudes, None, summary, notes)


@dataclass(frozen=True)
class Model:
    """The atoms of a model file; d_min: Angstrom, how far their F are to be calculated; reach: how
    far the detector does; remark: on the file's cell and space group, or None."""

    structure: xray.structure
    d_min: float
    reach: float
    remark: str | None


def read_model(path: Path, kind: str, params: Any, crystal_and_reach: tuple) -> Model:
    """The model of a file and how far a sample of the detector can ask for its amplitudes."""
    space_group, unit_cell, d_min = crystal_and_reach
    structure = model_f.read_model(path, kind)
    remark = _agree(structure, params, space_group, unit_cell, path)
    limit = params.d_min
    if limit is None:
        # The model's cell may be larger than the crystal's by the tolerance.
        limit = in_reach.reach(unit_cell, d_min) / (1 + params.cell_tolerance_percent / 100)
    return Model(structure, limit, d_min, remark)


def how_calculated(model: Model, params: Any) -> str:
    """Words for the log; params: the scope structure_factors.model."""
    how = f"calculated from {model.structure.scatterers().size()} atoms"
    if params.bulk_solvent:
        how += f", bulk solvent k_sol {params.k_sol:g}, b_sol {params.b_sol:g}"
    return how


def _source_of_model(path: Path, kind: str, params: Any, crystal_and_reach: tuple) -> _Source:
    """Amplitudes calculated from atoms, as far as a sample of the detector can ask for them."""
    model = read_model(path, kind, params, crystal_and_reach)
    array = model_f.model_structure_factors(model.structure, params.model, model.d_min, str(path))
    how = how_calculated(model, params.model)
    if params.model.wavelength is not None:
        how += f", f' and f'' at {params.model.wavelength:g} A"
    return _expanded(array.amplitudes(), how, "", model.remark)


def _source_of_reflections(path: Path, kind: str, params: Any, crystal_symmetry_: tuple) -> _Source:
    """Amplitudes of a file of reflections."""
    array = reflection_file.read_array(path, kind, params.labels, params.observation_type)
    labels = array.info().label_string()
    remark = _agree(array, params, *crystal_symmetry_, path)
    array = reflection_file.with_symmetry(array, *crystal_symmetry_)
    amplitudes, how = reflection_file.as_amplitudes(array, params.observation_type, path)
    cut = []
    if params.d_min is not None:
        before = amplitudes.size()
        amplitudes = amplitudes.resolution_filter(d_min=params.d_min)
        cut = _cut_note(before - amplitudes.size(), params.d_min)
    source = _expanded(amplitudes, how, labels, remark)
    source.notes.extend(cut)
    return source


def _agree(
    symmetry: Any,
    params: Any,
    space_group: sgtbx.space_group_info,
    unit_cell: uctbx.unit_cell,
    path: Path,
) -> str | None:
    """Sorry where the file's cell or space group contradicts the crystal's; else a remark."""
    remarks = []
    if symmetry.unit_cell() is None:
        remarks.append("the file has no unit cell, the crystal's was used")
    else:
        ours = crystal.symmetry(
            unit_cell, space_group_info=space_group, assert_is_compatible_unit_cell=False
        )
        crystal_symmetry.require_same_cell(symmetry, ours, params.cell_tolerance_percent, str(path))
    if symmetry.space_group_info() is None:
        remarks.append(f"the file has no space group, the crystal's, {space_group}, was used")
    else:
        group = symmetry.space_group_info()
        remarks.append(crystal_symmetry.require_agreeing_group(group, space_group, str(path)))
    return "; ".join(remark for remark in remarks if remark) or None


def _expanded(array: miller.array, how: str, labels: str, remark: str | None) -> _Source:
    """An array of amplitudes, unique under its symmetry, in P1 with both Friedel mates."""
    if array.size() == 0:
        raise Sorry(f"There is no reflection among the structure factors ({how}).")
    p1 = array.generate_bijvoet_mates().expand_to_p1()
    indices = p1.indices().as_vec3_double().as_numpy_array().reshape(-1, 3).astype(np.int64)
    amplitudes = p1.data().as_numpy_array()
    notes = [remark] if remark else []
    if array.anomalous_flag():
        singles = p1.match_bijvoet_mates()[1]
        single = np.concatenate(
            [singles.singles(sign).as_numpy_array().astype(np.int64) for sign in "+-"]
        )
        single = single[(indices[single] != 0).any(1)]
        indices = np.concatenate([indices, -indices[single]])
        amplitudes = np.concatenate([amplitudes, amplitudes[single]])
        if len(single):
            notes.append(f"{len(single)} P1 reflections took the F of their only Friedel mate")
    summary = {
        "how": how,
        "labels": labels,
        "space_group": str(array.space_group_info()),
        "n_unique": array.size(),
    }
    return _Source(indices, amplitudes, array.space_group_info(), summary, notes)


def _summary(
    source: _Source, params: Any, unit_cell: uctbx.unit_cell, d_min: float
) -> MillerSummary:
    """The summary of a source, with its shortfall at the resolution asked for."""
    group = source.absences or sgtbx.space_group_info("P 1")
    possible, least = in_reach.possible(group, unit_cell, d_min)
    d = in_reach.d_spacings(source.indices, unit_cell)
    d = d[np.isfinite(d)]
    notes = list(source.notes)
    if len(d) and possible and d.min() > least * 1.01:
        notes.append(
            f"the structure factors end at {d.min():.2f} A, the detector reaches {d_min:.2f} A: "
            f"beyond, F is default_F = {params.default_F:g}"
        )
    given = {"labels": "", "space_group": "", "n_unique": 0, **source.summary}
    return MillerSummary(
        file=None if params.file is None else str(params.file),
        n_p1=len(source.indices),
        d_max=float(d.max()) if len(d) else None,
        d_min=float(d.min()) if len(d) else None,
        completeness=int((d >= d_min).sum()) / max(1, possible),
        notes=tuple(notes),
        **given,
    )


def _cut_note(left_out: int, d_min: float) -> list[str]:
    return [f"{left_out} reflections beyond {d_min:g} A left out"] if left_out else []
