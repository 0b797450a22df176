"""Experiments from PHIL: dxtbx's own parameters, and the crystal's."""

from __future__ import annotations

import math
from typing import Any

from cctbx import sgtbx, uctbx
from cctbx.eltbx import attenuation_coefficient
from dxtbx.model import Crystal, Experiment
from dxtbx.model.beam import BeamFactory
from dxtbx.model.detector import DetectorFactory
from dxtbx.model.goniometer import GoniometerFactory
from dxtbx.model.scan import ScanFactory
from libtbx.utils import Sorry
from scitbx import matrix


def experiment_from_phil(params: Any) -> Experiment:
    """An experiment from the extracted `geometry` scope alone."""
    if not any(panel.image_size for panel in params.detector.panel):
        raise Sorry(
            "there is nothing to simulate: give an experiment list (.expt), a preset "
            "(preset=help lists them), or a detector (geometry.detector.panel.image_size= ...)"
        )
    experiment = Experiment()
    experiment.beam = _made("beam", BeamFactory.from_phil, params)
    experiment.detector = _made(
        "detector", DetectorFactory.from_phil, params, None, experiment.beam
    )
    set_mu(experiment.detector, experiment.beam)
    experiment.goniometer = _made("goniometer", GoniometerFactory.from_phil, params)
    experiment.scan = _made("scan", ScanFactory.from_phil, params)
    if experiment.scan is not None:
        # as dxtbx does for its own sequences: the file's first image is array index 0
        experiment.scan.set_batch_offset(
            params.scan.batch_offset or experiment.scan.get_array_range()[0]
        )
    experiment.crystal = crystal_from_phil(params.crystal)
    return experiment


def override(experiment: Experiment, params: Any) -> None:
    """Change an experiment's models in place by what the `geometry` scope gives."""
    experiment.beam = _made("beam", BeamFactory.from_phil, params, experiment.beam)
    experiment.detector = _made(
        "detector", DetectorFactory.from_phil, params, experiment.detector, experiment.beam
    )
    set_mu(experiment.detector, experiment.beam)
    if experiment.goniometer is not None or params.goniometer.axis or params.goniometer.axes:
        experiment.goniometer = _made(
            "goniometer", GoniometerFactory.from_phil, params, experiment.goniometer
        )
    if experiment.scan is not None or params.scan.image_range or params.scan.oscillation:
        experiment.scan = _made("scan", ScanFactory.from_phil, params, experiment.scan)
    if any((params.crystal.unit_cell, params.crystal.A_matrix)):
        experiment.crystal = crystal_from_phil(params.crystal)


def set_mu(detector: Any, beam: Any) -> None:
    """Give panels that have a material and a thickness, but no mu, the material's mu at the
    beam's wavelength (NIST's tables in cctbx), 1/mm."""
    for number, panel in enumerate(detector):
        if panel.get_thickness() > 0 and panel.get_material() and panel.get_mu() <= 0:
            try:
                table = attenuation_coefficient.get_table(panel.get_material())
            except RuntimeError as error:
                raise Sorry(
                    f"the material {panel.get_material()!r} of panel {number} is unknown: use an "
                    "element or compound such as Si or CdTe, or thickness=0"
                ) from error
            panel.set_mu(table.mu_at_angstrom(beam.get_wavelength()) / 10)


def crystal_from_phil(params: Any) -> Crystal:
    """The crystal of the `geometry.crystal` scope."""
    group = "P1" if params.space_group is None else params.space_group
    try:
        space_group = sgtbx.space_group_info(group).group()
    except RuntimeError as error:
        raise Sorry(f"geometry.crystal.space_group={group} is no space group") from error
    if params.A_matrix is not None:
        a_matrix = matrix.sqr(params.A_matrix)
        if not all(map(math.isfinite, a_matrix)) or abs(a_matrix.determinant()) < 1e-20:
            raise Sorry(f"geometry.crystal.A_matrix={params.A_matrix} is not a reciprocal basis")
        real = a_matrix.inverse()
    elif params.unit_cell is None:
        raise Sorry("there is no crystal: give geometry.crystal.unit_cell, or an experiment list")
    else:
        real = _real_space(params)
    crystal = Crystal(real.elems[0:3], real.elems[3:6], real.elems[6:9], space_group=space_group)
    if not space_group.is_compatible_unit_cell(crystal.get_unit_cell()):
        raise Sorry(
            f"the cell {crystal.get_unit_cell()} does not have the symmetry of "
            f"{space_group.info()}: mend geometry.crystal.unit_cell or space_group"
        )
    return crystal


def _real_space(params: Any) -> matrix.sqr:
    """Rows a, b, c of a cell that is turned about x, then y, then z."""
    try:
        cell = uctbx.unit_cell(params.unit_cell)
    except RuntimeError as error:
        raise Sorry(
            f"geometry.crystal.unit_cell={params.unit_cell} is no cell ({error})"
        ) from error
    turn = matrix.identity(3)
    axes = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
    for axis, angle in zip(axes, params.misset_deg or (0, 0, 0)):
        turn = matrix.col(axis).axis_and_angle_as_r3_rotation_matrix(angle, deg=True) * turn
    return (turn * matrix.sqr(cell.orthogonalization_matrix())).transpose()


def _made(what: str, factory: Any, *args: Any) -> Any:
    """A dxtbx factory's model; what it refuses is a `Sorry`."""
    try:
        return factory(*args)
    except (RuntimeError, ValueError, AssertionError) as error:
        raise Sorry(f"geometry.{what} does not describe a {what}: {error}") from error
