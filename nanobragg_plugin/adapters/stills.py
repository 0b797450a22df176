"""Serial data: stills whose crystal and beam differ from one to the next."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from cctbx import uctbx
from dxtbx.model import Beam, Crystal, Experiment
from libtbx import Auto
from libtbx.utils import Sorry
from scipy.spatial.transform import Rotation

from nanobragg_plugin.adapters import beam_spectrum, checks, crystal_params, crystal_phil
from nanobragg_plugin.adapters.fluence import exposure_times
from nanobragg_plugin.noise import generator

#: Standard deviations to which what must stay positive or small is cut.
CUT = 4.0
#: The first space group whose cell has angles of 90 or 120 degrees (or is rhombohedral).
FIRST_RECTANGULAR = 16


@dataclass(frozen=True)
class Stills:
    """All that differs from still to still; params: the PHIL scope `stills`, extracted; base:
    dxtbx's experiment, whose scan and goniometer are not used."""

    params: Any
    base: Experiment

    @property
    def count(self) -> int:
        return self.params.count

    @property
    def one_spectrum(self) -> bool:
        """Whether all have the same wavelengths."""
        return self.params.wavelength_sigma_percent == 0

    def models(self, index: int) -> Experiment:
        """dxtbx's models of still `index`, from 0, which depend on (seed, index) alone."""
        return Experiment(
            detector=self.base.detector,
            beam=self._beam(index),
            crystal=self._crystal(index),
            identifier=f"{self.base.identifier}_{index + 1}" if self.base.identifier else "",
        )

    def fluence_scale(self, index: int) -> float:
        """Factor on the fluence, 1 on average."""
        return self._log_normal(index, "fluence", self.params.fluence_sigma_percent)

    def reference(self) -> Experiment:
        """The models that all stills differ from."""
        beam = copy.deepcopy(self.base.beam)
        if checks.scan_points(beam):
            beam.reset_scan_points()
        return Experiment(detector=self.base.detector, beam=beam, crystal=self.base.crystal)

    @property
    def reach(self) -> float:
        """How many times as far as the reference's detector sees any still's may see the reference
        crystal's reciprocal lattice."""
        params, model = self.params, self.base.crystal
        # of the sine of theta at the corners, which is some 0.25 or more where amplitudes end
        further = (1 + 2 * CUT * params.direction_sigma_mrad * 1e-3) / (
            1 - CUT * params.wavelength_sigma_percent / 100
        )
        angles = [math.radians(a) for a in model.get_unit_cell().parameters()[3:]]
        oblique = model.get_space_group().type().number() < FIRST_RECTANGULAR or any(
            abs(math.sin(2 * a)) > 1e-6 and abs(math.cos(a) + 0.5) > 1e-6 for a in angles
        )
        strain = CUT * params.cell_sigma_percent / 100
        return further * (1 + strain * (1 + max(angles) if oblique else 1))

    def params_of(self, params: Any, index: int) -> Any:
        """All parameters, extracted, with the domains of a still."""
        scale = self._log_normal(index, "domain", self.params.domain_sigma_percent)
        if scale == 1:
            return params
        params = copy.copy(params)
        params.crystal = crystal = copy.copy(params.crystal)
        cells = crystal_params.cells_of_domain(crystal, self.base.crystal)
        crystal.Ncells_abc, crystal.domain_size_ang = [max(1.0, scale * n) for n in cells], None
        return params

    def _log_normal(self, index: int, what: str, percent: float) -> float:
        """A factor of mean 1 and that relative standard deviation."""
        if percent == 0:
            return 1.0
        variance = math.log1p((percent / 100) ** 2)
        return math.exp(math.sqrt(variance) * self._normal(index, what, 1)[0] - variance / 2)

    def _normal(self, index: int, what: str, number: int, cut: float = math.inf) -> np.ndarray:
        """Deviates of their own of a still, for each thing that differs."""
        random = generator(self.params.seed, index + 1, f"still {what}")
        return torch.randn(number, generator=random, dtype=torch.float64).clamp(-cut, cut).numpy()

    def _beam(self, index: int) -> Beam:
        params, beam = self.params, copy.deepcopy(self.base.beam)
        if checks.scan_points(beam):
            beam.reset_scan_points()
        if params.wavelength_sigma_percent:
            shift = self._normal(index, "wavelength", 1, CUT)[0] * params.wavelength_sigma_percent
            beam.set_wavelength(beam.get_wavelength() * (1 + shift / 100))
        if params.direction_sigma_mrad:
            along = np.array(beam.get_sample_to_source_direction())
            normal = np.array(beam.get_polarization_normal())
            across = np.cross(normal, along)
            across /= np.linalg.norm(across)
            other = np.cross(along, across)
            angles = self._normal(index, "direction", 2, CUT) * params.direction_sigma_mrad * 1e-3
            turn = Rotation.from_rotvec(angles[0] * across + angles[1] * other)
            beam.set_direction(tuple(turn.apply(along)))
            beam.set_polarization_normal(tuple(turn.apply(normal)))
        return beam

    def _crystal(self, index: int) -> Crystal:
        model = self.base.crystal
        space_group = model.get_space_group()
        orientation = np.array(model.get_U()).reshape(3, 3)
        if self.params.orientations == "random":
            quaternion = self._normal(index, "orientation", 4)
            orientation = Rotation.from_quat(quaternion).as_matrix() @ orientation
        cell = self._cell(index)
        basis = np.array(cell.orthogonalization_matrix()).reshape(3, 3)
        vectors = (orientation @ basis).T  # a, b, c: A = U B has their reciprocals for columns
        rows = (tuple(map(float, row)) for row in vectors)
        return crystal_phil.with_mosaicity(Crystal(*rows, space_group=space_group), model)

    def _cell(self, index: int) -> uctbx.unit_cell:
        cell, percent = self.base.crystal.get_unit_cell(), self.params.cell_sigma_percent
        if percent == 0:
            return cell
        factors = 1 + self._normal(index, "cell", 6, CUT) * percent / 100
        values = np.array(cell.parameters()) * factors
        try:
            space_group = self.base.crystal.get_space_group()
            return space_group.average_unit_cell(uctbx.unit_cell(tuple(values)))
        except (RuntimeError, ValueError) as error:
            raise Sorry(
                f"stills.cell_sigma_percent={percent:g} makes a cell that cannot be, "
                f"{', '.join(f'{value:.4g}' for value in values)}: give less"
            ) from error


def with_exposure(params: Any, base: Experiment) -> Any:
    """All parameters, extracted, with the exposure time, s, of the first image of the scan that
    stills are in place of, where none is given."""
    times = exposure_times(base.scan, 1 if base.scan is None else base.scan.get_num_images())
    if params.beam.exposure_s is not None or not times[0] > 0:
        return params
    params = copy.copy(params)
    params.beam = copy.copy(params.beam)
    params.beam.exposure_s = times[0]
    return params


def stills_of(params: Any, experiments: list[Experiment]) -> Stills | None:
    """The stills that are asked for; None where they are not."""
    if params.stills.count is None:
        defaults = {"seed": 0, "orientations": "random"}
        given = [
            name
            for name, value in vars(params.stills).items()
            if not name.startswith("__") and name != "count" and value != defaults.get(name, 0.0)
        ]
        if given:
            raise Sorry(f"stills.{given[0]} does nothing without stills.count: give it too")
        return None
    if len(experiments) > 1:
        raise Sorry(
            f"stills.count={params.stills.count} makes stills of one crystal model, the list has "
            f"{len(experiments)} experiments: choose one, for example with dials.split_experiments"
        )
    if params.sampling.image_range is not None:
        raise Sorry("sampling.image_range chooses images of a scan: leave it out with stills.count")
    base = experiments[0]
    checks.check_experiment(base)
    if checks.scan_points(base.crystal):
        raise Sorry(
            "stills.count needs a static crystal, this one varies over the scan: give another, or "
            "geometry.crystal.unit_cell and misset_deg"
        )
    _check_wavelengths(params, base.beam)
    return Stills(params.stills, beam_spectrum.with_spectrum(params.beam.spectrum, base)[0])


def _check_wavelengths(params: Any, beam: Any) -> None:
    """`Sorry` where a wavelength that differs from still to still cannot be."""
    spectrum = params.beam.spectrum
    if hasattr(beam, "get_wavelength_range") and spectrum.shape in beam_spectrum.NONE:
        raise Sorry("the beam is polychromatic: with stills.count give its beam.spectrum")
    if spectrum.shape == "image_set":
        raise Sorry(
            "beam.spectrum.shape=image_set is of the list's images, which stills.count replaces: "
            "give beam.spectrum.spectrum_file"
        )
    if params.stills.wavelength_sigma_percent == 0:
        return
    if spectrum.shape == "spectrum_file":
        raise Sorry(
            "beam.spectrum.shape=spectrum_file has energies of its own, the same in each still: "
            "leave out stills.wavelength_sigma_percent"
        )
    if params.structure_factors.model.wavelength is Auto:
        raise Sorry(
            "structure_factors.model.wavelength=Auto would need other amplitudes for each still: "
            "give one wavelength, or leave out stills.wavelength_sigma_percent"
        )
