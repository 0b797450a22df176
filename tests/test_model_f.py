"""Amplitudes of models against cctbx's direct sum over all atoms of the cell, and mmtbx's model."""

from __future__ import annotations

from pathlib import Path

import iotbx.cif
import miller_files as mf
import pytest
import torch  # noqa: F401  (before cctbx, which loads an OpenMP stub)
from cctbx import xray
from iotbx.pdb import input as pdb_input
from libtbx.utils import Sorry

from nanobragg_plugin.adapters.model_f import model_structure_factors, read_model

GROUPS = ["P 1", "C 1 2 1", "P 43 21 2", "R 3 :H", "I 2 3"]


def write_pdb(atoms: xray.structure, path) -> str:
    path.write_text(atoms.as_pdb_file())
    return str(path)


def write_mmcif(atoms: xray.structure, path) -> str:
    pdb = pdb_input(source_info=None, lines=atoms.as_pdb_file().splitlines())
    cif = iotbx.cif.model.cif()
    cif["made_up"] = pdb.construct_hierarchy().as_cif_block(
        crystal_symmetry=atoms.crystal_symmetry()
    )
    path.write_text(str(cif))
    return str(path)


def write_core_cif(atoms: xray.structure, path) -> str:
    with path.open("w") as stream:
        atoms.as_cif_simple(out=stream, format="corecif")
    return str(path)


@pytest.mark.parametrize("algorithm", ["direct", "fft"])
@pytest.mark.parametrize("symbol", GROUPS)
def test_pdb(symbol, algorithm, tmp_path):
    path = write_pdb(mf.structure(symbol), tmp_path / "model.pdb")
    sf, summary = mf.read(path, symbol, model__bulk_solvent=False, model__algorithm=algorithm)
    # Coordinates to 0.001 A; measured worst 7.2e-4 with either algorithm.
    assert mf.worst(sf, mf.p1_truth(mf.structure(symbol), symbol)) < 2e-3
    assert summary.how == "calculated from 12 atoms" and summary.completeness == 1.0


@pytest.mark.parametrize("write", [write_mmcif, write_core_cif])
@pytest.mark.parametrize("symbol", ["C 1 2 1", "P 43 21 2"])
def test_model_cif(symbol, write, tmp_path):
    path = write(mf.structure(symbol), tmp_path / "model.cif")
    sf, _ = mf.read(path, symbol, model__bulk_solvent=False)
    assert mf.worst(sf, mf.p1_truth(mf.structure(symbol), symbol)) < 2e-3


@pytest.mark.parametrize("wavelength", [None, 0.9792])
@pytest.mark.parametrize("symbol", ["C 1 2 1", "P 43 21 2"])
def test_bulk_solvent_is_that_of_mmtbx(symbol, wavelength):
    f_model = pytest.importorskip("mmtbx.f_model")
    atoms = mf.structure(symbol)
    values = {"model__wavelength": wavelength, "model__algorithm": "direct"}
    options = mf.params(model__k_sol=0.4, model__b_sol=30, **values).model
    ours = model_structure_factors(atoms, options, mf.D_MIN, "model")
    if wavelength is not None:
        atoms.set_inelastic_form_factors(photon=wavelength, table="sasaki")
    f_obs = abs(atoms.structure_factors(d_min=mf.D_MIN, anomalous_flag=bool(wavelength)).f_calc())
    accuracy = f_model.sf_and_grads_accuracy_master_params.extract()
    accuracy.algorithm = "direct"
    manager = f_model.manager(
        f_obs=f_obs,
        xray_structure=atoms,
        k_sol=0.4,
        b_sol=30.0,
        sf_and_grads_accuracy_params=accuracy,
    )
    theirs, ours = manager.f_model().common_sets(ours)
    assert theirs.size() == ours.size() == f_obs.size()
    difference = abs(ours.customized_copy(data=ours.data() - theirs.data()))
    largest = max(abs(theirs).data())
    # measured worst 1.2e-16; with f', whose interpolation cctbx rounds to float32, 1.1e-10
    assert max(difference.data()) < (1e-12 if wavelength is None else 1e-9) * largest
    dry = mf.params(model__bulk_solvent=False, **values).model
    dry = model_structure_factors(mf.structure(symbol), dry, mf.D_MIN, "model")
    wet = abs(ours.customized_copy(data=ours.data() - dry.common_set(ours).data()))
    assert max(wet.data()) > 0.05 * largest


def test_wavelength_parts_friedel_mates(tmp_path):
    symbol = "P 43 21 2"
    atoms = mf.structure(symbol)
    atoms.add_scatterer(xray.scatterer("Se", site=(0.13, 0.29, 0.41), u=0.2))
    path = write_pdb(atoms, tmp_path / "model.pdb")
    sf, summary = mf.read(path, symbol, model__bulk_solvent=False, model__wavelength=0.9792)
    atoms.set_inelastic_form_factors(photon=0.9792, table="sasaki")
    truth = mf.p1_truth(atoms, symbol)
    assert mf.worst(sf, truth) < 2e-3
    apart = [abs(F - truth[tuple(-i for i in h)]) for h, F in truth.items()]
    assert max(apart) > 0.02 * max(truth.values())
    assert "0.9792 A" in summary.how


def test_model_reaches_every_sample_of_the_detector(tmp_path):
    symbol = "P 43 21 2"
    path = write_pdb(mf.structure(symbol), tmp_path / "model.pdb")
    sf, _ = mf.read(path, symbol, default_F=1e6)
    # Points on the sphere 1/d_min are nearest to reflections half a reciprocal cell beyond it.
    half = sum(mf.symmetry(symbol).unit_cell().reciprocal_parameters()[:3]) / 2
    reach = mf.all_p1(symbol, 1 / (1 / mf.D_MIN + half))
    assert 1e6 not in mf.looked_up(sf, reach.indices())
    weak = reach.select(reach.d_spacings().data() < 3.0).indices()
    sf, _ = mf.read(path, symbol, d_min=3.0)
    assert set(mf.looked_up(sf, weak)) == {0.0}


def _pdb_text(**changes) -> str:
    lines = mf.structure("P 1").as_pdb_file().splitlines()
    cryst1 = [line for line in lines if line.startswith("CRYST1")]
    atoms = [line for line in lines if line.startswith(("ATOM", "HETATM"))]
    assert cryst1 and len(atoms) == 12
    return {
        "no cell": "\n".join(atoms),
        "no atoms": "\n".join(cryst1),
        "two models": "\n".join(
            [*cryst1, "MODEL        1", *atoms, "ENDMDL", "MODEL        2", *atoms, "ENDMDL"]
        ),
        "no element": "\n".join([*cryst1, atoms[0][:12] + " Qq " + atoms[0][16:76] + "Qq"]),
    }[changes["what"]]


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("no cell", "no unit cell"),
        ("no atoms", "no atoms"),
        ("two models", "2 models"),
        ("no element", "cannot be used as a model: Unknown chemical element"),
    ],
)
def test_bad_models(what, message, tmp_path):
    path = tmp_path / "model.pdb"
    path.write_text(_pdb_text(what=what) + "\nEND\n")
    with pytest.raises(Sorry, match=message) as sorry:
        mf.read(path, "P 1")
    assert str(path) in str(sorry.value)


def test_model_of_another_crystal(tmp_path):
    path = write_pdb(mf.structure("P 1"), tmp_path / "model.pdb")
    with pytest.raises(Sorry, match="unit cell of"):
        mf.read(path, "P 1 21 1")
    with pytest.raises(Sorry, match="contradicts"):
        mf.read(path, "P 1", crystal_group="P -1")


def test_read_model_keeps_every_atom(tmp_path):
    path = write_pdb(mf.structure("C 1 2 1"), tmp_path / "model.pdb")
    assert read_model(Path(path), "pdb").scatterers().size() == 12
