"""Warnings of what is not physics though it is nanoBragg.c's, and of what is not nanoBragg.c's."""

from __future__ import annotations

from collections.abc import Iterator

from nanobragg_plugin.adapters.classic.settings import Settings
from nanobragg_plugin.sources import Grid


def differs(s: Settings, phi: Grid) -> Iterator[str]:
    """A sentence for each thing that a command line has of either kind."""
    yield from _of_modes(s, phi)
    if "-misset_seed" in s.given:
        yield (
            "nanoBragg.c takes -misset_seed for -misset too, with the next three words for its "
            "angles, unless -misset random comes after it; here it is the seed alone"
            + ("" if s.misset == "random" else ", which without -misset random does nothing")
        )
    if s.thickness == 0 and s.oversample_thick:
        yield "-oversample_thick without -detector_thick does nothing; nanoBragg.c's image is 0"
    if s.nopolar and s.oversample_polar:
        yield (
            "-oversample_polar takes the polarization into account in spite of -nopolar, as "
            "nanoBragg.c does"
        )
    if s.water:
        yield (
            "-water is nanoBragg.c's figure, which is not physical: it holds the fluence twice "
            "and is divided by the number of steps"
        )


def _of_modes(s: Settings, phi: Grid) -> Iterator[str]:
    at_zero = [k for k in range(phi.count) if s.phi + phi.step * k == 0.0]
    if s.phi_carryover_mode == "spec" and at_zero and phi.count > 1 and phi.step:
        yield (
            "nanoBragg.c does not rotate the crystal where phi is exactly 0, as it is at step "
            f"{at_zero[0] + 1} of {phi.count}: its image is another; -phi_carryover_mode c-parity "
            "gives it"
        )
    every = [f"-oversample_{n}" for n in ("polar", "omega") if getattr(s, f"oversample_{n}")]
    if s.oversample_thick and s.thickness:
        every.insert(0, "-oversample_thick")
    if every:
        yield (
            f"{' '.join(every)}: nanoBragg.c multiplies the sum of all samples so far, here each "
            "sample is multiplied by its own factor: of several samples its image is another"
        )
