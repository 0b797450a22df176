"""The experiment list that points at what was simulated."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dxtbx.imageset import ImageSetFactory
from dxtbx.model import Experiment, ExperimentList
from dxtbx.model.experiment_list import ExperimentListFactory

from nanobragg_plugin.adapters import checks
from nanobragg_plugin.adapters.load import LOOKUPS
from nanobragg_plugin.format.image_files import image_numbers, image_path
from nanobragg_plugin.run.provenance import write_text
from nanobragg_plugin.run.writers import Form


def output_experiments(
    source: Experiment, simulated: Experiment, path: Path, form: Form
) -> list[Experiment]:
    """The simulated models with the images in `path`, as `Outputs.images` has it, and the
    identifier and the image set's mask, gain and pedestal of the experiment they came from.

    A sweep is one experiment. Images that do not turn are stills to dxtbx, each an experiment of
    its own; of several the identifiers get the image's number. Raw files are no image sets.
    """
    scan, identifier = simulated.scan, source.identifier
    imagesets = _imagesets(simulated, path, form)
    if checks.is_rotation(scan) or len(imagesets) == 1:
        return [_experiment(source, simulated, imagesets[0], scan, identifier)]
    result = []
    for index, imageset in enumerate(imagesets):
        number = scan.get_image_range()[0] + index
        own = f"{identifier}_{number}" if identifier else ""
        result.append(_experiment(source, simulated, imageset, scan[index : index + 1], own))
    return result


def _imagesets(simulated: Experiment, path: Path, form: Form) -> list[Any]:
    """One of a rotation, else one for every image; None for what is no image to dxtbx."""
    scan, turns = simulated.scan, checks.is_rotation(simulated.scan)
    if form.format == "nxmx":
        return [e.imageset for e in ExperimentListFactory.from_filenames([str(path)])]
    numbers = image_numbers(simulated, 1 if scan is None else scan.get_num_images())
    if form.format == "raw":
        return [None] if turns else [None] * len(numbers)
    path = path.resolve()
    if not turns:
        return [ImageSetFactory.make_imageset([str(image_path(path, n))]) for n in numbers]
    models = {name: getattr(simulated, name) for name in ("beam", "detector", "goniometer", "scan")}
    return [ImageSetFactory.make_sequence(str(path), numbers, **models)]


def _experiment(
    source: Experiment, simulated: Experiment, imageset: Any, scan: Any, identifier: str
) -> Experiment:
    if source.imageset is not None and imageset is not None:
        theirs, ours = source.imageset.external_lookup, imageset.external_lookup
        for name in LOOKUPS:
            getattr(ours, name).filename = getattr(theirs, name).filename
    return Experiment(
        imageset=imageset,
        beam=simulated.beam,
        detector=simulated.detector,
        goniometer=simulated.goniometer,
        scan=scan,
        crystal=simulated.crystal,
        identifier=identifier,
    )


def write_experiments(path: str | Path, experiments: Sequence[Any]) -> None:
    """Write an .expt that appears only when it is whole."""
    listed = ExperimentList(list(experiments)).to_dict()
    write_text(path, json.dumps(listed, indent=2))
