"""The orientation of a crystal, refined against the pixels of a noisy still.

python examples/refine_orientation.py
"""

from __future__ import annotations

import torch
from derivatives import still, vector

from nanobragg_plugin.models import Exposure, SimulationOptions
from nanobragg_plugin.refine import data, minimise, parametrisations, sigmas, target
from nanobragg_plugin.simulate import simulate


def main(seed: int = 1) -> torch.Tensor:
    """Errors of the rotation vector in sigma [3], from 0.1 degrees off."""
    options, shot = SimulationOptions(compile="never"), Exposure((0.0,), (0.0,))
    experiment, factors = still(vector(0, 0, 0, 0, 0, 0))
    (photons,) = simulate(experiment, shot, factors, options)
    photons = 1000 * photons / photons.max() + 2
    counts = torch.poisson(photons.double(), generator=torch.Generator().manual_seed(seed))
    # shoeboxes: tiles of 10 x 10 pixels that have a bright one
    bright = torch.nn.functional.max_pool2d(photons[None, None], 10)[0, 0] > 20
    number = torch.where(bright, bright.flatten().cumsum(0).reshape(bright.shape) - 1, -1)
    label = number.repeat_interleave(10, 0).repeat_interleave(10, 1)
    picture = data.picture([counts], [label], 1, shot, 1.0)
    pixels = data.centred([picture], int(bright.sum()))

    parts = [parametrisations.Orientation(), parametrisations.Scale()]
    model = parametrisations.Model((experiment, factors), parts)
    problem = target.Target(model, pixels, options, free=model.parameters.names)
    state = problem.start()
    state.inner[:3] = vector(0.06, -0.05, 0.06)
    state.inner[3] = torch.tensor(target.scaled(problem, state)).log()
    found = minimise.minimise(problem, state)
    known = sigmas.sigmas(problem, found.state, found.normal.reduced()[0])
    for name, value, sigma in zip(known.names, found.state.inner, known.sigma):
        print(f"{name:12} {value:9.5f} +- {sigma:.5f}")
    print(f"chi^2/pixel {found.normal.chi_sqr / found.normal.n:.3f}, {len(found.losses)} steps")
    return (found.state.inner / known.sigma)[:3]


if __name__ == "__main__":
    main()
