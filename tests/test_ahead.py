"""Libraries compiled ahead of time are the functions they were made of, in any process and thread,
and are given nothing else than they were made for.

Expected values: the functions themselves, run by torch as they are.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor

from nanobragg_plugin.kernels import ahead, compiled

EXAMPLES = torch.linspace(0, 1, 12).reshape(3, 4), torch.arange(4, dtype=torch.int32)
DYNAMIC = {0: (1,), 1: (0,)}


def mixture(x: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    return (x * x[:, places]).sum(0), x + 1


def single(x: Tensor, places: Tensor) -> Tensor:
    return x.sum(0) + places


def loaded(function=mixture) -> ahead.Loaded:
    with torch.no_grad(), compiled.one_thread():
        one = isinstance(function(*EXAMPLES), Tensor)
        return ahead.load(function, EXAMPLES, DYNAMIC, compiled._options, one)


def of_size(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    places = torch.randperm(n, generator=draw).to(torch.int32)
    return torch.rand(3, n, generator=draw), places


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty one for what is compiled here."""
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        pytest.skip("there is no C++ compiler")
    if not hasattr(torch.export.Dim, "DYNAMIC"):
        pytest.skip("torch before 2.6: nothing is compiled ahead, torch.compile does it")
    with pytest.MonkeyPatch.context() as patch:
        base = tmp_path_factory.mktemp("compiled")
        patch.setenv(ahead.CACHE, str(base))
        yield base / ahead.PACKAGE


def libraries(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.so"))


# ---- what it gives


@pytest.mark.parametrize("n", (2, 4, 17, 1000))
def test_as_the_function(n):
    for found, expected in zip(loaded()(*of_size(n)), mixture(*of_size(n))):
        assert found.dtype == expected.dtype
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_a_tensor_where_the_function_gives_one():
    found = loaded(single)(*of_size(5))
    assert isinstance(found, Tensor)
    torch.testing.assert_close(found, single(*of_size(5)))


def test_other_strides():
    x, places = of_size(50)
    apart = x.T.contiguous().T, torch.stack([places, places], 1)[:, 0]
    assert not any(one.is_contiguous() for one in apart)
    for found, expected in zip(loaded()(*apart), loaded()(x, places)):
        assert torch.equal(found, expected)


@pytest.mark.parametrize(
    "wrong",
    (
        (of_size(9)[0].double(), of_size(9)[1]),
        (of_size(9)[0], of_size(9)[1].long()),
        (of_size(9)[0][:2], of_size(9)[1]),
        (of_size(1)[0], of_size(1)[1]),
        (of_size(9)[0][None], of_size(9)[1]),
        (of_size(9)[0],),
        (of_size(9)[0], of_size(8)[1]),
        tuple(one.to("meta") for one in of_size(9)),
    ),
)
def test_what_it_was_not_made_for(wrong):
    """It would read memory that is not there."""
    with pytest.raises(ValueError, match="compiled for tensors"):
        loaded()(*wrong)


def test_threads_side_by_side():
    run = loaded()
    with ThreadPoolExecutor(16, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        found = list(pool.map(lambda seed: run(*of_size(3000, seed)), range(200)))
    for seed, one in enumerate(found):
        alone = run(*of_size(3000, seed))
        assert all(map(torch.equal, one, alone))


def test_nothing_is_kept():
    """Inputs and outputs are freed: of 2 GB not a tenth stays."""
    run, tensors = loaded(), of_size(1_000_000)
    run(*tensors)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(200):
        run(tensors[0] + 1, tensors[1])
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * 1024 < 200e6


# ---- the files


def test_another_process_finds_it(folder):
    """And has no need of torch's compiler, whose import alone takes seconds."""
    loaded()
    before = [(path, path.stat().st_mtime_ns) for path in libraries(folder)]
    script = (
        "import sys, test_ahead as t; x = t.of_size(9);"
        "assert all(map(t.torch.allclose, t.loaded()(*x), t.mixture(*x)));"
        "assert 'torch._inductor' not in sys.modules and 'torch._dynamo' not in sys.modules"
    )
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert before == [(path, path.stat().st_mtime_ns) for path in libraries(folder)]


@pytest.mark.parametrize("damage", ("cut", "changed", "empty"))
def test_a_damaged_file_is_made_anew(damage, folder, tmp_path, monkeypatch):
    """To load it would end the process."""
    run = loaded()
    (path,) = (one for one in libraries(folder) if one.name.startswith("mixture"))
    whole = path.read_bytes()
    monkeypatch.setenv(ahead.CACHE, str(tmp_path))  # what is loaded stays loaded
    path = tmp_path / ahead.PACKAGE / path.name
    path.parent.mkdir(mode=0o700)
    changed = whole[:2000] + bytes([whole[2000] ^ 1]) + whole[2001:]
    path.write_bytes({"cut": whole[:1000], "changed": changed, "empty": b""}[damage])
    made = []

    def make(*given: object) -> None:
        made.append(given)
        path.write_bytes(whole)

    monkeypatch.setattr(ahead, "_make", make)
    for found, expected in zip(loaded()(*of_size(5)), run(*of_size(5))):
        assert torch.equal(found, expected)
    assert len(made) == 1


def test_another_for_whatever_is_compiled_otherwise(monkeypatch):
    known = ahead._key(EXAMPLES)
    assert ahead._key(EXAMPLES) == known
    assert ahead._key((EXAMPLES[0].double(), EXAMPLES[1])) != known
    assert ahead._key((EXAMPLES[0][:2], EXAMPLES[1])) != known
    for name, value in (("_processor", "another"), ("_sources", ["other code"])):
        with monkeypatch.context() as patch:
            patch.setattr(ahead, name, lambda value=value: value)
            assert ahead._key(EXAMPLES) != known


def test_the_sources_of_what_is_compiled():
    """All that the functions call stands in them, and little else."""
    files = {Path(sys.modules[f"nanobragg_plugin.{name}"].__file__).name for name in MODULES}
    found = {path.name for path in map(Path, ahead._files())}
    assert files <= found and len(found) < 20


MODULES = (
    *("kernels.compiled", "kernels.channels", "kernels.lattice_sum", "kernels.reach"),
    *("lattice", "lattice_slopes", "structure_factors"),
)


@pytest.mark.parametrize("mode", (0o777, 0o770))
def test_a_folder_of_others_is_not_used(mode, tmp_path, monkeypatch):
    """They could put code there that would be run."""
    monkeypatch.setenv(ahead.CACHE, str(tmp_path))
    folder = tmp_path / ahead.PACKAGE
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(PermissionError, match="others can write"):
        loaded()


def test_a_folder_in_one_of_a_group_is_used(tmp_path, monkeypatch):
    """As umask 002 makes them, which is usual where each user is a group."""
    tmp_path.chmod(0o775)
    monkeypatch.setenv(ahead.CACHE, str(tmp_path / "torch"))
    assert ahead._folder().stat().st_mode & 0o777 == 0o700


def test_two_processes_make_it_once(tmp_path):
    """Side by side they wait for each other."""
    script = (
        "import test_ahead as t, nanobragg_plugin.kernels.ahead as a; make = a._make\n"
        "def count(*given): print('made'); make(*given)\n"
        "a._make = count; t.loaded(t.single)"
    )
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, ahead.CACHE: str(tmp_path)}
    with_output = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    both = [
        subprocess.Popen([sys.executable, "-c", script], env=environment, **with_output)
        for _ in range(2)
    ]
    done = [one.communicate(timeout=300) for one in both]
    assert [one.returncode for one in both] == [0, 0], done
    assert sorted(out for out, _ in done) == ["", "made\n"]
