# ruff: noqa: E402
"""Image files of strangers given to our format classes: they look at no other file, take no more
memory than an image, and refuse in one line."""

from __future__ import annotations

import base64
import json
import os
import resource
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

pytest.importorskip("dxtbx")

from image_file_helpers import experiment_of, opened
from libtbx.utils import Sorry
from nxmx_experiments import random_counts, random_experiment

from nanobragg_plugin.format import nxmx_guard
from nanobragg_plugin.format.cbf_writer import CbfWriter
from nanobragg_plugin.format.FormatCBFNanoBragg import FormatCBFNanoBragg
from nanobragg_plugin.format.FormatNXmxNanoBragg import FormatNXmxNanoBragg
from nanobragg_plugin.format.FormatSMVNanoBragg import FormatSMVNanoBragg
from nanobragg_plugin.format.header_models import packed_text, unpacked_text
from nanobragg_plugin.format.nxmx_writer import NXmxWriter
from nanobragg_plugin.format.smv_writer import SmvWriter

#: Storage of a data set in another file.
EXTERNAL = ("/etc/passwd", 0, h5py.h5f.UNLIMITED)
DATA, GROUP = "/entry/data/data", "/entry/nanobragg"
MAPS = f"{GROUP}/maps"


def write(path: Path, seed: int = 0) -> Path:
    experiment = random_experiment(seed)
    images = random_counts(experiment, 3)
    with NXmxWriter(path, experiment, provenance={"a": 1}) as writer:
        for index, panels in enumerate(images):
            writer.write(index, panels)
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write(tmp_path_factory.mktemp("whole") / "a.nxs").read_bytes()


@pytest.fixture
def nxs(tmp_path: Path, whole: bytes) -> Path:
    path = tmp_path / "a.nxs"
    path.write_bytes(whole)
    return path


def refused(path: Path) -> str:
    """What is said when it is opened as ours, or an image of it read; nothing else happens."""
    with pytest.raises(Sorry) as caught:
        image = FormatNXmxNanoBragg(str(path))
        image.get_raw_data(0)
    message = str(caught.value)
    assert message and "\n" not in message and len(message) < 1000
    return message


# ---- damaged


def test_damaged_files_are_told_from_ours(whole: bytes, tmp_path: Path) -> None:
    """Truncated anywhere, with bytes changed, or of another kind: in a process of its own, because
    HDF5 itself may crash. `understand` says yes or no; opening and reading raises or works."""
    rng = np.random.default_rng(5)
    files = [whole[: int(n)] for n in np.linspace(0, len(whole) - 1, 40)]
    for _ in range(40):
        data = bytearray(whole)
        for at in rng.integers(0, len(data), int(rng.integers(1, 40))):
            data[at] = rng.integers(256)
        files.append(bytes(data))
    files += [b"\x89HDF\r\n\x1a\n", b"\x89HDF\r\n\x1a\n" + bytes(2000), rng.bytes(5000), b""]
    for number, data in enumerate(files):
        (tmp_path / f"{number:03}.nxs").write_bytes(data)
    done = run(
        "for path in sorted(Path('.').glob('*.nxs')):\n"
        "    answer = F.understand(str(path))\n"
        "    assert answer is True or answer is False\n"
        "    try:\n"
        "        image = F(str(path))\n"
        "        image.get_raw_data(0)\n"
        "        end = 'read'\n"
        "    except Exception as error:\n"
        "        end = type(error).__name__\n"
        "    print(answer, end)\n",
        tmp_path,
    )
    lines = done.stdout.split("\n")[:-1]
    assert len(lines) == len(files) and done.returncode == 0, done.stderr[-500:]
    assert "True read" in lines and "False IncorrectFormatError" in lines


def run(script: str, cwd: Path, memory: int = 3 << 30) -> subprocess.CompletedProcess:
    """Python with our class F, so much address space and two minutes of CPU."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        resource.setrlimit(resource.RLIMIT_CPU, (120, 120))

    head = (
        "from pathlib import Path\n"
        "from nanobragg_plugin.format.FormatNXmxNanoBragg import FormatNXmxNanoBragg as F\n"
    )
    return subprocess.run(
        [sys.executable, "-c", head + script],
        capture_output=True, text=True, cwd=cwd, preexec_fn=limit, timeout=300,
    )  # fmt: skip


def test_understand_is_quick(nxs: Path) -> None:
    """Measured: 0.3 ms, of a file of 2000 other groups 0.3 ms; 50 ms of CPU is the limit."""
    other = nxs.with_name("other.nxs")
    with h5py.File(other, "w") as handle:
        for i in range(2000):
            handle.create_group(f"entry/nanobragg/{i}")
    for path, expected in ((nxs, True), (other, False)):
        assert FormatNXmxNanoBragg.understand(str(path)) is expected
        start = time.process_time()
        for _ in range(20):
            FormatNXmxNanoBragg.understand(str(path))
        assert (time.process_time() - start) / 20 < 0.05


NOT_OURS = {
    "text": b"hello",
    "json": b'{"__id__": "ExperimentList"}',
    "a pickle": b"\x80\x04\x95",
    "a PNG": b"\x89PNG\r\n\x1a\n" + bytes(100),
    "nothing": b"",
}


@pytest.mark.parametrize("name", NOT_OURS)
def test_other_files(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a.nxs"
    path.write_bytes(NOT_OURS[name])
    assert FormatNXmxNanoBragg.understand(str(path)) is False
    assert FormatNXmxNanoBragg.understand(str(tmp_path / "missing")) is False
    assert FormatNXmxNanoBragg.understand(str(tmp_path)) is False


# ---- our group, wrong


def replaced(handle: h5py.File, name: str, value: object) -> None:
    del handle[name]
    handle[name] = value


def edited(handle: h5py.File, edit: Callable[[dict], object]) -> None:
    models = json.loads(handle[f"{GROUP}/models"].asstr()[()])
    replaced(handle, f"{GROUP}/models", json.dumps(edit(models) or models))


def attribute(value: object) -> Callable:
    return lambda h: h[GROUP].attrs.__setitem__("format_version", value)


def models(value: object) -> Callable:
    return lambda h: replaced(h, f"{GROUP}/models", value)


def panel(**values: object) -> Callable:
    return lambda h: edited(h, lambda m: m["detector"]["panels"][0].update(values))


def images_of_text(handle: h5py.File) -> None:
    for name in ("A", "s0", "polarization_normal"):
        handle[f"{GROUP}/images/{name}"] = "x"


WRONG = {
    "a later version": (attribute(99), "later nanobragg"),
    "a version that is text": (attribute("x"), "no number"),
    "versions": (attribute([1, 2]), "no number"),
    "a version that is not finite": (attribute(float("inf")), "no number"),
    "no JSON": (models("garbage"), "models of its nanobragg group is damaged"),
    "no text": (models(3), "no text models"),
    "many texts": (models(["a", "b"]), "no text models"),
    "bytes": (models(np.void(b"\0\1")), "no text models"),
    "a number": (models("3"), "damaged"),
    "null": (models("null"), "damaged"),
    "an empty dictionary": (models("{}"), "damaged"),
    "deep": (models("[" * 10**5 + "]" * 10**5), "nested too deeply"),
    "huge": (models("[" + "1," * (nxmx_guard.MAX_JSON // 2) + "1]"), "bytes"),
    "no detector": (lambda h: edited(h, lambda m: m.update(detector=None)), "no detector"),
    "no beam": (lambda h: edited(h, lambda m: m.update(beam=None)), "no detector or no beam"),
    "a scan of 10^12": (
        lambda h: edited(h, lambda m: m["scan"].update(image_range=[1, 10**12])),
        "a scan of images 1 to 10",
    ),
    "another scan": (
        lambda h: edited(h, lambda m: m["scan"].update(image_range=[1, 7])),
        "has 3 images, its scan",
    ),
    "a huge panel": (panel(image_size=[10**9, 10**9]), "not those of its detector"),
    "a panel of text": (panel(image_size="ab"), "damaged"),
    "no provenance": (lambda h: h[GROUP].__delitem__("provenance"), "no text provenance"),
    "crystals of text": (lambda h: h.__setitem__(f"{GROUP}/crystals", "[3]"), "crystals"),
    "images without models": (lambda h: h.create_group(f"{GROUP}/images"), "damaged"),
    "images of text": (images_of_text, "damaged"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_our_group_with_something_wrong(name: str, nxs: Path) -> None:
    change, words = WRONG[name]
    with h5py.File(nxs, "a") as handle:
        change(handle)
    assert FormatNXmxNanoBragg.understand(str(nxs)) is True
    assert words in refused(nxs)


# ---- files that reach elsewhere


def linked(name: str, to: object) -> Callable:
    def change(handle: h5py.File) -> None:
        if name in handle:
            del handle[name]
        handle[name] = to

    return change


def external_storage(handle: h5py.File) -> None:
    shape = handle[DATA].shape
    del handle[DATA]
    handle.create_dataset(DATA, shape, "i4", external=[EXTERNAL])


def virtual(name: str, inside: str = "/data") -> Callable:
    def change(handle: h5py.File) -> None:
        shape = handle[DATA].shape
        del handle[DATA]
        layout = h5py.VirtualLayout(shape, "i4")
        layout[:] = h5py.VirtualSource(name, inside, shape)
        handle.create_virtual_dataset(DATA, layout)

    return change


def virtual_text(handle: h5py.File) -> None:
    layout = h5py.VirtualLayout((3,), "i4")
    layout[:] = h5py.VirtualSource("part.h5", "/data", (3,))
    handle.create_virtual_dataset("/entry/sample/x", layout)


OUTSIDE = {
    "the entry": linked("/entry/more", h5py.ExternalLink("secret.h5", "/")),
    "the pixels": linked(DATA, h5py.ExternalLink("secret.h5", "/data")),
    "the pixels, by an absolute path": linked(DATA, h5py.ExternalLink("/etc/passwd", "/data")),
    "the models": linked(f"{GROUP}/provenance", h5py.ExternalLink("secret.h5", "/text")),
    "a group of the stock reader": linked(
        "/entry/instrument/detector", h5py.ExternalLink("secret.h5", "/")
    ),
    "a soft link": linked("/entry/again", h5py.SoftLink("/entry/nanobragg")),
    "a soft link to itself": linked("/entry/again", h5py.SoftLink("/entry/again")),
    "storage": external_storage,
    "a part in a folder": virtual("../secret.h5"),
    "a part in a folder below": virtual("below/secret.h5"),
    "a part at an absolute path": virtual("/etc/passwd"),
    "a part in this file": virtual("a.nxs", "/entry/data/data"),
    "a part of parts": virtual("virtual.h5"),
    "a part with storage": virtual("storage.h5"),
    "a part by a link": virtual("link.h5"),
    "a part that is a pipe": virtual("pipe.h5"),
    "parts of another data set": virtual_text,
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_nothing_outside_is_read(name: str, nxs: Path, monkeypatch) -> None:
    """Not even opened: h5py.File sees, of other files, at most the parts beside the master."""
    folder = nxs.parent
    shape = (3, 3)
    with h5py.File(folder / "secret.h5", "w") as handle:
        handle["data"], handle["text"] = np.ones(shape, "i4"), "{}"
    with h5py.File(nxs, "r") as handle:
        shape = handle[DATA].shape
    with h5py.File(folder / "storage.h5", "w") as handle:
        handle.create_dataset("data", shape, "i4", external=[EXTERNAL])
    with h5py.File(folder / "virtual.h5", "w") as handle:
        layout = h5py.VirtualLayout(shape, "i4")
        layout[:] = h5py.VirtualSource("/etc/passwd", "data", shape)
        handle.create_virtual_dataset("data", layout)
    with h5py.File(folder / "link.h5", "w") as handle:
        handle["data"] = h5py.ExternalLink("secret.h5", "/data")
    os.mkfifo(folder / "pipe.h5")
    with h5py.File(nxs, "a") as handle:
        OUTSIDE[name](handle)
    message = refused(nxs)
    assert "not ours" in message or "beside" in message or "part" in message, message


def test_a_group_that_is_a_link_is_not_ours(nxs: Path, tmp_path: Path) -> None:
    """An external link to a whole file of ours, or within it: `understand` does not follow it."""
    for number, place in enumerate(["entry", "entry/nanobragg", "entry/nanobragg/models"]):
        path = tmp_path / f"{number}.nxs"
        with h5py.File(path, "w") as handle:
            if number == 2:
                handle.create_group(GROUP).attrs["format_version"] = 1
            handle[place] = h5py.ExternalLink("a.nxs", f"/{place}")
        assert FormatNXmxNanoBragg.understand(str(path)) is False


@pytest.mark.parametrize("which", [slice(0, 2), slice(None, None, 2)])
def test_parts_of_other_images_than_they_seem(which: slice, nxs: Path) -> None:
    """An image whose rows come one from here, one from there: what was looked at would not be what
    is read."""
    with h5py.File(nxs, "a") as handle:
        shape = handle[DATA].shape
        with h5py.File(nxs.with_name("part.h5"), "w") as part:
            part["data"] = np.ones(shape, "i4")
        del handle[DATA]
        layout = h5py.VirtualLayout(shape, "i4")
        layout[:, which] = h5py.VirtualSource("part.h5", "data", shape)[:, which]
        handle.create_virtual_dataset(DATA, layout)
    assert "is not of whole images" in refused(nxs)


def test_parts_beside_the_master_are_read(nxs: Path) -> None:
    """A virtual data set of two files in its folder reads as the images that are in them."""
    pixels = FormatNXmxNanoBragg(str(nxs)).get_raw_data(1)
    with h5py.File(nxs, "a") as handle:
        data = handle[DATA][()]
        del handle[DATA]
        layout = h5py.VirtualLayout(data.shape, data.dtype)
        for name, images in (("one.h5", slice(0, 1)), ("two.h5", slice(1, 3))):
            with h5py.File(nxs.with_name(name), "w") as part:
                chunks = (1, *data.shape[1:])
                part.create_dataset(
                    "data", data=data[images], chunks=chunks, compression="gzip", shuffle=True
                )
            layout[images] = h5py.VirtualSource(name, "data", data[images].shape)
        handle.create_virtual_dataset(DATA, layout)
    image = FormatNXmxNanoBragg(str(nxs))
    assert image.get_num_images() == 3
    for mine, before in zip(image.get_raw_data(1), pixels):
        assert (mine.as_numpy_array() == before.as_numpy_array()).all()


# ---- files that are larger than they are


def declared(name: str, shape: tuple, **more: object) -> Callable:
    def change(handle: h5py.File) -> None:
        if name in handle:
            del handle[name]
        handle.create_dataset(name, shape, "i4", **more)

    return change


def endless_groups(handle: h5py.File) -> None:
    sample = handle["entry/sample"]
    for i in range(600):
        handle[f"entry/g{i}"] = sample  # hard links cost nothing


LARGE = {
    "pixels": (declared(DATA, (10**6, 10**5, 10**5), chunks=(1, 100, 100)), "too many"),
    "of another shape": (declared(DATA, (3, 9, 9)), "not those of its detector"),
    "of one dimension": (declared(DATA, (3,)), "not those of its detector"),
    "a group": (lambda h: (h.__delitem__(DATA), h.create_group(DATA)), "not those of its"),
    "chunks": (declared(DATA, (3, 9, 9), chunks=(2**20, 2**8, 1), maxshape=(None,) * 3), "too"),
    "pixels one by one": (declared(DATA, (3, 999, 999), chunks=(3, 1, 1)), "chunks of"),
    "a map": (declared(f"{MAPS}/hkl", (3, 10**5, 10**5, 3), chunks=(1, 9, 9, 3)), "too many"),
    "a table": (declared("/entry/sample/x", (10**6, 10**5)), "too many"),
    "a packed table": (declared("/entry/sample/x", (10**3,), compression="gzip"), "packed"),
    "another filter": (declared(DATA, (3, 9, 9), compression="lzf"), "packed as none"),
    "a checksum": (declared(DATA, (3, 9, 9), fletcher32=True), "packed as none"),
    "objects": (endless_groups, "more than 500 objects"),
}  # fmt: skip


@pytest.mark.parametrize("name", LARGE)
def test_declared_sizes(name: str, nxs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nxmx_guard, "MAX_OBJECTS", 500)
    change, words = LARGE[name]
    with h5py.File(nxs, "a") as handle:
        change(handle)
    assert words in refused(nxs)


def test_groups_that_hold_themselves(nxs: Path) -> None:
    """A loop of hard links is walked once. (The stock reader, which looks for classes, may not
    be able to: then ours says so, too.)"""
    with h5py.File(nxs, "a") as handle:
        handle["/entry/sample/loop"] = handle["/entry/sample"]
        nxmx_guard.check_file(handle, nxs)


def test_a_bomb_in_a_chunk(nxs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1 MB that would be 1 GB, where the image has some hundred bytes: it is not unpacked."""
    with h5py.File(nxs, "a") as handle:
        shape = handle[DATA].shape
        del handle[DATA]
        chunks = (1, *shape[1:])
        data = handle.create_dataset(DATA, shape, "i4", chunks=chunks, compression="gzip")
        data.id.write_direct_chunk((0, 0, 0), zlib.compress(bytes(1 << 16)) + bytes(1 << 20))
    monkeypatch.setattr(zlib, "decompressobj", None)
    assert "is longer than its pixels" in refused(nxs)


@pytest.mark.parametrize("of_pixel", [(), (3,)])
def test_a_bomb_as_long_as_the_chunk(
    of_pixel: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a large image, or map, whose chunk may be long, what it unpacks to is measured."""
    monkeypatch.setattr(nxmx_guard, "MAX_FRAME", 1 << 17)
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as handle:
        shape = (100, 100, *of_pixel)
        data = handle.create_dataset("d", (2, *shape), "i4", chunks=(1, *shape), compression="gzip")
        data[1] = np.random.default_rng(0).integers(0, 1 << 30, shape)
        data.id.write_direct_chunk((0,) * len(data.shape), zlib.compress(bytes(39_000_000), 9))
        nxmx_guard.Frames(path).check(data, 1)
        with pytest.raises(Sorry, match="unpacks to more than its pixels"):
            nxmx_guard.Frames(path).check(data, 0)


# ---- CBF and SMV: the models packed in a header


def header_files(folder: Path) -> dict[str, Path]:
    experiment = experiment_of(4, panels=1)
    found = {}
    for writer, kind in ((CbfWriter, "cbf"), (SmvWriter, "img")):
        with writer(folder / f"a_#####.{kind}", experiment, provenance={}) as writing:
            for index, panels in enumerate(random_counts(experiment, writing.n_images, high=60)):
                writing.write(index, panels)
        found[kind] = writing.names[0]
    return found


CODES = {
    "garbage": "!!!!",
    "no base64": "\u00e9" * 8,
    "no deflate": base64.b64encode(b"hello").decode(),
    "no JSON": base64.b64encode(zlib.compress(b"hello")).decode(),
    "a number": packed_text(3),
    "no models": packed_text({"format_version": 1}),
    "cut": packed_text({"format_version": 1, "models": {}})[:-6],
    "a bomb": base64.b64encode(zlib.compress(bytes(1 << 28), 9)).decode(),
    "deep": base64.b64encode(zlib.compress(b"[" * 10**5)).decode(),
    "nothing": "",
}


@pytest.mark.parametrize("name", CODES)
def test_packed_texts(name: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        found = unpacked_text(CODES[name])
    except ValueError as error:
        assert str(error)
    else:
        assert name == "no models" and isinstance(found, dict)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


@pytest.mark.parametrize("kind", ["cbf", "img"])
def test_headers_with_something_wrong(kind: str, tmp_path: Path) -> None:
    path = header_files(tmp_path)[kind]
    data = path.read_bytes()
    our = FormatCBFNanoBragg if kind == "cbf" else FormatSMVNanoBragg
    assert our.understand(str(path))
    text = opened(path, with_us=True)._text_of_models().encode()
    first = next(line for line in text.split() if len(line) > 40)[:40]
    at = data.index(first)
    changes = [first[:20] + b"!" * 20, first[::-1], b"A" * 40]
    for number, change in enumerate(changes):  # dxtbx keeps headers by the file's name
        path = tmp_path / f"changed_{number}.{kind}"
        path.write_bytes(data[:at] + change + data[at + 40 :])
        with pytest.raises(Sorry, match="nanobragg header is damaged|models in it are damaged"):
            our(str(path))
    for length in np.linspace(0, len(data) - 1, 25).astype(int):
        path = tmp_path / f"cut_{length}.{kind}"
        path.write_bytes(data[:length])
        try:
            assert our.understand(str(path)) in (True, False)
            our(str(path)).get_raw_data()
        except Exception as error:
            assert "Traceback" not in str(error)
