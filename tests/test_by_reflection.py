# ruff: noqa: E402
"""Photons reflection by reflection, against images in which all other amplitudes are 0."""

from __future__ import annotations

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

import core_models
from core_models import FEATURES, Setup

from nanobragg_plugin import by_reflection, structure_factors
from nanobragg_plugin.by_reflection import ByReflection
from nanobragg_plugin.sampling import why_not_sparse
from nanobragg_plugin.simulate import simulate

CASES = {
    name: setup
    for name, setup in FEATURES.items()
    if "water" not in name and "interpolation" not in name
}
#: Relative; measured 4e-13 in double.
TOLERANCE = 1e-11


def built(setup: Setup, **options: object) -> core_models.Model:
    experiment, exposure, sf, given = core_models.build(setup, core_models.parameters(setup))
    return experiment, exposure, sf, replace(given, precision="double", **options)


def only(sf: structure_factors.StructureFactors, hkl: list[int]) -> object:
    """The amplitudes with all but one 0."""
    place = tuple(i - low + 1 for i, low in zip(hkl, sf.hkl_min))
    box = torch.zeros_like(sf.Fhkl)
    box[place] = sf.Fhkl[place]
    return structure_factors.StructureFactors(box, sf.hkl_min, 0.0)


@pytest.mark.parametrize("kernel", ["dense", "sparse"])
@pytest.mark.parametrize("name", CASES)
def test_photons_and_centroids(name: str, kernel: str) -> None:
    experiment, exposure, sf, options = built(CASES[name])
    if kernel == "sparse":
        options = replace(options, kernel="sparse", tolerance=1e-20)
        if why_not_sparse(experiment, options):
            pytest.skip("the sparse kernel can leave nothing out")
    counter = ByReflection(experiment, sf, options)
    found = counter.of(exposure)
    table = counter.table
    with torch.no_grad():
        whole = simulate(experiment, exposure, sf, options)
    total = sum(float(image.sum()) for image in whole)
    assert float(found.photons.sum()) == pytest.approx(total, rel=TOLERANCE)
    for row in found.photons.argsort(descending=True)[:4].tolist():
        with torch.no_grad():
            alone = simulate(experiment, exposure, only(table, found.hkl[row].tolist()), options)[
                int(found.panel[row])
            ]
        slow, fast = (torch.arange(n).double() + 0.5 for n in alone.shape)
        photons = float(alone.sum())
        assert float(found.photons[row]) == pytest.approx(photons, rel=TOLERANCE)
        expected = float((alone * fast).sum()) / photons, float((alone.T * slow).sum()) / photons
        assert float(found.fast[row]) == pytest.approx(expected[0], rel=TOLERANCE)
        assert float(found.slow[row]) == pytest.approx(expected[1], rel=TOLERANCE)


def test_indices_beyond_the_table() -> None:
    """default_F is one element of a table; here each index has its own."""
    setup = Setup(domains=2)
    experiment, exposure, _, options = built(setup)
    counter = ByReflection(experiment, structure_factors.constant(7.0), options)
    found = counter.of(exposure)
    with torch.no_grad():
        (whole,) = simulate(experiment, exposure, structure_factors.constant(7.0), options)
    assert float(found.photons.sum()) == pytest.approx(float(whole.sum()), rel=TOLERANCE)
    assert len(found.hkl.unique(dim=0)) > 4


def test_covering_keeps_every_amplitude() -> None:
    indices = torch.tensor([[2, -3, 4], [-1, 5, 0], [0, 0, 9]])
    sf = structure_factors.table(indices, torch.tensor([3.0, 4.0, 5.0]), 1.5)
    box = by_reflection.covering(sf, (3, 8, 2))
    some = torch.cat([indices, torch.tensor([[3, 8, 2], [-3, -8, -2], [0, 1, 1], [9, 9, 9]])])
    for one in (sf, box):
        values = structure_factors.nearest(one, *some.double().T)
        assert values.tolist() == [3, 4, 5, 1.5, 1.5, 1.5, 1.5]
    assert all(low <= -n for low, n in zip(box.hkl_min, (3, 8, 2)))


def test_too_many_indices() -> None:
    sf = structure_factors.constant(1.0)
    with pytest.raises(ValueError, match="too many to have photons each"):
        by_reflection.covering(sf, (1000, 1000, 1000))


def test_weights() -> None:
    """Half of the pixels hidden: the sums of the others."""
    setup = Setup(panels=2)
    experiment, exposure, sf, options = built(setup)
    with torch.no_grad():
        whole = simulate(experiment, exposure, sf, options)
    weights = [torch.zeros_like(image) for image in whole]
    for weight in weights:
        weight[: weight.shape[0] // 2] = 1
    found = ByReflection(experiment, sf, options).of(exposure, weights=weights)
    for panel, (image, weight) in enumerate(zip(whole, weights)):
        photons = float(found.photons[found.panel == panel].sum())
        assert photons == pytest.approx(float((image * weight).sum()), rel=TOLERANCE)


def test_interpolated_amplitudes_are_refused() -> None:
    experiment, _, sf, options = built(FEATURES["interpolation"])
    with pytest.raises(ValueError, match="interpolated"):
        ByReflection(experiment, sf, options)


def test_an_image_of_nothing() -> None:
    setup = Setup()
    experiment, exposure, sf, options = built(setup)
    nothing = structure_factors.StructureFactors(0 * sf.Fhkl, sf.hkl_min, 0.0)
    assert len(ByReflection(experiment, nothing, options).of(exposure).photons) == 0
