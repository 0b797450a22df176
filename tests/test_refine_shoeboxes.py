"""Which reflections of DIALS's tables are refined against, and with which shoeboxes."""

from __future__ import annotations

import nanobragg_plugin  # noqa: F401  isort: skip  before dxtbx

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("dials")

from dials.array_family import flex  # noqa: E402
from libtbx.utils import Sorry  # noqa: E402
from simulate_helpers import still, sweep  # noqa: E402

from nanobragg_plugin.adapters import shoeboxes  # noqa: E402


def params(**given: object) -> SimpleNamespace:
    """The scope refine.shoeboxes."""
    return SimpleNamespace(
        **{"border_px": 0, "border_images": 0, "d_min": None, "most": None, **given}
    )


def table(n: int = 4) -> flex.reflection_table:
    """As dials.index writes them: spots of 3 x 3 pixels in one image each, on images 11 to 13."""
    made = flex.reflection_table()
    made["id"] = flex.int(n, 0)
    made["panel"] = flex.size_t(n, 0)
    made["miller_index"] = flex.miller_index([(1, 2, number + 1) for number in range(n)])
    places = [(4.5 + 4 * i, 6.5, 10.5 + i % 3) for i in range(n)]
    made["xyzobs.px.value"] = flex.vec3_double(places)
    made["xyzcal.px"] = flex.vec3_double([(x + 0.25, y, z) for x, y, z in places])
    boxes = [(3 + 4 * i, 6 + 4 * i, 5, 8, 10 + i % 3, 11 + i % 3) for i in range(n)]
    made["bbox"] = flex.int6(boxes)
    made["intensity.sum.value"] = flex.double([10.0 * (i + 1) for i in range(n)])
    made["flags"] = flex.size_t(n, made.flags.indexed | made.flags.strong)
    return made


def rows(found: flex.reflection_table, experiment: object = None, **given: object) -> list[int]:
    boxes = shoeboxes.boxes_of(params(**given), found, 0, experiment or sweep())
    return boxes.rows.tolist()


def test_unindexed_are_left_out() -> None:
    """dials.index keeps them, with an id of -1 or an index of 0, 0, 0."""
    made = table()
    made["id"][1] = -1
    made["miller_index"][2] = (0, 0, 0)
    assert rows(made) == [0, 3]


def test_other_experiments_are_left_out() -> None:
    made = table()
    made["id"][0] = 1
    assert rows(made) == [1, 2, 3]


def test_identifiers_count_not_places_in_the_list() -> None:
    """A table of several experiments whose list was split or sorted since."""
    made = table()
    made["id"] = flex.int([0, 7, 7, 0])
    made.experiment_identifiers()[0] = "another"
    made.experiment_identifiers()[7] = "the-sweep"
    assert rows(made) == [1, 2]


@pytest.mark.parametrize("kind", ["centroid_outlier", "overloaded"])
def test_outliers_are_left_out(kind: str) -> None:
    """Spots that dials.refine took for outliers are often indexed wrongly."""
    made = table()
    made.set_flags(flex.bool([False, True, False, False]), getattr(made.flags, kind))
    assert rows(made) == [0, 2, 3]
    boxes = shoeboxes.boxes_of(params(), made, 0, sweep())
    assert any("marked" in note and note.endswith("1") for note in boxes.notes)


def test_spots_that_the_scan_cuts_off_are_used() -> None:
    """At the scan's first or last image an outlier whose place on the detector is right is one by
    its angle: its pixels count, its centroid does not."""
    made = table(6)
    outlier = [True, True, True, False, False, True]  # the images 11, 12, 13, 11, 12, 13
    made.set_flags(flex.bool(outlier), made.flags.centroid_outlier)
    made["xyzcal.px"][5] = (24.5, 8.5, 12.5)  # two pixels from where it was seen
    boxes = shoeboxes.boxes_of(params(), made, 0, sweep())
    assert boxes.rows.tolist() == [0, 2, 3, 4]
    assert any("cut them off" in note and note.endswith(" 2") for note in boxes.notes)
    hkl, *_ = shoeboxes.seen(boxes, made, sweep())
    assert hkl.tolist() == [[1, 2, 4], [1, 2, 5]]
    made.set_flags(flex.bool(outlier), made.flags.overloaded)
    assert rows(made) == [3, 4]
    del made["xyzcal.px"]  # nothing says where they should be
    made.unset_flags(flex.bool(outlier), made.flags.overloaded)
    assert rows(made) == [3, 4]


def test_places_that_dials_only_predicts() -> None:
    """dials.integrate has 0, 0, 0 for the place of what it did not measure: its shoebox counts,
    but no place of it is refined against."""
    made = table()
    made["xyzobs.px.value"][2] = (0, 0, 0)
    experiment = sweep()
    boxes = shoeboxes.boxes_of(params(), made, 0, experiment)
    assert boxes.rows.tolist() == [0, 1, 2, 3]
    hkl, panel, place, image, phi, width = shoeboxes.seen(boxes, made, experiment)
    assert hkl.tolist() == [[1, 2, 1], [1, 2, 2], [1, 2, 4]] and len(panel) == 3
    assert place[:, 0].tolist() == [4.5, 8.5, 16.5] and image.tolist() == [0.5, 1.5, 0.5]
    # images of 1 degree from 5 degrees on, of which the table counts from 10
    np.testing.assert_allclose(np.degrees(phi), [5.5, 6.5, 5.5])
    assert np.degrees(width) == pytest.approx(1)
    del made["bbox"]
    boxes = shoeboxes.boxes_of(params(), made, 0, experiment)
    fast = boxes.limits[2, :2]
    assert fast.mean() == pytest.approx(12.75, abs=1)  # about the predicted place


def test_boxes_grow_and_are_clipped() -> None:
    found = shoeboxes.boxes_of(params(border_px=4, border_images=1), table(), 0, sweep())
    assert found.limits[0].tolist() == [0, 10, 1, 12, 0, 2]
    assert found.limits[3].tolist() == [11, 22, 1, 12, 0, 2]
    assert found.limits[2].tolist() == [7, 18, 1, 12, 1, 3]


def test_pixels_in_several_boxes_are_of_the_nearest() -> None:
    """By hand: of two boxes of 6 x 4 pixels that share two columns each has one of them; one of
    another panel, or of later images, shares none; of two images the nearer box's middle counts."""
    limits = np.array(
        [[0, 6, 0, 4, 0, 2], [4, 10, 0, 4, 0, 2], [0, 6, 0, 4, 0, 2], [4, 10, 0, 4, 2, 4]]
    )
    panel = np.array([0, 0, 1, 0])
    boxes = shoeboxes.Boxes(np.arange(4), panel, limits, ())
    found, shared = shoeboxes.labels(boxes, 0, [(5, 12), (5, 12)])
    row = [0, 0, 0, 0, 0, 1, 1, 1, 1, 1, -1, -1]
    assert found[0].tolist() == [row] * 4 + [[-1] * 12] and shared == 2 * 4
    assert found[1].tolist() == [[2] * 6 + [-1] * 6] * 4 + [[-1] * 12]
    found, shared = shoeboxes.labels(boxes, 3, [(5, 12), (5, 12)])
    assert found[0][0].tolist() == [-1] * 4 + [3] * 6 + [-1] * 2 and shared == 0
    # the same columns and rows, images 0 to 2 and 2 to 6: image 2 is in the middle of neither
    late = np.array([[0, 3, 0, 3, 0, 3], [0, 3, 0, 3, 2, 7]])
    boxes = shoeboxes.Boxes(np.arange(2), np.zeros(2, int), late, ())
    of = [shoeboxes.labels(boxes, image, [(3, 3)])[0][0][1, 1] for image in range(7)]
    assert of == [0, 0, 0, 1, 1, 1, 1]  # 2/3 of half a box of 3 images, 4/5 of one of 5


def test_the_same_twice() -> None:
    made = table()
    made.extend(made.select(flex.size_t([1])))
    assert rows(made) == [0, 1, 2, 3]
    boxes = shoeboxes.boxes_of(params(), made, 0, sweep())
    assert "Left out, as they stand there twice: 1" in boxes.notes


@pytest.mark.parametrize("place", [(float("nan"), 6.5, 10.5), (4.5, float("inf"), 10.5)])
def test_places_that_are_no_numbers(place: tuple) -> None:
    made = table()
    made["xyzobs.px.value"][2] = place
    assert rows(made) == [0, 1, 3]


def test_stills_have_one_image() -> None:
    made = table()
    made["bbox"] = flex.int6([(3, 6, 5, 8, 0, 1)] * 4)
    found = shoeboxes.boxes_of(params(border_images=3), made, 0, still())
    assert found.limits[:, 4:].tolist() == [[0, 1]] * 4


def test_the_strongest() -> None:
    assert rows(table(), most=2) == [2, 3]
    made = table()
    del made["intensity.sum.value"]
    with pytest.raises(Sorry, match="refine.shoeboxes.most: .*intensity.sum.value"):
        rows(made, most=2)


@pytest.mark.parametrize("column", ["id", "panel"])
def test_columns_that_must_be(column: str) -> None:
    made = table()
    del made[column]
    with pytest.raises(Sorry, match=f"no column '{column}'"):
        rows(made)
