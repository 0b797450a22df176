"""Are the sigmas of refined parameters true? Errors over sigma, of many draws of the noise.

A still of 3700 pixels in 47 shoeboxes, 14 parameters and the planes of 47 backgrounds; counts are
drawn from the model itself.

python examples/refine_pulls.py [DRAWS]
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import refine_models as small  # noqa: E402

from nanobragg_plugin.refine import minimise, parametrisations, sigmas, target  # noqa: E402

KINDS = ("cell", "orientation", "Ncells", "mosaic", "scale", "detector")
FLUENCE = 6e27


def main(draws: int = 200) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean [p] and width [p] of the pulls of each parameter."""
    true, (shot,) = small.experiment(), small.exposures()
    photons = small.expected(true, shot, FLUENCE)
    labels = small.tiles([photons], 300)
    parts = small.parts(true)
    start = true, small.amplitudes()
    model = parametrisations.Model(start, [parts[kind] for kind in KINDS])
    held = "tilt", "distance"
    free = tuple(n for n in model.parameters.names if not any(word in n for word in held))
    pulls, chi_sqr = [], []
    for draw in range(draws):
        made = torch.Generator().manual_seed(1000 + draw)
        counts = torch.poisson(photons, generator=made)
        pixels = small.data_of([counts], labels, [shot], FLUENCE)
        problem = target.Target(model, pixels, small.OPTIONS, free=free)
        found = minimise.minimise(problem, problem.start())
        known = sigmas.sigmas(problem, found.state, found.normal.reduced()[0])
        error = (found.state.inner - model.parameters.start)[problem.numbers]
        pulls.append(error / known.covariance.diagonal().sqrt())
        chi_sqr.append(found.normal.chi_sqr / problem.degrees_of_freedom())
    mean, width = torch.stack(pulls).mean(0), torch.stack(pulls).std(0)
    for name, one, two in zip(free, mean, width):
        print(f"{name:15} mean {one:6.3f}  width {two:5.3f}")
    print(f"chi^2 per degree of freedom {sum(chi_sqr) / draws:.4f}, {draws} draws")
    return mean, width


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
