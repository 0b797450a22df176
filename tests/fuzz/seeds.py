"""Writes the first files of the corpus in tests/data/fuzz: small whole files of each kind."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
from scitbx.array_family import flex
from targets import CORPUS

from nanobragg_plugin.adapters import fdump
from nanobragg_plugin.format import header_models


class Call:
    """What a malicious pickle does."""

    def __reduce__(self) -> tuple:
        return (print, ("called",))


def seeds() -> dict[str, dict[str, bytes]]:
    mask, gain = flex.bool(flex.grid(2, 3), True), flex.double(flex.grid(2, 2), 1.5)
    values = flex.double([0.0, -1e300, 3e-310, 0.1])
    indices = np.array([[0, 0, 1], [1, 2, 3], [-1, 0, 2]])
    header = (
        b"{\nHEADER_BYTES=  512;\nDIM=2;\nBYTE_ORDER=little_endian;\nTYPE=unsigned_short;\n"
        b"SIZE1=3;\nSIZE2=2;\nPIXEL_SIZE=0.1;\nDISTANCE=100.0;\n}\n\f"
    )
    packed = header_models.packed_text({"format_version": 1, "models": {"beam": None}})
    return {
        "flex_pickle": {
            "mask": pickle.dumps((mask, mask), 5),
            "mask_list": pickle.dumps([mask], 3),
            "mask_2": pickle.dumps(mask, 2),
            "gain": pickle.dumps(gain, 4),
            "values": pickle.dumps((values,), 4),
            "call": pickle.dumps(Call()),
            "dict": pickle.dumps({"a": [1.5, None]}, 0),
        },
        "reflections": {
            "plain": b"# h k l F\n1 2 3 4.5\n-1 0 2 1e3\n\n1 2 3 4.5 # again\n",
            "wrong": b"1 2 3 4\n1.5 2 3 4\n1 2 3\n1 2 3 -4\n1 2 3 nan\n1 2 x 4\n",
        },
        "fdump": {"plain": fdump.to_bytes(indices, np.array([1.0, 2.5, 3.0]))},
        "spectrum": {
            "plain": b"# eV, photons\n12000, 1\n12001 3.5\n12002.5 2\n12004 -1e-3\n",
            "wrong": b"12000 1\n11999 2\n1 2 3\nnan 1\n",
        },
        "sources": {
            "plain": b"0 0 1\n0 0.1 10 2.5 1e-10 # x\n1e-3,0;1:0.5!1.1e-10\n",
            "wrong": b"0 0 0\n0 0 1 -1\n0 0 1 1 1\n0 0 1 1 1e-10 5\n",
        },
        "headers": {"plain": packed.encode(), "cut": packed[:-5].encode()},
        "smv": {
            "plain": header.ljust(512) + bytes(range(12)),
            "over": header.replace(b"512", b"100") + bytes(range(12)),
        },
    }


if __name__ == "__main__":
    for target, files in seeds().items():
        folder = Path(CORPUS) / target
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            (folder / name).write_bytes(data)
