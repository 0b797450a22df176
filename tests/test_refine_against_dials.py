"""nanobragg.refine against DIALS on the same weak images: the examples, smaller."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

pytest.importorskip("dials")

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


@pytest.fixture
def example(monkeypatch, tmp_cwd):
    """Loads an example as a module's dictionary."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return lambda name: runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name=name)


def test_models(example) -> None:
    """Errors of the crystal, root mean squares over draws of the noise, and what dials.integrate
    makes of the models: of the reflections that the true models have, and of F^2."""
    refine_dials = example("refine_dials")
    found = refine_dials["means"](refine_dials["main"]("out", 4))
    true, theirs, ours = (found[name] for name in ("true", "refined", "pixels"))
    for name in ("misorientation, degrees", "cell, %", "distance, mm"):
        assert true[name] < 1e-6 < ours[name] < 0.8 * theirs[name], name
    count, correlation = refine_dials["REACHED"]
    assert ours[count] > 0.98 * true[count] and ours[count] >= theirs[count] - 0.5
    assert ours[correlation] > theirs[correlation] - 0.001
