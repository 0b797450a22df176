"""A B factor and an occupancy, refined against pixels through amplitudes that torch calculates.

python examples/refine_atoms.py
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from derivatives import still, vector

from nanobragg_plugin.models import Exposure, SimulationOptions
from nanobragg_plugin.refine import data, minimise, parametrisations, sigmas, target
from nanobragg_plugin.refine.parameters import Parameter
from nanobragg_plugin.simulate import simulate
from nanobragg_plugin.structure_factors import StructureFactors

INDEX = 25  # the largest
ATOMS = 40
PLACES = torch.rand(ATOMS, 3, generator=torch.Generator().manual_seed(4)).double()


@dataclass(frozen=True)
class Atoms:
    """Point atoms of 30 electrons in P1, the last of 300; B, square Angstrom, of all, and the
    occupancy of the last."""

    start: tuple[float, float] = (20.0, 0.6)

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        b, occupancy = self.start
        return Parameter("B", "A^2", b, 100.0), Parameter("occupancy", "", occupancy, 1.0)

    def apply(self, models: tuple, values: torch.Tensor) -> tuple:
        experiment, _ = models
        electrons = torch.full((ATOMS,), 30.0, dtype=torch.float64)
        electrons = torch.cat([electrons[:-1], 300 * values[1:]])
        axis = torch.arange(-INDEX, INDEX + 1, dtype=torch.float64)
        hkl = torch.cartesian_prod(axis, axis, axis)
        phase = 2 * torch.pi * hkl @ PLACES.T
        stol_sqr = (hkl @ experiment.crystal.A[0].T).square().sum(1) / 4
        real, imaginary = phase.cos() @ electrons, phase.sin() @ electrons
        size = (real**2 + imaginary**2).sqrt() * torch.exp(-values[0] * stol_sqr)
        box = torch.nn.functional.pad(size.reshape((2 * INDEX + 1,) * 3), (1,) * 6)
        return experiment, StructureFactors(box, (-INDEX,) * 3, 0.0)


def main(seed: int = 1) -> torch.Tensor:
    """Errors of B and occupancy in sigma [2], from 30 and 0.3."""
    options, shot = SimulationOptions(compile="never"), Exposure((0.0,), (0.0,))
    experiment, factors = still(vector(0, 0, 0, 0, 0, 0))
    truth = Atoms()
    models = truth.apply((experiment, factors), vector(*truth.start))
    (photons,) = simulate(models[0], shot, models[1], options)
    lit = replace(experiment, beam=replace(experiment.beam, fluence=1e26 * 1000 / photons.max()))
    (photons,) = simulate(lit, shot, models[1], options)
    counts = torch.poisson(photons.double() + 1, generator=torch.Generator().manual_seed(seed))
    bright = torch.nn.functional.max_pool2d(photons[None, None], 10)[0, 0] > 5
    number = torch.where(bright, bright.flatten().cumsum(0).reshape(bright.shape) - 1, -1)
    label = number.repeat_interleave(10, 0).repeat_interleave(10, 1)
    pixels = data.centred([data.picture([counts], [label], 1, shot, 1.0)], int(bright.sum()))

    parts = [Atoms((30.0, 0.3)), parametrisations.Scale()]
    fluence = lit.beam.fluence.double()
    start = replace(lit, beam=replace(lit.beam, fluence=fluence)), factors
    model = parametrisations.Model(start, parts)
    problem = target.Target(model, pixels, options, free=model.parameters.names)
    found = minimise.minimise(problem, problem.start())
    known = sigmas.sigmas(problem, found.state, found.normal.reduced()[0])
    for name, value, sigma in zip(known.names, found.state.inner, known.sigma):
        print(f"{name:10} {value:9.4f} +- {sigma:.4f}")
    return (found.state.inner[:2] - vector(*truth.start)) / known.sigma[:2]


if __name__ == "__main__":
    main()
