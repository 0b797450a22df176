"""f' and f'' of elements by wavelength, from tables or measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from cctbx.eltbx import henke, sasaki
from libtbx.utils import Sorry

from nanobragg_plugin.adapters.spectrum import check_energies, read_columns
from nanobragg_plugin.constants import EV_ANGSTROM

SCOPE = "structure_factors.model.anomalous"
TABLES = {"sasaki": sasaki.table, "henke": henke.table}
#: Without f' and f'' in the tables, as in cctbx's set_inelastic_form_factors.
NO_DISPERSION = ("H", "D")


@dataclass(frozen=True)
class Dispersion:
    """Where f' and f'' come from. elements: those that have any; measured: of an element, energies
    [n] eV and f' + i f'' [n], in place of the table's."""

    elements: tuple[str, ...]
    table: str = "sasaki"
    measured: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None

    @classmethod
    def of(cls, params: Any, present: Iterable[str], name: str) -> Dispersion:
        """Of the scope structure_factors.model.anomalous, extracted, for a model of the elements
        that are `present`; name: the model's, for messages."""
        present = sorted(set(present))
        elements = [element for element in present if element not in NO_DISPERSION]
        if params.elements is not None:
            elements = [one.strip().capitalize() for one in params.elements]
        measured = _measured(params)
        for element in [*elements, *measured]:
            if element not in present:
                raise Sorry(
                    f"{SCOPE}: there is no {element} in {name}, whose elements are "
                    f"{', '.join(present)}"
                )
            if element not in elements:
                raise Sorry(f"{SCOPE}.measured_element={element} is not among its elements; add it")
        return cls(tuple(dict.fromkeys(elements)), params.table, measured)

    @property
    def source(self) -> str:
        """Words for the log."""
        return ", ".join(
            [self.table, *(f"{element} as measured" for element in self.measured or ())]
        )

    def at(self, wavelength: float) -> dict[str, complex]:
        """f' + i f'' of each element at a wavelength, Angstrom."""
        return {element: self._of(element, wavelength) for element in self.elements}

    def _of(self, element: str, wavelength: float) -> complex:
        if self.measured and element in self.measured:
            energies, values = self.measured[element]
            energy = EV_ANGSTROM / wavelength
            if not energies[0] <= energy <= energies[-1]:
                raise Sorry(
                    f"{SCOPE}.measured_file has f' and f'' of {element} from {energies[0]:g} to "
                    f"{energies[-1]:g} eV, but the beam has {energy:g} eV: give a file that has it"
                )
            return complex(np.interp(energy, energies, values))
        try:
            found = TABLES[self.table](element, False).at_angstrom(wavelength)
            valid = found.is_valid_fp() and found.is_valid_fdp()
        except (ValueError, RuntimeError):
            valid = False
        if not valid:
            raise Sorry(
                f"{SCOPE}.table={self.table} has no f' and f'' of {element} at {wavelength:g} A: "
                f"take the other table, or name the elements that matter in {SCOPE}.elements"
            )
        return complex(found.fp(), found.fdp())


def _measured(params: Any) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    name, element = params.measured_file, params.measured_element
    if name is None and element is None:
        return {}
    if name is None or element is None:
        raise Sorry(f"{SCOPE}.measured_file and .measured_element go together: give both")
    rows = read_columns(name, "a table of f' and f''", "energy (eV), f', f''", 3)
    check_energies(rows[:, 0], name)
    if (rows[:, 2] < 0).any():
        raise Sorry(
            f"{name}: f'' is below 0, which it cannot be; columns are energy (eV), f', f'' (CHOOCH "
            "writes f'' before f')"
        )
    return {element.strip().capitalize(): (rows[:, 0], rows[:, 1] + 1j * rows[:, 2])}


def wavelength_groups(
    wavelengths: Sequence[float], factors: Sequence[Mapping[str, complex]], tolerance: float
) -> list[list[int]]:
    """Places of wavelengths [n] in groups of neighbours between any two of which no element's f' or
    f'' differs by more than `tolerance` electrons, the shortest first; factors [n]: f' + i f'' of
    each wavelength."""
    groups: list[list[int]] = []
    spans: list[np.ndarray] = []
    for place in sorted(range(len(wavelengths)), key=lambda place: wavelengths[place]):
        values = np.array(list(factors[place].values()), dtype=complex)
        spans.append(np.concatenate([values.real, values.imag]))
        if groups and (np.ptp(spans, axis=0) <= tolerance).all():
            groups[-1].append(place)
        else:
            groups.append([place])
            spans = spans[-1:]
    return groups


def dispersion_of(params: Any, structure: Any, name: str) -> Dispersion:
    """Of the scope structure_factors.model, extracted, for a cctbx structure."""
    present = (scatterer.element_symbol() for scatterer in structure.scatterers())
    return Dispersion.of(params.anomalous, present, name)


def check(params: Any) -> None:
    """`Sorry` where f' and f'' are described but not asked for; params: the scope
    structure_factors.model, extracted."""
    given = ("elements", "measured_file", "measured_element")
    if params.wavelength is None:
        for name in given:
            if getattr(params.anomalous, name) is not None:
                raise Sorry(
                    f"{SCOPE}.{name} needs structure_factors.model.wavelength: give it (Auto: "
                    "the beam's)"
                )
