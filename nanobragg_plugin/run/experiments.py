"""The experiment list that points at what was simulated."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dxtbx.model import Experiment, ExperimentList
from dxtbx.model.experiment_list import ExperimentListFactory

from nanobragg_plugin.run.provenance import write_text


def output_experiment(source: Experiment, simulated: Experiment, path: Path) -> Experiment:
    """The simulated models with the images in `path`, the identifier and the image set's mask,
    gain and pedestal of the experiment they came from."""
    imageset = ExperimentListFactory.from_filenames([str(path)])[0].imageset
    if source.imageset is not None:
        theirs, ours = source.imageset.external_lookup, imageset.external_lookup
        for name in ("mask", "gain", "pedestal"):
            getattr(ours, name).filename = getattr(theirs, name).filename
    result = Experiment(
        imageset=imageset,
        beam=simulated.beam,
        detector=simulated.detector,
        goniometer=simulated.goniometer,
        scan=simulated.scan,
        crystal=simulated.crystal,
        identifier=source.identifier,
    )
    return result


def write_experiments(path: str | Path, experiments: Sequence[Any]) -> None:
    """Write an .expt that appears only when it is whole."""
    listed = ExperimentList(list(experiments)).to_dict()
    write_text(path, json.dumps(listed, indent=2))
