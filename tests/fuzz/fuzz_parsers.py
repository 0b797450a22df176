"""Fuzz one of our parsers with atheris (libFuzzer), which sees which lines its bytes reach.

    python -m venv --system-site-packages fuzzing && fuzzing/bin/pip install atheris
    fuzzing/bin/python tests/fuzz/fuzz_parsers.py flex_pickle new tests/data/fuzz/flex_pickle \
        -max_total_time=300 -max_len=2000

The first folder gets what is found; `-merge=1` keeps of a second and later ones what reaches
anything new. A fault ends it, and leaves the bytes in crash-*. Other options: libFuzzer's.
Targets: see targets.py.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parent))

with atheris.instrument_imports(include=["nanobragg_plugin.adapters", "nanobragg_plugin.format"]):
    import targets

if __name__ == "__main__":
    atheris.Setup([sys.argv[0], *sys.argv[2:]], targets.TARGETS[sys.argv[1]])
    atheris.Fuzz()
