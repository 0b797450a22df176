"""From where the crystal is lit: sources that come from one direction are summed over together."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from nanobragg_plugin.kernels.lattice_sum import is_dual


@dataclass(frozen=True)
class Incidence:
    """Sources of one direction, during all steps of an exposure or one.

    sources: their numbers; step: None for all; s0_unit [3]; wavelength [sources] Angstrom; weight
    [sources].
    """

    sources: tuple[int, ...]
    step: int | None
    s0_unit: Tensor
    wavelength: Tensor
    weight: Tensor

    def vectors_of(self, vectors: Tensor) -> Tensor:
        """Its steps among real-space vectors [steps, domains, 3, 3]."""
        return vectors if self.step is None else vectors[self.step : self.step + 1]


def incidences(
    directions: Tensor, wavelengths: Tensor, weight: Tensor, merged: bool
) -> list[tuple[Incidence, ...]]:
    """Of a beam of directions [steps or 1, sources, 3], wavelengths [steps or 1, sources] and
    weight [sources]: one Incidence a source, or one for each step if the beam moves.

    merged: sources of the same direction, if it stays, become one Incidence. Those whose direction
    has a gradient do not, as equal ones may be different parameters.
    """
    steps, sources = max(len(directions), len(wavelengths)), len(weight)
    if steps > 1:
        directions = directions.expand(steps, sources, 3)
        wavelengths = wavelengths.expand(steps, sources)
        return [
            tuple(
                Incidence(
                    (number,),
                    step,
                    directions[step, number],
                    wavelengths[step, number, None],
                    weight[number, None],
                )
                for step in range(steps)
            )
            for number in range(sources)
        ]
    together = [[number] for number in range(sources)]
    if merged and not _varies(directions):
        members: dict[tuple[float, ...], list[int]] = {}
        for number, direction in enumerate(directions[0].tolist()):
            members.setdefault(tuple(direction), []).append(number)
        together = list(members.values())
    return [
        (
            Incidence(
                tuple(numbers),
                None,
                directions[0, numbers[0]],
                wavelengths[0, numbers],
                weight[numbers],
            ),
        )
        for numbers in together
    ]


def _varies(directions: Tensor) -> bool:
    return directions.requires_grad or is_dual(directions)
