"""The experiment list that points at what was simulated."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dxtbx.model import Experiment, ExperimentList
from dxtbx.model.experiment_list import ExperimentListFactory

from nanobragg_plugin.adapters import checks
from nanobragg_plugin.adapters.load import LOOKUPS
from nanobragg_plugin.run.provenance import write_text


def output_experiments(
    source: Experiment, simulated: Experiment, path: Path, gain_file: str | None = None
) -> list[Experiment]:
    """The simulated models with the images in `path`, and the identifier and the image set's mask,
    gain and pedestal of the experiment they came from; gain_file: a gain in place of that.

    A sweep is one experiment. Images that do not turn are stills to dxtbx, each an experiment of
    its own; of several the identifiers get the image's number.
    """
    imagesets = [e.imageset for e in ExperimentListFactory.from_filenames([str(path)])]
    for imageset in imagesets if gain_file else ():
        imageset.external_lookup.gain.filename = str(Path(gain_file).resolve())
    scan, identifier = simulated.scan, source.identifier
    if checks.is_rotation(scan) or len(imagesets) == 1:
        return [_experiment(source, simulated, imagesets[0], scan, identifier)]
    result = []
    for index, imageset in enumerate(imagesets):
        number = scan.get_image_range()[0] + index
        own = f"{identifier}_{number}" if identifier else ""
        result.append(_experiment(source, simulated, imageset, scan[index : index + 1], own))
    return result


def _experiment(
    source: Experiment, simulated: Experiment, imageset: Any, scan: Any, identifier: str
) -> Experiment:
    if source.imageset is not None:
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
