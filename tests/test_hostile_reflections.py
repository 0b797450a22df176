# ruff: noqa: E402
"""Files of reflections and models, damaged: truncated, with bytes changed, other columns, noise."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("dials")

import hostile
import iotbx.cif
import simulate_helpers as sim
from cctbx import crystal, miller
from cctbx.array_family import flex
from iotbx import scalepack

from nanobragg_plugin.adapters import reflection_file

#: That of `simulate_helpers.crystal`, so that whole files are accepted.
SYMMETRY = crystal.symmetry((30.0, 39.6, 49.5, 80.3, 95.1, 100.2), "P1")


def amplitudes() -> miller.array:
    indices = miller.build_set(SYMMETRY, anomalous_flag=False, d_min=12)
    array = indices.array(flex.double(range(1, indices.size() + 1)))
    array.set_sigmas(flex.double(indices.size(), 1.0))
    return array.set_observation_type_xray_amplitude()


def wholes() -> dict[str, bytes]:
    """A whole file of each kind."""
    f = amplitudes()
    rows = list(zip(f.indices(), f.data()))
    f.as_mtz_dataset(column_root_label="F").mtz_object().write("a.mtz")
    model = iotbx.cif.model.cif()
    model["x"] = iotbx.cif.miller_arrays_as_cif_block(f, array_type="meas").cif_block
    intensities = f.f_as_f_sq()
    scalepack.merge.write(file_name="a.sca", miller_array=intensities)
    with open("a.hkl", "w") as stream:
        intensities.export_as_shelx_hklf(stream)
    atom = "ATOM  {0:5}  CA  ALA A{0:4}    {1:8.3f}{1:8.3f}{2:8.3f}  1.00 20.00           C\n"
    pdb = "CRYST1   30.000   39.600   49.500  80.30  95.10 100.20 P 1           1\n"
    pdb += "".join(atom.format(i, 2.0 * i, i / 2) for i in range(1, 9)) + "END\n"
    return {
        "mtz": Path("a.mtz").read_bytes(),
        "cif": str(model).encode(),
        "sca": Path("a.sca").read_bytes(),
        "shelx": Path("a.hkl").read_bytes(),
        "text": "".join(f"{h} {k} {l} {v}\n" for (h, k, l), v in rows).encode(),
        "pdb": pdb.encode(),
    }


def damaged(data: bytes, rng: np.random.Generator) -> list[bytes]:
    changed = []
    for _ in range(6):
        copy = bytearray(data)
        for at in rng.integers(0, len(data), int(rng.integers(1, 30))):
            copy[at] = rng.integers(256)
        changed.append(bytes(copy))
    half = len(data) // 2
    return [
        *(data[: int(n)] for n in np.linspace(0, len(data) - 1, 7)),
        *changed,
        data[half:],
        data[:half] + rng.bytes(500) + data[half:],
        data * 2,
        gzip.compress(data),
        data.replace(b"1", b"9999999999"),
        data.replace(b" ", b"\t,"),
        data.replace(b"0", b"nan"),
        data.replace(b"\n", b"\r"),
        data.upper(),
    ]


def test_damaged_files(tmp_cwd: Path) -> None:
    sim.write_expt("models.expt", sim.sweep(), images=True)
    rng = np.random.default_rng(8)
    cases, kinds = [], wholes()
    more = {"noise": rng.bytes(5000), "bomb.gz": gzip.compress(bytes(10**8))}
    files = {f"whole.{kind}": data for kind, data in kinds.items()} | more
    for kind, data in kinds.items():
        files |= {f"{n}.{kind}": one for n, one in enumerate(damaged(data, rng))}
    for name, data in files.items():
        Path(name).write_bytes(data)
        args = ["models.expt", *hostile.PLAN, f"structure_factors.file={name}"]
        if name.endswith("shelx"):
            args.append("structure_factors.observation_type=intensities")
        cases.append(["plan", args])
    found = dict(zip(files, hostile.assert_well(cases, tmp_cwd)))
    assert found["whole.mtz"][0] == "ok" and found["whole.text"][0] == "ok", found["whole.mtz"]
    assert sum(one.startswith("Sorry: ") for one, _ in found.values()) > 30


def test_long_text(tmp_path: Path) -> None:
    """3 x 10^5 lines in two blocks: as they were written, in the indices' order; a fault in the
    second block is named by its line. (10^7 lines, tried by hand: see CHANGELOG.)"""
    n = 300_000
    indices = np.stack([np.arange(n) % 70 - 30, np.arange(n) // 70 % 90, np.arange(n) // 6300], 1)
    path = tmp_path / "a.hkl"
    lines = [f"{h} {k} {l} {i}" for i, (h, k, l) in enumerate(indices.tolist())]
    path.write_text("\n".join(lines))
    found, amplitudes_ = reflection_file.read_hkl_text(path)
    order = np.lexsort(indices.T[::-1])
    assert (found == indices[order]).all() and (amplitudes_ == order).all()
    path.write_text("\n".join([*lines, "-30 0 0 5"]))
    with pytest.raises(reflection_file.Sorry, match="Line 300001 .*has another F for an index"):
        reflection_file.read_hkl_text(path)
    path.write_text("\n".join([*lines[:250_000], "1 2 x 5", *lines]))
    with pytest.raises(reflection_file.Sorry, match="Line 250001 .*not a number"):
        reflection_file.read_hkl_text(path)
