"""A still: simulate it, let DIALS find and index its spots.

python examples/still.py [FOLDER]
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from demo import HERE, command, write_structure_factors

from nanobragg_plugin.compare import truth  # isort: skip

from dxtbx.model.experiment_list import ExperimentListFactory


def main(folder: str = "still") -> float:
    """Degrees between the crystal that was simulated and the one that was found."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    write_structure_factors("F.mtz")
    command("nanobragg.simulate", str(HERE / "still.phil"), "F.mtz", "output.overwrite=True")
    command("dials.import", "still.nxs")
    command("dials.find_spots", "imported.expt", "nproc=1")
    known = ("unit_cell=79.1,79.1,38.4,90,90,90", "space_group=P4", "detector.fix=all")
    # Debian's cctbx lacks what DIALS' indexer of stills needs
    command("dials.index", "imported.expt", "strong.refl", "stills.indexer=sequences", *known)
    true, found = (
        ExperimentListFactory.from_json_file(name, check_format=False)[0].crystal
        for name in ("still.expt", "indexed.expt")
    )
    result = truth.compare_crystals(true, found)
    print(f"  misorientation: {result.misorientation_deg:.4f} degrees")
    print(f"  the images and their models are in {Path.cwd() / 'still.expt'}")
    return result.misorientation_deg


if __name__ == "__main__":
    main(*sys.argv[1:])
