"""The crystal of the PHIL scope `geometry.crystal`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cctbx import sgtbx, uctbx
from dxtbx.model import Crystal, MosaicCrystalKabsch2010, MosaicCrystalSauter2014
from libtbx.utils import Sorry
from scitbx import matrix

from nanobragg_plugin.adapters import checks


def crystal_from_phil(params: Any, crystal: Crystal | None = None) -> Crystal:
    """The crystal that the extracted scope describes; what it leaves open is that of `crystal`,
    if there is one: its cell, its orientation (then misset_deg keeps it where not given), its
    space group, its mosaic model. The result is static."""
    if params.A_matrix is None and params.unit_cell is None and crystal is None:
        raise Sorry("there is no crystal: give geometry.crystal.unit_cell, or an experiment list")
    if params.A_matrix is not None and (params.unit_cell or params.misset_deg):
        raise Sorry(
            "geometry.crystal.A_matrix holds cell and orientation: give it, or unit_cell and "
            "misset_deg"
        )
    space_group = _space_group(params.space_group, crystal)
    real = _real_space(params, crystal)
    result = Crystal(real.elems[0:3], real.elems[3:6], real.elems[6:9], space_group=space_group)
    if not space_group.is_compatible_unit_cell(result.get_unit_cell()):
        cell = ", ".join(f"{value:g}" for value in result.get_unit_cell().parameters())
        raise Sorry(
            f"the cell {cell} does not have the symmetry of {space_group.info()}: mend "
            "geometry.crystal.unit_cell or space_group"
        )
    return with_mosaicity(result, crystal)


def with_mosaicity(result: Crystal, crystal: Crystal | None) -> Crystal:
    """The result with the mosaic model of `crystal`, where that has one."""
    if isinstance(crystal, MosaicCrystalKabsch2010):
        result = MosaicCrystalKabsch2010(result)
        result.set_mosaicity(crystal.get_mosaicity())
    elif isinstance(crystal, MosaicCrystalSauter2014):
        result = MosaicCrystalSauter2014(result)
        result.set_half_mosaicity_deg(crystal.get_half_mosaicity_deg())
        result.set_domain_size_ang(crystal.get_domain_size_ang())
    return result


def _space_group(given: str | None, crystal: Crystal | None) -> sgtbx.space_group:
    if given is None:
        return (
            sgtbx.space_group_info("P1").group() if crystal is None else crystal.get_space_group()
        )
    try:
        return sgtbx.space_group_info(given).group()
    except (RuntimeError, ValueError) as error:
        raise Sorry(f"geometry.crystal.space_group={given} is no space group") from error


def _real_space(params: Any, crystal: Crystal | None) -> matrix.sqr:
    """Rows a, b, c."""
    if params.A_matrix is not None:
        a_matrix = matrix.sqr(params.A_matrix)
        columns = [matrix.col(a_matrix.elems[i::3]).length() for i in range(3)]
        volume = columns[0] * columns[1] * columns[2]
        if abs(a_matrix.determinant()) <= 1e-6 * volume:
            raise Sorry(
                f"geometry.crystal.A_matrix={_listed(params.A_matrix)}: its columns a*, b*, c* "
                "lie in a plane"
            )
        return a_matrix.inverse()
    cell = crystal.get_unit_cell() if params.unit_cell is None else _cell(params.unit_cell)
    if params.misset_deg is None and crystal is not None:
        turn = matrix.sqr(crystal.get_U())
        basis = matrix.sqr(cell.fractionalization_matrix()).transpose()
        return (turn * basis).inverse()
    turn = matrix.identity(3)
    axes = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
    for axis, angle in zip(axes, params.misset_deg or (0, 0, 0)):
        turn = matrix.col(axis).axis_and_angle_as_r3_rotation_matrix(angle, deg=True) * turn
    return (turn * matrix.sqr(cell.orthogonalization_matrix())).transpose()


def _cell(parameters: Sequence[float]) -> uctbx.unit_cell:
    what = f"geometry.crystal.unit_cell={_listed(parameters)} is no cell"
    if min(parameters) <= 0:
        raise Sorry(f"{what}: lengths and angles must be positive")
    try:
        cell = uctbx.unit_cell(parameters)
    except (RuntimeError, ValueError) as error:
        raise Sorry(f"{what}: {checks.one_line(error)}") from error
    return cell


def _listed(values: Sequence[float]) -> str:
    return ",".join(f"{value:g}" for value in values)
