"""nanobragg.refine against DIALS on the same weak images: the examples, smaller."""

from __future__ import annotations

import pytest

pytest.importorskip("dials")


def test_models(example) -> None:
    """Errors of the crystal, root mean squares over three draws of the noise (measured: 0.24, 0.31
    and 0.32 of those of dials.refine), and what dials.integrate makes of the models: of the
    reflections that the true models have, and of F^2 (measured: 0.0003 better; of a draw up to
    0.002 worse or better). The model is sampled coarsely."""
    refine_dials = example("refine_dials")
    coarse = "sampling.oversample=1", "refine.coarse=False"
    found = refine_dials["means"](refine_dials["main"]("out", 3, *coarse))
    true, theirs, ours = (found[name] for name in ("true", "refined", "pixels"))
    for name in ("misorientation, degrees", "cell, %", "distance, mm"):
        assert true[name] < 1e-6 < ours[name] < 0.75 * theirs[name], name
    count, correlation = refine_dials["REACHED"]
    assert ours[count] > 0.98 * true[count] and ours[count] >= theirs[count]
    assert ours[correlation] > theirs[correlation] - 0.001


def test_amplitudes(example) -> None:
    """F and F^2 of stills whose spots overlap, from one amplitude for all: nearer to the truth than
    whatever was merged, over the same reflections (measured: 0.984 to 0.996, and 0.30 to 0.66 by
    DIALS, once 0.82 of F, whose scaling does not always end alike; errors of F
    over sigma 1.13 by their median, rms 1.10)."""
    figures, (square, median) = example("refine_amplitudes")["main"]("out", 8)
    assert len(figures) == 6
    for theirs, ours, count in figures.values():
        assert count > 100
        for one, other in zip(theirs, ours):
            assert one + 0.1 < other and other > 0.97
    assert 0.85 < median < 1.3 and 0.85 < square < 1.25
