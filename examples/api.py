"""The Python interface: an image from dxtbx models, and the gradient of its pixels.

python examples/api.py [sweep.expt]
"""

from __future__ import annotations

import sys
from dataclasses import replace

import nanobragg_plugin  # noqa: F401  isort: skip  before dxtbx: torch keeps its threads

import torch
from dxtbx.model.experiment_list import ExperimentListFactory

from nanobragg_plugin import models, mosaic, simulate, structure_factors
from nanobragg_plugin.adapters import models as adapters


def experiment_from(dxtbx_experiment, spread_deg: float = 0.1) -> models.Experiment:
    """The simulator's models of a dxtbx experiment."""
    spread = torch.deg2rad(torch.tensor(spread_deg, dtype=torch.float64))
    umats = mosaic.mosaic_umats(spread, domains=8, distribution="gaussian", seed=0)
    crystal = adapters.CrystalOptions(Ncells_abc=(6, 6, 12), umats=umats, spot_scale=1e9)
    return models.Experiment(
        adapters.panels(dxtbx_experiment.detector),
        adapters.beam(dxtbx_experiment.beam, fluence=1e19),
        adapters.goniometer(dxtbx_experiment.goniometer),
        adapters.crystal(dxtbx_experiment.crystal, crystal),
    )


def window(panel: models.Panel, slow: int, fast: int, half: int) -> models.Panel:
    """The panel with only the pixels around one of them to simulate."""
    mask = torch.zeros(panel.shape, dtype=torch.bool)
    mask[max(0, slow - half) : slow + half, max(0, fast - half) : fast + half] = True
    return models.with_mask(panel, mask)


def main(path: str) -> torch.Tensor:
    """The gradient of a spot's place on the fast axis by the panel's origin, pixels/mm [3]."""
    dxtbx_experiment = ExperimentListFactory.from_json_file(path, check_format=False)[0]
    experiment = experiment_from(dxtbx_experiment)
    amplitudes = structure_factors.constant(100.0)
    exposure = adapters.exposure(dxtbx_experiment.scan, image_index=0, phisteps=5)
    panel = experiment.panels[0]

    # an image (the middle of it), without gradients
    middle = replace(experiment, panels=(window(panel, *(n // 2 for n in panel.shape), 150),))
    with torch.no_grad():
        image = simulate.simulate(middle, exposure, amplitudes)[0]
    slow, fast = divmod(int(image.argmax()), image.shape[1])
    print(f"{image.sum():.4g} photons; brightest pixel: slow {slow}, fast {fast}")

    # where does its spot go if the detector moves?
    origin = panel.origin.clone().requires_grad_()
    moved = replace(window(panel, slow, fast, 4), origin=origin)
    finely = models.SimulationOptions(oversample=4)
    spot = simulate.simulate(replace(experiment, panels=(moved,)), exposure, amplitudes, finely)[0]
    centroid = (spot.sum(0) * (torch.arange(spot.shape[1]) + 0.5)).sum() / spot.sum()
    (gradient,) = torch.autograd.grad(centroid, origin)
    print(f"its spot's centroid: fast {centroid:.2f}; gradient by the panel's origin, pixels/mm:")
    print("  " + "  ".join(f"{x:.3f}" for x in gradient))
    return gradient


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/api.py MODELS.expt")
    main(sys.argv[1])
