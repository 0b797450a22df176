"""The experiment list that points at what was simulated."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dxtbx.imageset import ImageSetFactory
from dxtbx.model import Experiment, ExperimentList
from dxtbx.model.experiment_list import ExperimentListFactory

from nanobragg_plugin.adapters import checks
from nanobragg_plugin.adapters.load import LOOKUPS
from nanobragg_plugin.format.FormatNanoBraggLive import FormatNanoBraggLive
from nanobragg_plugin.format.image_files import image_numbers, image_path
from nanobragg_plugin.run.data_sets import DataSet
from nanobragg_plugin.run.images import Images
from nanobragg_plugin.run.provenance import write_text
from nanobragg_plugin.run.writers import Form


def output_experiments(data_set: DataSet, path: Path, form: Form) -> list[Experiment]:
    """The simulated models with the images in `path`, as `Outputs.images` has it, and the
    identifiers and the image sets' mask, gain and pedestal of the experiments they came from.

    A crystal in a sweep is one experiment. Images that do not turn are stills to dxtbx, each an
    experiment of its own; of several the identifiers get the image's number. Raw files are no image
    sets.
    """
    imagesets = _imagesets(data_set.images, path, form)
    for imageset in imagesets if data_set.gain_file and form.format != "raw" else ():
        imageset.external_lookup.gain.filename = str(Path(data_set.gain_file).resolve())
    if data_set.stills is not None:
        source, models = data_set.sources[0], map(data_set.stills.models, range(len(imagesets)))
        return [_experiment(source, m, i, None, m.identifier) for m, i in zip(models, imagesets)]
    result = []
    for source, plan in zip(data_set.sources, data_set.images.plans):
        simulated = _shared(plan.dxtbx_experiment, data_set.images.models)
        scan, identifier = simulated.scan, source.identifier
        if checks.is_rotation(scan) or len(imagesets) == 1:
            result.append(_experiment(source, simulated, imagesets[0], scan, identifier))
            continue
        for index, imageset in enumerate(imagesets):
            number = scan.get_image_range()[0] + index
            own = f"{identifier}_{number}" if identifier else ""
            shot = scan[index : index + 1]
            result.append(_experiment(source, simulated, imageset, shot, own))
    return result


def _shared(simulated: Experiment, first: Experiment) -> Experiment:
    """The models of a crystal, what all crystals of the images share those of the first."""
    result = copy.copy(simulated)
    for name in ("beam", "detector", "goniometer", "scan"):
        setattr(result, name, getattr(first, name))
    return result


def _imagesets(images: Images, path: Path, form: Form) -> list[Any]:
    """One of a rotation, else one for every image; None for what is no image to dxtbx."""
    simulated, turns = images.models, checks.is_rotation(images.models.scan)
    if form.format == "nxmx":
        return [e.imageset for e in ExperimentListFactory.from_filenames([str(path)])]
    if form.format == "live":
        imageset = FormatNanoBraggLive.get_imageset([str(path)])
        listed = ExperimentListFactory.from_imageset_and_crystal(imageset, crystal=None)
        return [experiment.imageset for experiment in listed]
    numbers = image_numbers(simulated, images.n_images)
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
            if getattr(theirs, name).filename:
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
