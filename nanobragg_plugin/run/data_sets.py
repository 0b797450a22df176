"""From parameters and an experiment list to the images of every file of a run."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from libtbx.utils import Sorry

from nanobragg_plugin.adapters import (
    crystal_params,
    detector_phil,
    fluence,
    geometry_phil,
    lattices,
    load,
    stills,
)
from nanobragg_plugin.adapters import params as adapt
from nanobragg_plugin.adapters.params import Plan
from nanobragg_plugin.run.images import Detection, Images, Stills

logger = logging.getLogger("dials.nanobragg_plugin.run.data_sets")


@dataclass(frozen=True)
class DataSet:
    """What one file will hold. sources: the experiments of the list that it is of, one a crystal,
    whole; gain_file: the gain of its pixels, where not their image set's; stills: the models of its
    images, where each has its own."""

    images: Images
    sources: tuple[Any, ...]
    gain_file: str | None = None
    stills: stills.Stills | None = None


def number_of_files(params: Any, listed: Sequence[Any]) -> int:
    """How many files of images there will be."""
    return len(lattices.groups(listed, params.crystal.lattices)) if len(listed) else 1


@dataclass(frozen=True)
class Prepared:
    """All models, before anything is read or calculated that takes long. sources: the experiments
    as they will be simulated, but for the choice of images; groups: which of them, for each file;
    shots: in place of them, stills."""

    params: Any
    sources: list[Any]
    groups: list[list[int]]
    shots: stills.Stills | None

    def of_group(self, number: int) -> list[Any]:
        """The experiments of file `number`, from 0, one a crystal."""
        return [self.sources[i] for i in self.groups[number]]

    def scales(self, number: int) -> Sequence[float] | None:
        """The relative fluence of all images of a scan of file `number`, where they have one."""
        firsts = [self.sources[group[0]] for group in self.groups]
        return fluence.scales_of_images(self.params.beam, firsts)[number]


def prepared(params: Any, listed: Sequence[Any]) -> Prepared:
    """From extracted parameters and the experiment list, which may be empty."""
    if len(listed):
        sources = load.sweeps(listed)
        geometry_phil.override(sources, params.geometry)
        groups = lattices.groups(listed, params.crystal.lattices)
    else:
        sources = [geometry_phil.experiment_from_phil(params.geometry)]
        groups = [[0]]
    detector_phil.set_panels(sources, params.detector)
    detector_phil.fit_panels(sources, params.output.format)
    _check_scales(params.crystal.lattice_scales, groups)
    return Prepared(params, sources, groups, stills.stills_of(params, sources))


def data_sets(params: Any, listed: Sequence[Any]) -> list[DataSet]:
    """All of them, planned; params: extracted; listed: the experiment list, which may be empty."""
    ready = prepared(params, listed)
    return [data_set(ready, number) for number in range(len(ready.groups))]


def data_set(ready: Prepared, number: int) -> DataSet:
    """That of file `number`, from 0, planned."""
    params, groups = ready.params, ready.groups
    if ready.shots is not None:
        return _of_stills(params, ready.shots)
    made = _of_crystals(params, number, ready.of_group(number), ready.scales(number))
    which = [f"Sweep {number + 1} of {len(groups)}:"] if len(groups) > 1 else []
    notes = [note for plan in made.images.plans for note in plan.notes]
    logger.info("\n".join([*which, *dict.fromkeys(notes)]))
    return made


def _of_crystals(
    params: Any, number: int, sources: list[Any], scales: Sequence[float] | None
) -> DataSet:
    """Images of one crystal or several; number: of the file, from 0; scales: of the fluence, one an
    image of the scan."""
    lookup = load.lookup(sources[0], params.detector.gain_file)
    plans: list[Plan] = []
    for lattice, source in enumerate(sources):
        chosen = load.select_images(source, params.sampling.image_range)
        like = plans[0] if plans and _same_amplitudes(params, sources[0], source) else None
        own = fluence.scales_of_chosen(scales, source, chosen)
        before = load.images_before(source, chosen)
        of = _of_lattice(params, lattice), chosen, lookup.mask, before, own, like
        plan = adapt.plan(*of)
        plans.append(_scaled(plan, params.crystal.lattice_scales, lattice))
    detection = Detection.of(params, number, lookup, plans[0].dxtbx_experiment)
    return DataSet(Images(plans, detection), tuple(sources), params.detector.gain_file)


def _same_amplitudes(params: Any, first: Any, other: Any) -> bool:
    """Whether amplitudes that were read for one crystal are another's: where they are neither
    calculated for its cell nor expanded by another symmetry."""
    return (
        first.crystal.get_space_group() == other.crystal.get_space_group()
        and first.crystal.get_unit_cell().is_similar_to(other.crystal.get_unit_cell(), 1e-6, 1e-4)
    )


def _of_lattice(params: Any, lattice: int) -> Any:
    """The parameters, with domains of its own for each further lattice of an image."""
    if lattice == 0:
        return params
    params = copy.copy(params)
    params.crystal = copy.copy(params.crystal)
    params.crystal.mosaic = mosaic = copy.copy(params.crystal.mosaic)
    words = f"nanobragg lattice {crystal_params.mosaic_seed(mosaic)} {lattice}"
    mosaic.seed = int.from_bytes(hashlib.sha256(words.encode()).digest()[:4], "big") >> 2
    return params


def _scaled(plan: Plan, scales: list[float] | None, lattice: int) -> Plan:
    if scales is None:
        return plan

    def scaled(experiment: Any) -> Any:
        crystal = experiment.crystal
        spot_scale = crystal.spot_scale * scales[lattice]
        return dataclasses.replace(
            experiment, crystal=dataclasses.replace(crystal, spot_scale=spot_scale)
        )

    more = [dataclasses.replace(p, experiment=scaled(p.experiment)) for p in plan.more]
    return dataclasses.replace(plan, experiment=scaled(plan.experiment), more=tuple(more))


def _check_scales(scales: list[float] | None, groups: list[list[int]]) -> None:
    most = max(map(len, groups))
    if scales is not None and (most == 1 or any(len(group) != len(scales) for group in groups)):
        raise Sorry(
            f"crystal.lattice_scales gives {len(scales)} factors, but there are {most} crystals "
            "in the same images"
            + (": crystal.spot_scale is the one of a single crystal" if most == 1 else "")
        )


def _of_stills(params: Any, shots: stills.Stills) -> DataSet:
    """A file of stills that differ."""
    lookup = load.lookup(shots.base, params.detector.gain_file)
    if params.beam.image_scale_file is not None:
        raise Sorry(
            "beam.image_scale_file is of the images of a scan: with stills.count give "
            "stills.fluence_sigma_percent"
        )
    params = stills.with_exposure(params, shots.base)
    like = adapt.plan(params, shots.reference(), lookup.mask, reach=shots.reach)

    def make(index: int) -> Plan:
        plan = adapt.plan(
            shots.params_of(params, index), shots.models(index), lookup.mask, like=like
        )
        photons = plan.fluences[0] * shots.fluence_scale(index)
        return dataclasses.replace(plan, fluences=(photons,))

    first = make(0)
    detection = Detection.of(params, 0, lookup, first.dxtbx_experiment)
    logger.info("\n".join([f"{shots.count} stills; of the first:", *first.notes]))
    images = Stills(shots.count, make, first, detection)
    return DataSet(images, (shots.base,), params.detector.gain_file, shots)
