# ruff: noqa: E402
"""nanobragg.view: which pixels, spots and images its pictures show, and what it refuses."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("dials")

import simulate_helpers as sim
from dials.array_family import flex
from libtbx.utils import Sorry
from matplotlib.image import imread
from PIL import Image

from nanobragg_plugin.command_line import view

#: Nothing but pixels, each a square of 5 x 6 dots.
BARE = ("frame=False", "resolution_rings=None", "beam_centre=False", "size_px=120")
MORE = ("crystal.Ncells_abc=6,5,4", "background.level=30", "crystal.spot_scale=1e2")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a sweep of images 11 to 13, one of two panels, and two stills."""
    folder = tmp_path_factory.mktemp("images")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        sim.write_expt("a.expt", sim.sweep())
        sim.simulate("a.expt", *sim.QUICK, *MORE, "output.prefix=sweep")
        sim.write_expt("b.expt", sim.sweep(detector=sim.detector(2)))
        sim.simulate("b.expt", *sim.QUICK, *MORE, "output.prefix=panels")
        sim.write_expt("c.expt", sim.still(), sim.still(identifier="other"))
        sim.simulate("c.expt", *sim.STILL, *MORE, "output.prefix=stills")
    return folder


@pytest.fixture
def here(made: Path, tmp_cwd: Path) -> Path:
    for path in made.iterdir():
        shutil.copy(path, tmp_cwd)
    for old in ("sweep", "panels", "stills"):  # the lists name images by absolute paths
        text = Path(f"{old}.expt").read_text()
        Path(f"{old}.expt").write_text(text.replace(str(made), str(tmp_cwd)))
    return tmp_cwd


def run(*args: object) -> None:
    view.run([str(arg) for arg in args])


def greys(path: str = "view.png", slow: int = 18, fast: int = 24) -> np.ndarray:
    """[slow, fast]: the red level, 0 to 255, of each pixel's square, which is of one colour."""
    picture = np.round(imread(path)[..., :3] * 255).astype(int)
    high, wide = picture.shape[0] // slow, picture.shape[1] // fast
    squares = picture.reshape(slow, high, fast, wide, 3)
    assert (squares == squares[:, :1, :, :1]).all()
    return squares[:, 0, :, 0, 0]


def expected(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """What matplotlib's grey map of 256 levels, dark for large, makes of a linear scale."""
    return 255 - np.clip(np.floor((values - low) / (high - low) * 256), 0, 255).astype(int)


LINEAR = ("contrast=linear", "vmin=0", "vmax=128")


@pytest.mark.parametrize("number", [11, 13])
@pytest.mark.parametrize("source", ["sweep.expt", "sweep.nxs"])
def test_pixels_of_an_image(source: str, number: int, here: Path) -> None:
    """Every pixel's shade is that of the number in the file."""
    run(source, f"image={number}", *BARE, *LINEAR)
    values = sim.pixels("sweep.nxs")[number - 11]
    assert len(np.unique(values)) > 10
    np.testing.assert_allclose(greys(), expected(values, 0, 128), atol=1)


def test_the_first_image_is_shown_unless_asked(here: Path) -> None:
    run("sweep.nxs", *BARE, *LINEAR)
    np.testing.assert_allclose(greys(), expected(sim.pixels("sweep.nxs")[0], 0, 128), atol=1)


def test_sum_of_images(here: Path) -> None:
    run("sweep.expt", "image=12", "sum_images=2", *BARE, *LINEAR)
    total = sim.pixels("sweep.nxs")[1:].sum(0)
    np.testing.assert_allclose(greys(), expected(total, 0, 128), atol=1)


def test_a_zoom_is_exact(here: Path) -> None:
    """Fast 5 to 16, slow 2 to 10 of the second panel."""
    run("panels.expt", "panel=1", "zoom=5,16,2,10", *BARE, *LINEAR)
    values = sim.pixels("panels.nxs")[0]
    assert values.shape in ((18, 48), (36, 24))
    second = values[:, 24:] if values.shape == (18, 48) else values[18:]
    got = greys(slow=9, fast=12)
    np.testing.assert_allclose(got, expected(second[2:11, 5:17], 0, 128), atol=1)


def test_stills_are_numbered_from_1(here: Path) -> None:
    run("stills.expt", "image=1,2", *BARE, *LINEAR)
    for number in (1, 2):
        values = sim.pixels(f"stills_{number}.nxs")[0]
        np.testing.assert_allclose(greys(f"view_{number}.png"), expected(values, 0, 128), atol=1)
    run("stills.expt", "imageset=1", "output=one.png", *BARE, *LINEAR)
    assert (greys("one.png") == greys("view_2.png")).all()


def test_several_pictures_share_a_scale(here: Path) -> None:
    run("sweep.expt", "image=11,13", *BARE, "contrast=linear")
    first, last = sim.pixels("sweep.nxs")[[0, 2]]
    low, high = np.percentile(first[first > 0], (50, 99.9))
    high = max(high, 10 * low)
    np.testing.assert_allclose(greys("view_13.png"), expected(last, low, high), atol=1)


def test_untrusted_pixels(here: Path) -> None:
    """Below the trusted range, -1: masked; above: overloads."""
    with h5py.File("sweep.nxs", "r+") as handle:
        handle["/entry/data/data"][0, 3, 4] = -2
        handle["/entry/data/data"][0, 5, 6] = 2000000
    run("sweep.nxs", *BARE)
    picture = np.round(imread("view.png") * 255).astype(int)[3::6, 2::5]
    assert tuple(picture[3, 4][:3]) == (0xC9, 0xD8, 0xE6)
    assert tuple(picture[5, 6][:3]) == (0xE8, 0x59, 0x0C)
    run("sweep.nxs", "output=framed.png")  # with a legend
    framed = np.round(imread("framed.png") * 255).astype(int)[..., :3]
    assert (framed[-30:] == (0xE8, 0x59, 0x0C)).all(-1).sum() > 20


def test_cbf_images(here: Path) -> None:
    """What dxtbx reads of a CBF, of another format than ours."""
    from dxtbx.format.FormatCBFMini import FormatCBFMini
    from dxtbx.model.experiment_list import ExperimentListFactory

    imageset = ExperimentListFactory.from_filenames(["sweep.nxs"])[0].imageset
    data = imageset.get_raw_data(1)[0]
    FormatCBFMini.as_file(
        imageset.get_detector(),
        imageset.get_beam(),
        imageset.get_goniometer(),
        imageset.get_scan()[1:2],
        data,
        "image_0012.cbf",
    )
    run("image_0012.cbf", "image=12", *BARE, *LINEAR)
    shown = greys()
    np.testing.assert_allclose(shown, expected(data.as_numpy_array(), 0, 128), atol=1)
    run("image_####.cbf", *BARE, *LINEAR)
    assert (greys() == shown).all()


def table(**columns) -> flex.reflection_table:
    """Spots of images 11 and 12 (z from 10), and one whose bbox reaches into 12."""
    result = flex.reflection_table()
    result["xyzobs.px.value"] = flex.vec3_double(
        [(3.5, 4.5, 10.4), (11.5, 13.5, 11.6), (20.5, 5, 10.9)]
    )
    result["bbox"] = flex.int6(
        [(2, 5, 3, 6, 10, 11), (10, 13, 12, 15, 11, 12), (19, 22, 4, 6, 10, 12)]
    )
    result["panel"] = flex.size_t(3, 0)
    result["id"] = flex.int(3, -1)
    for name, values in columns.items():
        result[name] = values
    return result


def marked(*args: object) -> set[tuple[int, int]]:
    """(slow, fast) of pixels whose squares a mark changes, of a blank picture."""
    blank = ("vmin=1e8", "vmax=1e9", "contrast=linear", *BARE)
    run("sweep.expt", *args, *blank)
    picture = np.round(imread("view.png")[..., :3] * 255).astype(int)
    rows, columns = np.nonzero((picture != 255).any(-1))
    return {(r // 6, c // 5) for r, c in zip(rows, columns)}


def middles(pixels: set[tuple[int, int]]) -> list[tuple[float, float]]:
    """(fast, slow) of the middle of each group of pixels, from left to right."""
    from scipy.ndimage import find_objects, label

    picture = np.zeros((18, 24), bool)
    for slow, fast in pixels:
        picture[slow, fast] = True
    groups = find_objects(label(picture, np.ones((3, 3)))[0])
    return sorted(((f.start + f.stop) / 2, (s.start + s.stop) / 2) for s, f in groups)


def test_found_spots(here: Path) -> None:
    """Those whose bbox is on the image; half a pixel is the squares' grain."""
    table().as_file("strong.refl")
    np.testing.assert_allclose(
        middles(marked("strong.refl", "image=12")), [(11.5, 13.5), (20.5, 5)], atol=0.51
    )
    assert len(middles(marked("strong.refl", "image=11", "spots.show=found"))) == 2
    assert len(middles(marked("strong.refl", "image=11", "sum_images=3"))) == 3


def test_spots_without_bbox_by_their_centroids(here: Path) -> None:
    strong = table()
    del strong["bbox"]
    strong.as_file("strong.refl")
    assert len(middles(marked("strong.refl", "image=12"))) == 1
    assert len(middles(marked("strong.refl", "image=12", "spots.margin_images=0.2"))) == 2


def test_spots_of_tables_that_have_both(here: Path, capsys) -> None:
    table(**{"xyzcal.px": flex.vec3_double([(4, 5, 10.5), (0, 0, 0), (20, 3, 10.9)])}).as_file(
        "indexed.refl"
    )
    for show, text in (
        ("auto", "2 found, 2 predicted"),
        ("found", ", 2 found\n"),
        ("predicted", ", 2 predicted\n"),
        ("both", "2 found, 2 predicted"),
    ):
        run("sweep.expt", "indexed.refl", f"spots.show={show}")
        assert text in capsys.readouterr().out


def test_spots_of_their_own_panel(here: Path) -> None:
    strong = table(panel=flex.size_t([0, 1, 1]))
    strong.as_file("strong.refl")
    run("panels.expt", "strong.refl", "panel=0")
    with pytest.raises(Sorry, match="no spots on what is shown of image 11: those of the image"):
        run("panels.expt", "strong.refl", "panel=1", "zoom=0,3,0,3")


def test_spots_of_their_own_still(here: Path, capsys) -> None:
    """Two stills: the spots of experiment 1 are not on the first."""
    strong = table(id=flex.int([0, 1, 1]))
    del strong["bbox"]
    strong["xyzobs.px.value"] = flex.vec3_double([(3.5, 4.5, 0.5), (10.5, 8.5, 0.5), (2, 9, 0.5)])
    strong.as_file("strong.refl")
    run("stills.expt", "strong.refl", "image=1,2")
    out = capsys.readouterr().out
    assert "view_1.png" in out and ", 1 found\n" in out and ", 2 found\n" in out


@pytest.mark.parametrize("source", ["sweep.expt", "sweep.nxs"])
def test_predicted_spots(source: str, here: Path, capsys) -> None:
    """As many as DIALS predicts with centroids in image 12, on the picture where it says."""
    experiment = sim.load("sweep.expt")[0]
    predicted = flex.reflection_table.from_predictions(experiment)
    x, y, z = predicted["xyzcal.px"].parts()
    on = predicted.select((z >= 11) & (z < 12))
    run(source, "image=12", "spots.predict=True")
    assert len(on) > 5 and f", {len(on)} predicted\n" in capsys.readouterr().out
    wider = predicted.select((z >= 10.5) & (z < 12.5))
    run(source, "image=12", "spots.predict=True", "spots.margin_images=0.5")
    assert len(wider) > len(on) and f", {len(wider)} predicted\n" in capsys.readouterr().out


def test_predicted_spots_are_where_dials_has_them(here: Path) -> None:
    """The picture is that with the table of DIALS' own predictions."""
    predicted = flex.reflection_table.from_predictions(sim.load("sweep.expt")[0])
    z = predicted["xyzcal.px"].parts()[2]
    predicted.select((z >= 11) & (z < 12)).as_file("predicted.refl")
    run("sweep.expt", "image=12", "spots.predict=True", "spots.hkl=True")
    run("sweep.expt", "image=12", "predicted.refl", "spots.hkl=True", "output=table.png")
    assert Path("view.png").read_bytes() == Path("table.png").read_bytes()


def test_indices_are_written_where_there_is_room(here: Path, capsys) -> None:
    strong = table(miller_index=flex.miller_index([(1, 2, 3), (4, 5, 6), (0, 0, 0)]))
    strong.as_file("strong.refl")
    run("sweep.expt", "strong.refl", "output=plain.png")
    run("sweep.expt", "strong.refl", "spots.hkl=True")
    assert Path("view.png").read_bytes() != Path("plain.png").read_bytes()
    capsys.readouterr()
    run("sweep.expt", "strong.refl", "image=12", "sum_images=1", "output=a.png")
    run(
        "sweep.expt",
        "strong.refl",
        "image=11",
        "sum_images=2",
        "spots.hkl=True",
        "spots.max_labels=1",
    )
    assert "too many to label" in capsys.readouterr().out


@pytest.mark.parametrize(
    "change",
    [
        "colours=viridis", "contrast=sqrt", "vmin=20", "vmax=200", "percentiles=10,90",
        "resolution_rings=5,3", "resolution_rings=None", "beam_centre=False", "size_px=300",
        "frame=False", "panel=1", "sum_images=2", "image=12",
    ],
)  # fmt: skip
def test_every_parameter_acts(change: str, here: Path) -> None:
    run("panels.expt", "output=plain.png")
    run("panels.expt", change)
    assert Path("view.png").read_bytes() != Path("plain.png").read_bytes()


def test_pictures_are_the_same_each_time(here: Path) -> None:
    for name in ("a", "b"):
        run("panels.expt", f"output={name}.png", f"animation={name}.gif", "image=11")
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()
    assert Path("a.gif").read_bytes() == Path("b.gif").read_bytes()


def frames(path: str = "scan.gif") -> list[np.ndarray]:
    with Image.open(path) as gif:
        result = []
        for number in range(gif.n_frames):
            gif.seek(number)
            result.append(np.asarray(gif.convert("RGB")).astype(int))
        return result


def test_animation(here: Path) -> None:
    """A frame an image, each of its image's pixels within what a palette of 200 shades holds."""
    run("sweep.expt", "animation=scan.gif", "animation_frame_s=0.25", *BARE, *LINEAR)
    assert not Path("view.png").exists()
    shown = frames()
    assert len(shown) == 3
    for frame, values in zip(shown, sim.pixels("sweep.nxs")):
        squares = frame[3::6, 2::5, 0]
        np.testing.assert_allclose(squares, expected(values, 0, 128), atol=1)
    with Image.open("scan.gif") as gif:
        assert gif.info["duration"] == 250 and gif.info["loop"] == 0


@pytest.mark.parametrize(
    "parameters, count",
    [
        (("animation_range=12,13",), 2),
        (("animation_step=2",), 2),
        (("sum_images=2",), 1),
        (("sum_images=2", "animation_step=1"), 2),
        (("animation_range=12,12",), 1),
    ],
)
def test_frames_of_an_animation(parameters: tuple, count: int, here: Path) -> None:
    run("sweep.expt", "animation=scan.gif", *parameters, *BARE)
    assert len(frames()) == count


BAD = {
    "image=10": "image=10: the images are 11 to 13",
    "image=14": "image=14: the images are 11 to 13",
    "image=12 sum_images=3": "image=12 with sum_images=3: the images are 11 to 13",
    "imageset=1": "imageset=1: there are 1, counted from 0",
    "panel=1": "panel=1: the detector has 1",
    "zoom=0,24,0,3": "zoom=0,24,0,3 is not within the panel's pixels: fast 0 to 23, slow 0 to 17",
    "zoom=5,4,0,3": "zoom=5,4,0,3 is not within",
    "zoom=-1,4,0,3": "zoom=-1,4,0,3 is not within",
    "vmin=9 vmax=3": "vmin=9 is not less than vmax=3",
    "vmin=0": "contrast=log needs values above 0",
    "vmax=nan": "give a finite number",
    "percentiles=50,50": "the first must be less than the second",
    "resolution_rings=0": "resolution_rings must be above 0",
    "output=view.jpg": "output=view.jpg: give a name that ends in .png",
    "output=.png": "give a name that ends in .png",
    "output=sweep.nxs": "give a name that ends in .png",
    "output=nowhere/x.png": "there is no folder nowhere",
    "output=notes.png": "notes.png exists and is no picture",
    "animation=scan.png": "animation=scan.png: give a name that ends in .gif",
    "animation=a.gif animation_range=13,11": "the first image is after the last",
    "animation=a.gif animation_range=11,14": "animation_range=14: the images are 11 to 13",
    "animation=a.gif animation_range=11,11 sum_images=4": "with sum_images=4",
    "spots.hkl=True": "spots.hkl: there are no spots",
    "spots.show=found": "spots.show: there are no spots",
    "colours=pink": "colours",
    "imagee=3": "'imagee=3' is unknown",
    "--frobnicate": "frobnicate",
    "nothing.cbf": "there is no file nothing.cbf",
    "notes.png": "notes.png is not an image that dxtbx can read",
    "text.refl": "text.refl is not a reflection table",
    "empty.refl": "empty.refl is empty",
    "text.expt": "text.expt is not an experiment list",
    "none_###.cbf": "none_###.cbf is not a template of images",
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case: str, here: Path) -> None:
    """One sentence, and no file is made or changed."""
    for name in ("notes.png", "text.refl", "text.expt"):
        Path(name).write_text("to remember")
    Path("empty.refl").touch()
    before = sim.contents(here)
    with pytest.raises(Sorry) as caught:
        run("sweep.expt", *case.split())
    message = str(caught.value)
    assert BAD[case] in message and "\n" not in message
    assert sim.contents(here) == before


def test_other_bad_input(here: Path) -> None:
    with pytest.raises(Sorry, match="which images"):
        run("image=1")
    with pytest.raises(Sorry, match="a.expt names no images|list names no images"):
        run("a.expt")
    with pytest.raises(Sorry, match="zoom is of one of the 2 panels"):
        run("panels.expt", "zoom=0,3,0,3")
    shutil.copy("sweep.nxs", "input.png")
    with pytest.raises(Sorry, match="input.png is an input"):
        run("input.png", "output=input.png")
    sim.write_expt("no_crystal.expt", sim.sweep(crystal=None))
    table().as_file("strong.refl")
    with pytest.raises(Sorry, match="the file has none on it"):
        run("sweep.expt", "strong.refl", "image=13")


def test_a_truncated_file(here: Path) -> None:
    data = Path("sweep.nxs").read_bytes()
    Path("sweep.nxs").write_bytes(data[: len(data) // 2])
    for source in ("sweep.nxs", "sweep.expt"):
        with pytest.raises(Sorry, match="sweep"):
            run(source)


@pytest.mark.parametrize(
    "arguments, shown",
    [(["-h"], "nanobragg.view IMAGES"), (["-c", "-a", "1", "-e", "1"], "margin_images = 0")],
)
def test_help_and_configuration(arguments: list, shown: str, capsys) -> None:
    with pytest.raises(SystemExit):
        run(*arguments)
    assert shown in capsys.readouterr().out
