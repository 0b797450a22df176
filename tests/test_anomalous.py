# ruff: noqa: E402
"""f' and f'' by wavelength: amplitudes against cctbx's own, sources in groups, and their images.

Expected: cctbx's direct sum with each atom's f' and f'' set; tables of cctbx; images of the whole
beam.
"""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import miller_files as mf
import numpy as np
import pytest
import torch
from cctbx import uctbx, xray
from cctbx.eltbx import henke, sasaki
from dxtbx.model import Crystal
from libtbx.phil import parse
from libtbx.utils import Sorry

from nanobragg_plugin.adapters import anomalous, dispersion, model_f
from nanobragg_plugin.adapters import params as adapt
from nanobragg_plugin.models import Beam
from nanobragg_plugin.sources import split_sources

SYMBOL = "P 43 21 2"
EV_ANGSTROM = 12398.42
#: Selenium's K edge, 12658 eV, between them.
BELOW, ABOVE = EV_ANGSTROM / 12600, EV_ANGSTROM / 12700


def with_selenium() -> xray.structure:
    atoms = mf.structure(SYMBOL)
    atoms.add_scatterer(xray.scatterer("Se", site=(0.13, 0.29, 0.41), u=0.2))
    atoms.add_scatterer(xray.scatterer("Fe", site=(0.33, 0.19, 0.61), u=0.1))
    return atoms


def beam_of(wavelengths: list[float], weights: list[float] | None = None) -> Beam:
    n = len(wavelengths)
    weight = torch.tensor(weights or [1.0] * n, dtype=torch.float64)
    return Beam(
        direction=torch.tensor([[[0.0, 0.0, -1.0]] * n], dtype=torch.float64),
        wavelength=torch.tensor([wavelengths], dtype=torch.float64),
        weight=weight / weight.mean(),
        kahn_factor=torch.tensor(1.0, dtype=torch.float64),
        polarization_axis=torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64),
        fluence=torch.tensor(2.0, dtype=torch.float64),
    )


def parts(beam: Beam, path: Path, **values: object):
    """The beam in parts, each with its amplitudes of a model, and their summary."""
    given = {"model__bulk_solvent": False, "model__wavelength": "Auto", **values}
    params = mf.params(file=path, **given)
    rows = np.array(uctbx.unit_cell(mf.CELLS[SYMBOL]).orthogonalization_matrix()).reshape(3, 3).T
    crystal = Crystal(*(tuple(map(float, row)) for row in rows), space_group_symbol=SYMBOL)
    groups, summary = anomalous.amplitudes_of_beam(params, beam, crystal, mf.D_MIN)
    beams = split_sources(beam, [group.sources for group in groups])
    found = [
        (replace(part, fluence=share * part.fluence), group.structure_factors)
        for (part, share), group in zip(beams, groups)
    ]
    return found, summary


@pytest.fixture
def model(tmp_path) -> Path:
    path = tmp_path / "model.pdb"
    path.write_text(with_selenium().as_pdb_file())
    return path


def truth(factors: dict[str, complex]) -> dict:
    """|F| in P1 by cctbx, f' and f'' of elements set by hand."""
    atoms = with_selenium()
    for atom in atoms.scatterers():
        factor = factors.get(atom.element_symbol(), 0j)
        atom.fp, atom.fdp = factor.real, factor.imag
    return mf.p1_truth(atoms, SYMBOL)


# ---- amplitudes


@pytest.mark.parametrize("algorithm", ["direct", "fft"])
@pytest.mark.parametrize("bulk_solvent", [True, False])
def test_f_at_any_wavelength_is_f_at_that_wavelength(algorithm, bulk_solvent):
    """F0 + sum (f' + i f'') G against the same model with cctbx's set_inelastic_form_factors."""
    atoms = with_selenium()
    given = {"model__algorithm": algorithm, "model__bulk_solvent": bulk_solvent}
    options = mf.params(model__wavelength="Auto", **given).model
    source = dispersion.dispersion_of(options, atoms, "it")
    factors = model_f.model_factors(atoms, options, mf.D_MIN, "it", source.elements)
    for wavelength in (0.7, BELOW, ABOVE, 1.9):
        found = factors.at(source.at(wavelength))
        theirs = atoms.deep_copy_scatterers()
        theirs.scattering_type_registry(table="wk1995")
        theirs.set_inelastic_form_factors(photon=wavelength, table="sasaki")
        plain = mf.params(**given).model
        expected = model_f._amplitudes(theirs, plain, mf.D_MIN, "it", anomalous=True)
        expected, found = expected.common_sets(found)
        assert found.size() == expected.size() and found.anomalous_flag()
        largest = max(abs(expected).data())
        worst = max(abs(found.customized_copy(data=found.data() - expected.data())).data())
        # measured worst: 1.3e-7 (f' is a float32 in cctbx's tables), 2.4e-3 with fft's coarse grid
        assert worst < (1e-6 if algorithm == "direct" else 5e-3) * largest


def test_friedel_differences_at_the_edge_are_cctbx_s(model):
    """Two colours on either side of selenium's edge: two parts; F(+), F(-) and their difference."""
    made, summary = parts(beam_of([ABOVE, BELOW], [1, 3]), model)
    assert [float(part.fluence) for part, _ in made] == pytest.approx([0.5, 1.5], rel=1e-14)
    differences = []
    for (part, amplitudes), wavelength in zip(made, (ABOVE, BELOW)):
        assert part.wavelength.tolist() == [[wavelength]]
        expected = truth(
            {
                element: complex(table.fp(), table.fdp())
                for element in ("C", "N", "O", "S", "Fe", "Se")
                for table in [sasaki.table(element).at_angstrom(wavelength)]
            }
        )
        # coordinates to 0.001 A; measured worst 8e-4
        assert mf.worst(amplitudes, expected) < 2e-3
        hkl = [h for h in expected if h > tuple(-i for i in h)]
        found = mf.looked_up(amplitudes, [*hkl, *[tuple(-i for i in h) for h in hkl]])
        found = np.array(found).reshape(2, -1)
        theirs = np.array([[expected[h], expected[tuple(-i for i in h)]] for h in hkl]).T
        differences.append(np.abs(theirs[0] - theirs[1]).mean())
        assert np.abs((found[0] - found[1]) - (theirs[0] - theirs[1])).max() < 3e-3 * theirs.max()
    # f'' of Se is 3.8 above the edge, 0.5 below; iron has its own
    assert differences[0] > 2 * differences[1]
    assert "at 2 wavelengths in 2 groups" in str(summary)


def test_a_chosen_element(model):
    """Only selenium's f' and f'', of Henke's tables."""
    made, _ = parts(
        beam_of([ABOVE]), model, model__anomalous__elements="SE", model__anomalous__table="henke"
    )
    table = henke.table("Se").at_angstrom(ABOVE)
    expected = truth({"Se": complex(table.fp(), table.fdp())})
    assert mf.worst(made[0][1], expected) < 2e-3
    other = truth({"Se": complex(table.fp() + 1, table.fdp())})
    assert mf.worst(made[0][1], other) > 5e-3


def test_one_wavelength_for_all_sources(model):
    """A number in place of Auto: one part, the elements and table as chosen."""
    made, summary = parts(
        beam_of([ABOVE, 1.3]), model, model__wavelength=1.2, model__anomalous__elements="Fe"
    )
    table = sasaki.table("Fe").at_angstrom(1.2)
    assert len(made) == 1 and float(made[0][0].fluence) == 2.0 and "at 1.2 A" in str(summary)
    expected = truth({"Fe": complex(table.fp(), table.fdp())})
    assert mf.worst(made[0][1], expected) < 2e-3


def test_measured_factors(model, tmp_path):
    """Between the lines of a scan: linear in energy; tables for the other elements."""
    scan = tmp_path / "scan.txt"
    scan.write_text("# eV f' f''\n12600 -7 0.5\n12650, -10, 0.6\n12700 -8 4\n")
    given = {"model__anomalous__measured_file": scan, "model__anomalous__measured_element": "se"}
    made, summary = parts(beam_of([EV_ANGSTROM / 12690]), model, **given)
    assert "(sasaki, Se as measured)" in str(summary)
    iron = sasaki.table("Fe").at_angstrom(EV_ANGSTROM / 12690)
    light = {e: sasaki.table(e).at_angstrom(EV_ANGSTROM / 12690) for e in ("C", "N", "O", "S")}
    factors = {e: complex(t.fp(), t.fdp()) for e, t in {**light, "Fe": iron}.items()}
    factors["Se"] = -8.4 + 1j * (0.6 + 0.8 * 3.4)
    assert mf.worst(made[0][1], truth(factors)) < 2e-3
    with pytest.raises(Sorry, match="12600 to 12700 eV, but the beam has 12800 eV: give a file"):
        parts(beam_of([EV_ANGSTROM / 12800]), model, **given)


# ---- groups


def test_groups_of_like_factors():
    """Neighbours share a group while no f' or f'' of any element spans more than the tolerance."""
    wavelengths = [1.0, 1.3, 1.1, 1.2, 1.4]
    factors = [
        {"Se": complex(-5 - 10 * (w - 1), 1), "Fe": complex(0, 3 if w > 1.35 else 1)}
        for w in wavelengths
    ]
    groups = dispersion.wavelength_groups
    assert groups(wavelengths, factors, 0.5) == [[0], [2], [3], [1], [4]]
    assert groups(wavelengths, factors, 1.01) == [[0, 2], [3, 1], [4]]
    assert groups(wavelengths, factors, 2.01) == [[0, 2, 3], [1, 4]]
    assert groups(wavelengths, factors, 9) == [[0, 2, 3, 1, 4]]
    assert groups([1.0, 1.0], factors[:1] * 2, 0) == [[0, 1]]
    assert groups([1.0, 2.0], [{}, {}], 0) == [[0, 1]]


def test_a_group_has_the_mean_factors_of_its_photons(model):
    made, _ = parts(
        beam_of([ABOVE, BELOW], [1, 3]),
        model,
        model__anomalous__tolerance=20,
        model__anomalous__elements="Se",
    )
    assert len(made) == 1 and float(made[0][0].fluence) == pytest.approx(2, rel=1e-15)
    tables = [sasaki.table("Se").at_angstrom(w) for w in (ABOVE, BELOW)]
    above, below = (complex(t.fp(), t.fdp()) for t in tables)
    expected = truth({"Se": 0.25 * above + 0.75 * below})
    assert mf.worst(made[0][1], expected) < 2e-3


# ---- what is refused


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"elements": "Zn"}, "there is no Zn in model.pdb, whose elements are"),
        ({"measured_element": "Se"}, "measured_file and .measured_element go together"),
        ({"measured_file": "scan.txt"}, "measured_file and .measured_element go together"),
        (
            {"measured_file": "scan.txt", "measured_element": "Se", "elements": "Fe"},
            "measured_element=Se is not among its elements; add it",
        ),
        ({"measured_file": "swapped.txt", "measured_element": "Se"}, "CHOOCH writes f'' before f'"),
        ({"measured_file": "falling.txt", "measured_element": "Se"}, "energies must rise"),
        ({"measured_file": "kev.txt", "measured_element": "Se"}, "give them in eV"),
        ({"measured_file": "two.txt", "measured_element": "Se"}, "give energy (eV), f', f''"),
        ({"measured_file": "nowhere.txt", "measured_element": "Se"}, "cannot be read"),
        ({"table": "henke", "elements": "Fe", "far": True}, "has no f' and f'' of Fe at 1e-05 A"),
    ],
)
def test_bad_input(values, words, tmp_cwd):
    Path("model.pdb").write_text(with_selenium().as_pdb_file())
    Path("scan.txt").write_text("12000 -7 0.5\n13000 -8 4\n")
    Path("swapped.txt").write_text("12000 0.5 -7\n13000 4 -8\n")
    Path("falling.txt").write_text("13000 -7 0.5\n12000 -8 4\n")
    Path("kev.txt").write_text("12 -7 0.5\n13 -8 4\n")
    Path("two.txt").write_text("12000 0.5\n")
    beam = beam_of([1e-5 if values.pop("far", False) else 1.0])
    given = {f"model__anomalous__{name}": value for name, value in values.items()}
    with pytest.raises(Sorry, match=re.escape(words)) as caught:
        parts(beam, Path("model.pdb"), **given)
    assert "\n" not in str(caught.value)


def test_what_needs_a_wavelength_or_a_model(tmp_cwd):
    Path("one.hkl").write_text("1 2 3 10\n")
    with pytest.raises(Sorry, match="wavelength=Auto needs a model"):
        parts(beam_of([1.0]), Path("one.hkl"))
    Path("model.pdb").write_text(with_selenium().as_pdb_file())
    with pytest.raises(Sorry, match=re.escape("anomalous.elements needs structure_factors.model")):
        parts(
            beam_of([1.0]),
            Path("model.pdb"),
            model__wavelength=None,
            model__anomalous__elements="Se",
        )


def test_an_image_of_two_colours_across_an_edge(tmp_cwd):
    """Each colour has its own amplitudes: the image is the sum of those of the colours alone, each
    with half of the photons. Measured: 2e-7 of the maximum."""
    pytest.importorskip("dials")
    import simulate_helpers as sim
    from dxtbx.model import Beam as DxtbxBeam

    from nanobragg_plugin.run.images import Detection, Images

    Path("model.pdb").write_text(with_selenium().as_pdb_file())
    a, b, c = mf.CELLS[SYMBOL][:3]
    crystal = Crystal((a, 0, 0), (0, b, 0), (0, 0, c), space_group_symbol=SYMBOL)

    def plan(wavelength: float, at: str, *more: str, fluence: float = 1e24):
        text = ["structure_factors.file=model.pdb", f"beam.fluence={fluence}"]
        text += [f"structure_factors.model.wavelength={at}", "structure_factors.d_min=2.5", *more]
        text += ["structure_factors.model.algorithm=direct", "crystal.Ncells_abc=8,8,8"]
        text += ["sampling.oversample=1", "compute.kernel=dense"]
        params = adapt.master_scope().fetch(parse("\n".join(text))).extract()
        beam = DxtbxBeam((0, 0, 1), wavelength)
        return adapt.plan(params, sim.sweep(beam=beam, crystal=crystal))

    def image(made) -> np.ndarray:
        return Images([made], Detection()).bragg(1)[0].numpy()

    colours = "beam.spectrum.shape=two_colour", "beam.spectrum.separation_ev=100"
    middle = EV_ANGSTROM / ((EV_ANGSTROM / ABOVE + EV_ANGSTROM / BELOW) / 2)
    both = plan(middle, "Auto", *colours)
    assert len(both.parts) == 2
    alone = [image(plan(one, str(one), fluence=5e23)) for one in (ABOVE, BELOW)]
    assert np.abs(image(both) - sum(alone)).max() < 1e-6 * image(both).max()
    # the amplitudes of one wavelength for both would not do
    wide = plan(middle, "Auto", *colours, "structure_factors.model.anomalous.tolerance=20")
    assert len(wide.parts) == 1
    assert np.abs(image(wide) - image(both)).max() > 1e-3 * image(both).max()
    one = plan(middle, "Auto")
    assert math.isfinite(float(one.structure_factors.Fhkl.max()))
    assert "at 1 wavelengths in 1 groups" in "\n".join(one.notes)


def test_background_is_of_all_colours(tmp_cwd):
    """Water in a beam of two colours whose amplitudes differ: as of those whose do not."""
    pytest.importorskip("dials")
    import simulate_helpers as sim
    from dxtbx.model import Beam as DxtbxBeam

    Path("model.pdb").write_text(with_selenium().as_pdb_file())
    a, b, c = mf.CELLS[SYMBOL][:3]
    crystal = Crystal((a, 0, 0), (0, b, 0), (0, 0, c), space_group_symbol=SYMBOL)
    beam = DxtbxBeam((0, 0, 1), (ABOVE + BELOW) / 2)
    sim.write_expt("sweep.expt", sim.sweep(crystal=crystal, beam=beam))
    given = ["model.pdb", "beam.spectrum.shape=two_colour", "beam.spectrum.separation_ev=900"]
    given += ["structure_factors.model.wavelength=Auto", "structure_factors.d_min=2.5"]
    given += ["beam.flux=1e12", "beam.exposure_s=1", "beam.beamsize_mm=0.05"]
    given += ["background.water.thickness_mm=1", "noise.poisson=False", "crystal.spot_scale=1e-20"]
    images = []
    for tolerance in (0, 100):
        more = f"structure_factors.model.anomalous.tolerance={tolerance}"
        usual = [one for one in sim.QUICK if not one.startswith(("beam", "crystal.spot"))]
        sim.simulate("sweep.expt", *usual, *given, more, f"output.prefix=at{tolerance}")
        images.append(sim.pixels(f"at{tolerance}.nxs"))
    assert np.ptp(images[1]) > 10
    assert np.abs(images[0] - images[1]).max() < 1e-6 * images[1].max()
