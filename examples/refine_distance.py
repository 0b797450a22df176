"""The distance of a detector, from the spots of a rotation alone (no powder, no known cell): what
a distance does to the places of spots a cell of another size does too, but not to their heights
above the plane of the beam, nor to when they flash up.

python examples/refine_distance.py
"""

from __future__ import annotations

from dataclasses import replace

import torch
from derivatives import CELL, still, vector

from nanobragg_plugin.models import Exposure, SimulationOptions
from nanobragg_plugin.refine import data, minimise, parametrisations, sigmas, target
from nanobragg_plugin.rotation import phi_steps
from nanobragg_plugin.simulate import simulate

IMAGES, WIDTH = 6, 0.5  # degrees
NAMES = ("a", "b", "c", "alpha", "beta", "gamma")


def main(seed: int = 1) -> torch.Tensor:
    """Errors of the distance (mm), and over sigma [2]."""
    options = SimulationOptions(compile="never", tolerance=1e-4)
    experiment, factors = still(vector(0, 0, 0, 0, 0, 0))
    made = torch.Generator().manual_seed(seed)
    shots = [
        Exposure(phi_steps(10.0 * n, WIDTH, 4), tuple(n + (k + 0.5) / 4 for k in range(4)))
        for n in range(IMAGES)
    ]
    # a wide spread of images, 10 degrees apart; larger spots than the still's
    crystal = replace(experiment.crystal, Ncells_abc=vector(12, 10, 9))
    experiment = replace(experiment, crystal=crystal)
    images = [simulate(experiment, shot, factors, options)[0] for shot in shots]
    bright = 1000 / max(float(image.max()) for image in images)
    lit = replace(experiment.beam, fluence=(experiment.beam.fluence * bright).double())
    experiment = replace(experiment, beam=lit)
    pictures, boxes = [], 0
    for number, (image, shot) in enumerate(zip(images, shots)):
        counts = torch.poisson(bright * image.double() + 2, generator=made)
        peaks = torch.nn.functional.max_pool2d(bright * image[None, None], 10)[0, 0] > 30
        label = torch.where(peaks, peaks.flatten().cumsum(0).reshape(peaks.shape) - 1 + boxes, -1)
        label = label.repeat_interleave(10, 0).repeat_interleave(10, 1)
        pictures.append(data.picture([counts], [label], number, shot, 1.0))
        boxes += int(peaks.sum())
    pixels = data.centred(pictures, boxes)

    pivot, axes = vector(0, 0, -100), torch.eye(3, dtype=torch.float64) * vector(1, -1, -1)
    parts = [
        parametrisations.Cell(vector(*CELL)[None], NAMES, CELL, torch.eye(6).double()),
        parametrisations.Orientation(),
        parametrisations.Scale(),
        parametrisations.DetectorPlace((0,), pivot, axes),
    ]
    model = parametrisations.Model((experiment, factors), parts)
    free = tuple(name for name in model.parameters.names if "tilt" not in name)
    problem = target.Target(model, pixels, options, free=free)
    state = problem.start()
    at = model.parameters.names.index("detector_distance")
    state.inner[at] = 0.2
    found = minimise.minimise(problem, state)
    known = sigmas.sigmas(problem, found.state, found.normal.reduced()[0])
    for name, value, sigma in zip(known.names, found.state.inner[problem.numbers], known.sigma):
        print(f"{name:20} {value:10.5f} +- {sigma:.5f}")
    print(f"chi^2/pixel {found.normal.chi_sqr / found.normal.n:.3f}, {len(found.losses)} steps")
    error = found.state.inner[at]
    return torch.stack([error, error / known.sigma[list(known.names).index("detector_distance")]])


if __name__ == "__main__":
    main()
