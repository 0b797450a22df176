# ruff: noqa: F811
"""Memory of large data: what is told of it, and that steps take some boxes at a time."""

from __future__ import annotations

from pathlib import Path

import nanobragg_plugin  # noqa: F401  isort: skip  before dxtbx

import numpy as np
import pytest
import torch

pytest.importorskip("dials")

from libtbx.utils import Sorry  # noqa: E402
from refine_models import exposures  # noqa: E402
from test_refine_command import START, refine, still, still_data  # noqa: E402, F401
from test_refine_fit import target_of  # noqa: E402

from nanobragg_plugin.adapters.shoeboxes import Boxes  # noqa: E402
from nanobragg_plugin.refine import normal, problem  # noqa: E402


def test_estimate() -> None:
    """50 bytes of each pixel, and four numbers of each box's three terms with each parameter: by
    hand, of boxes of 10 x 8 pixels in 3 images and of 5 x 5 in one."""
    limits = np.array([[0, 10, 0, 8, 4, 7], [90, 95, 0, 5, 0, 1]])
    boxes = Boxes(np.arange(2), np.zeros(2, int), limits, ())
    assert problem.memory_of(boxes, 0, 100) == 50 * (240 + 25)
    assert problem.memory_of(boxes, 3, 100) == 50 * (240 + 25) + 2 * 3 * 100 * 32


def test_told_before_reading(still: Path, monkeypatch) -> None:
    """Of large data alone."""
    few = "refine.iterations=1", "refine.coarse=False", "output.pictures=False", "refine.blur=1"
    for said, lines in ((1e9, 0), (0.0, 1)):
        monkeypatch.setattr(problem, "SAID", said)
        with pytest.raises(Sorry, match="did not converge"):
            refine("start.expt", "start.refl", *START, *few, "output.overwrite=True")
        told = [
            one for one in Path("nanobragg.refine.log").read_text().splitlines() if "memory" in one
        ]
        assert len(told) == lines
    assert "shoeboxes in 1 images: memory at most about 0.5 GB" in told[0]


def test_some_boxes_at_a_time(monkeypatch) -> None:
    """As all at once, and as one by one."""
    target = target_of(("orientation", "scale"), shots=exposures(2, 0.5), image_scales=True)
    found = target.normal(target.start())
    information, gradient = found.reduced()
    for size in (1, 1000):
        monkeypatch.setattr(normal, "AT_ONCE", size)
        again = found.reduced()
        torch.testing.assert_close(again[0], information, rtol=1e-10, atol=1e-8)
        torch.testing.assert_close(again[1], gradient, rtol=1e-10, atol=1e-8)
