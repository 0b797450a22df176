"""An ensemble of stills: each crystal's orientation and scale, and one detector of all.

python examples/refine_stills.py [STILLS]
"""

from __future__ import annotations

import sys
from dataclasses import replace

import torch
from derivatives import still, vector

from nanobragg_plugin.models import Exposure, SimulationOptions
from nanobragg_plugin.refine import (
    data,
    joint,
    joint_model,
    minimise,
    parametrisations,
    sigmas,
    target,
)
from nanobragg_plugin.rotation import from_vector
from nanobragg_plugin.simulate import simulate

OPTIONS, SHOT = SimulationOptions(compile="never", tolerance=1e-4), Exposure((0.0,), (0.0,))


def one(number: int, made: torch.Generator) -> target.Target:
    """A still of a crystal of its own, noise and all, and what is to be found of it."""
    experiment, factors = still(vector(0, 0, 0, 0, 0, 0))
    turn = from_vector(torch.rand(3, generator=made).double() * 3)
    crystal = replace(experiment.crystal, A=turn @ experiment.crystal.A)
    experiment = replace(experiment, crystal=crystal)
    (photons,) = simulate(experiment, SHOT, factors, OPTIONS)
    photons = (1000 + 200 * number) * photons / photons.max() + 2
    counts = torch.poisson(photons.double(), generator=made)
    bright = torch.nn.functional.max_pool2d(photons[None, None], 10)[0, 0] > 20
    label = torch.where(bright, bright.flatten().cumsum(0).reshape(bright.shape) - 1, -1)
    label = label.repeat_interleave(10, 0).repeat_interleave(10, 1)
    pixels = data.centred([data.picture([counts], [label], 0, SHOT, 1.0)], int(bright.sum()))
    pivot, axes = vector(0, 0, -100), torch.eye(3, dtype=torch.float64) * vector(1, -1, -1)
    place = parametrisations.DetectorPlace((0,), pivot, axes)
    parts = [parametrisations.Orientation(), parametrisations.Scale(), place]
    return target.Target(parametrisations.Model((experiment, factors), parts), pixels, OPTIONS)


def main(stills: int = 3, seed: int = 1) -> torch.Tensor:
    """Errors over sigma of all but scales [p]."""
    made = torch.Generator().manual_seed(seed)
    each = [one(number, made) for number in range(stills)]
    # the detector is everyone's, all else a still's own
    owners = [
        {name: "detector" if "detector" in name else n for name in t.model.parameters.names}
        for n, t in enumerate(each)
    ]
    model = joint_model.joined([t.model for t in each], owners, range(stills))
    free = tuple(name for name in model.parameters.names if "tilt" not in name)
    problem = joint.Joint(model, tuple(each), tuple(range(stills)), free)
    state = problem.start()
    off = [0.03 if "rotation" in n else 0.04 if "detector" in n else 0.0 for n in free]
    state.inner[problem.numbers] += vector(*off)
    for number, (t, own) in enumerate(zip(each, problem.states(state))):
        at = model.parameters.names.index(f"scale.{number}")
        state.inner[at] = torch.tensor(target.scaled(t, own)).log()
    found = minimise.minimise(problem, state)
    known = sigmas.sigmas(problem, found.state, found.normal.reduced()[0])
    for name, value, sigma in zip(known.names, found.state.inner[problem.numbers], known.sigma):
        print(f"{name:20} {value:9.5f} +- {sigma:.5f}")
    print(f"chi^2/pixel {found.normal.chi_sqr / found.normal.n:.3f}, {len(found.losses)} steps")
    pulls = found.state.inner[problem.numbers] / known.sigma
    return torch.stack([p for p, name in zip(pulls, free) if "scale" not in name])


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
