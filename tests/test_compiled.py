"""The compiled functions are the eager ones, and where nothing can be compiled nothing changes.

Each compilation takes some ten seconds where torch has none on disk: three are made, of the
`square` and the `gauss` crystal in mixed precision. Double precision stays eager here, and is what
expected values are computed with.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from sparse_models import Case, build, images

from nanobragg_plugin import simulate
from nanobragg_plugin.kernels import ahead, batches, compiled, reach, sparse, summing
from nanobragg_plugin.kernels import choice as kernel_choice
from nanobragg_plugin.kernels.dense import Kernel
from nanobragg_plugin.kernels.lattice_sum import lattice_sum


def forget() -> None:
    """What has been compiled in this process: other tests are to run eager."""
    compiled.lattice_sum_of.cache_clear()
    compiled.exceeds_of.cache_clear()
    compiled.channels_of.cache_clear()


@pytest.fixture(scope="module")
def ready() -> Iterator[None]:
    """The functions are compiled."""
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        pytest.skip("there is no C++ compiler")
    forget()
    assert Kernel(*mixed()).compile(for_sparse=True)
    assert Kernel(*mixed("gauss")).compile(for_sparse=False)
    yield
    forget()


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing has been compiled or warned of."""
    kept = {name: getattr(compiled, name) for name in ("lattice_sum_of", "exceeds_of")}
    for name, function in kept.items():
        monkeypatch.setattr(compiled, name, compiled.cache(function.__wrapped__))
    monkeypatch.setattr(compiled, "_warned", False)
    yield


def mixed(shape: str = "square", **changes: object):
    """What `simulate` takes, in mixed precision."""
    options = {"precision": "mixed", "tolerance": 1.0}
    case = Case(seed=3, xtal_shape=shape, ncells=(9, 30), domains=4, phi=3, options=options)
    return build(replace(case, **changes))


def s1_of(count: int) -> torch.Tensor:
    """Unit vectors [3, count] about the beam."""
    draw = torch.Generator().manual_seed(count)
    s1 = 0.3 * torch.randn(3, count, generator=draw, dtype=torch.float64)
    s1[2] = -1
    return s1 / s1.norm(dim=0)


@pytest.mark.parametrize("kernel", ("dense", "sparse"))
def test_nothing_is_compiled_twice(kernel, ready):
    """Whatever the sizes, the strides and the number of threads are: it takes as long each time.
    The first test, before the others could have had something compiled."""
    import torch._dynamo.utils as dynamo

    made = compiled.lattice_sum_of("square", torch.float64, torch.float32)
    ahead_of_time = hasattr(torch.export.Dim, "DYNAMIC")  # torch 2.6 and later
    assert isinstance(made.on(torch.device("cpu")), ahead.Loaded) == ahead_of_time
    one = {"phi": 1, "domains": 1, "sources": 1, "image_size": (5, 1)}
    cases = (
        {},
        {"sources": 1},  # its weight is an expanded view
        {"sources": 1, "layers": 1},
        {"sources": 3, "same_way": True, "masked": True},
        {"phi": 9, "domains": 9, "oversample": 2, "drift": True},
        one,
        {**one, "domains": 2, "image_size": (1, 1)},
    )
    before, threads = dict(dynamo.counters["stats"]), torch.get_num_threads()
    try:
        for count, case in enumerate(cases, 1):
            torch.set_num_threads(1 + count % 2)
            own = {name: case.pop(name) for name in ("oversample",) if name in case}
            model = mixed(**case)
            images(model, kernel=kernel, compile="always", tolerance=0.1, **own)
            options = replace(model[3], kernel=kernel, compile="always", tolerance=0.1)
            sweep = simulate.Simulator(model[0], model[2], options, 2)
            with torch.no_grad():
                sweep.image(model[1])  # of kept rays
            assert dict(dynamo.counters["stats"]) == before, case
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("gradients", (False, True))
def test_other_threads_run_meanwhile(gradients, ready):
    """What is compiled lets go of Python's lock, or threads would wait for each other."""
    kernel = Kernel(*mixed())
    assert kernel.compile(for_sparse=False, slopes=(False, False) if gradients else None)
    dtypes = kernel.options.index_dtype, kernel.options.value_dtype
    made = compiled.lattice_sum_of("square", *dtypes)
    maps, scatterer = kernel.known.terms(kernel.incidences()[0], kernel.abc).maps, kernel.scatterer
    tensors = s1_of(20_000), maps.repeat(50, 1, 1), torch.ones(50 * len(maps)), *scatterer.tensors
    if gradients:
        made = compiled.channels_of("square", *dtypes, False, False)
        tensors = s1_of(2000), *tensors[1:2], *tensors[3:]
    run = made.on(maps.device)
    began, ended, turns = threading.Event(), threading.Event(), 0

    def work() -> None:
        torch.set_num_threads(1)
        with torch.no_grad():
            run(*tensors)
            began.set()
            run(*tensors)
        ended.set()

    thread = threading.Thread(target=work)
    thread.start()
    began.wait()
    while not ended.is_set():
        turns += 1
        time.sleep(0)
    thread.join()
    assert turns > 20


# ---- functions


@pytest.mark.parametrize("terms", (1, 2, 7, 24))
@pytest.mark.parametrize("points", (1, 2, 15, 16, 1001))
@pytest.mark.parametrize("shape", ("square", "gauss"))
def test_the_sum_over_terms(shape, points, terms, ready):
    """Against the eager sum in double precision. Measured worst 6.4e-7 of the brightest."""
    model = mixed(shape)
    kernel, exact = (
        Kernel(*model[:3], replace(model[3], precision=p)) for p in ("mixed", "double")
    )
    ((incidence,), *_) = kernel._groups(alone=False)
    some, s1_unit = kernel.known.terms(incidence, kernel.abc)[:terms], s1_of(points)
    exactly = replace(some, weight=some.weight.double())
    expected = lattice_sum(s1_unit, exactly, exact.scatterer)
    how = summing.How(True, None, 999)
    with torch.no_grad():
        found = summing.summed(s1_unit, some, kernel.scatterer, how)
    assert found.dtype == torch.float64 and found.shape == (points,)
    everywhere = lattice_sum(s1_of(1001), exactly, exact.scatterer)
    assert (found - expected).abs().max() <= 1e-6 * everywhere.max()


@pytest.mark.parametrize("points", (1, 2, 16, 1001))
@pytest.mark.parametrize("level", (0, -1))
def test_the_bound(level, points, ready):
    """Against the eager one: the same is left out, but for what is as close to the limit as their
    rounding."""
    kernel = Kernel(*mixed())
    bound = sparse.Bound(kernel.prepared, kernel.scatterer, kernel.photons)
    tree = kernel.trees()[0]
    nodes = tree.levels[level]
    node = nodes.maps, nodes.spread, nodes.weight
    s1_unit = s1_of(points).float()
    peak = float(kernel.scatterer.squares.max() * kernel.ncells.prod() ** 2)
    limit = peak * 10 ** torch.linspace(-9, -2, points)
    extent = 1e-3 * s1_unit[0].abs()

    def run(exceeds, part):
        at = s1_unit, extent, part * limit
        return exceeds(at, node, bound.tensors, tree.s0_unit, "square")

    low, expected, high = (run(reach.exceeds, part) for part in (1.001, 1, 0.999))
    with torch.no_grad():
        found = run(compiled.exceeds, 1)
    assert found.shape == expected.shape and found.dtype == expected.dtype
    assert ((low <= found) & (found <= high)).all()
    if points == 1001:
        assert 0.01 < found.double().mean() < 0.99 and (found != expected).sum() < 20


# ---- images


@pytest.mark.parametrize("mode", ("spec", "c-parity"))
@pytest.mark.parametrize("shape", ("square", "gauss"))
def test_images(shape, mode, ready):
    """In mixed precision within 1e-6 of the maximum of double precision, which is not compiled;
    and with a gradient, where nothing is. Measured worst 3.2e-7."""
    model = mixed(shape, layers=2, masked=True)
    model = (model[0], replace(model[1], phi=(0.0, 0.003, 0.006)), *model[2:])
    own = {"kernel": "dense", "phi_carryover_mode": mode}
    expected = images(model, precision="double", **own)
    options = replace(model[3], compile="always", **own)
    choice = simulate.Simulator(model[0], model[2], options).choose(model[1])
    assert choice.compiled and str(choice).startswith("dense, compiled; ")
    assert (images(model, compile="always", **own) - expected).abs().max() <= 1e-6 * expected.max()
    crystal = replace(model[0].crystal, A=model[0].crystal.A.clone().requires_grad_())
    found = simulate.simulate(replace(model[0], crystal=crystal), *model[1:3], options)
    assert any(image.requires_grad for image in found)  # a panel is masked as a whole
    found = torch.cat([image.detach().flatten() for image in found])
    assert (found - expected).abs().max() <= 1e-6 * expected.max()


def test_the_sparse_kernel(ready):
    """Within the tolerance of the dense one, both compiled, beside 1e-6 of the maximum."""
    model = mixed()
    dense = images(model, kernel="dense", precision="double")
    part = 1e-3 * float(dense.max())
    sparse_one = images(model, kernel="sparse", compile="always", tolerance=part)
    assert (dense - sparse_one).max() <= part + 1e-6 * dense.max()
    assert (sparse_one - dense).max() <= 1e-6 * dense.max()
    assert (sparse_one == 0).any()


@pytest.mark.parametrize("kernel", ("dense", "sparse"))
@pytest.mark.parametrize("terms", (1, 12))
@pytest.mark.parametrize("mode", ("spec", "c-parity"))
def test_threads_and_batches_change_nothing(kernel, terms, mode, ready, monkeypatch):
    """To the bit; of single pixels and single terms too."""
    few = {"phi": 1, "domains": 1, "sources": 1} if terms == 1 else {}
    model = mixed(image_size=(23, 19), **few)
    if terms > 1:
        model = (model[0], replace(model[1], phi=(0.0, 0.003, 0.006)), *model[2:])
    own = {"kernel": kernel, "compile": "always", "phi_carryover_mode": mode, "tolerance": 0.1}
    expected, threads = images(model, **own), torch.get_num_threads()
    assert expected.any()
    try:
        for count, pixels in ((2, 100), (3, 37), (1, 15), (1, 1)):
            torch.set_num_threads(count)
            monkeypatch.setattr(batches, "BATCH_PIXELS", pixels)
            monkeypatch.setattr(batches, "SPARSE_PIXELS", max(pixels, 15))
            assert torch.equal(images(model, **own), expected), (count, pixels)
    finally:
        torch.set_num_threads(threads)


def test_never_means_never(ready):
    """Though the code is there: the image is the eager one, to the bit."""
    model = mixed("square", image_size=(23, 19))
    found = images(model, kernel="dense", compile="never")
    kept = compiled.lattice_sum_of
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "lattice_sum_of", compiled.cache(kept.__wrapped__))
        expected = images(model, kernel="dense", compile="never")
    assert torch.equal(found, expected)
    assert not torch.equal(found, images(model, kernel="dense", compile="always"))


# ---- when


@pytest.mark.parametrize(
    "setting, limit, grad, wanted",
    (
        ("auto", 100, False, True),
        ("auto", 10**9, False, False),
        ("auto", 100, True, True),
        ("auto", 10**9, True, False),
        ("always", 10**9, False, True),
        ("always", 10**9, True, True),
        ("never", 100, False, False),
    ),
)
def test_when_it_is_compiled(setting, limit, grad, wanted, monkeypatch):
    """auto: from so many steps on, of gradients from others on, and then what they need too."""
    asked = []
    monkeypatch.setattr(
        Kernel, "compile", lambda self, for_sparse, slopes: bool(asked.append(slopes))
    )
    monkeypatch.setattr(kernel_choice, "COMPILE_STEPS", 10**9 if grad else limit)
    monkeypatch.setattr(kernel_choice, "COMPILE_STEPS_GRADIENTS", limit if grad else 1)
    experiment, exposure, amplitudes, options = mixed()
    if grad:
        ncells = experiment.crystal.Ncells_abc.clone().requires_grad_()
        experiment = replace(experiment, crystal=replace(experiment.crystal, Ncells_abc=ncells))
    options = replace(options, kernel="dense", compile=setting)
    choice = simulate.Simulator(experiment, amplitudes, options).choose(exposure)
    assert asked == ([(True, False) if grad else None] if wanted else []) and not choice.compiled


def test_more_images_make_it_worth_while(monkeypatch, fresh):
    asked = []
    monkeypatch.setattr(Kernel, "compile", lambda self, *which: bool(asked.append(which)))
    model = mixed()
    options = replace(model[3], kernel="dense", compile="auto")
    with torch.no_grad():
        few = simulate.Simulator(model[0], model[2], options, 1).choose(model[1])
        monkeypatch.setattr(kernel_choice, "COMPILE_STEPS", 10 * few.steps)
        simulate.Simulator(model[0], model[2], options, 9).choose(model[1])
        assert not asked
        many = simulate.Simulator(model[0], model[2], options, 10).choose(model[1])
    assert asked and many.steps == 10 * few.steps


def test_interpolated_amplitudes_are_not_compiled(fresh):
    model = mixed()
    options = replace(model[3], interpolate=True, compile="always", kernel="dense")
    assert not simulate.Simulator(model[0], model[2], options).choose(model[1]).compiled


# ---- where it cannot be done


def wrong(function, **_):
    return lambda *tensors: 2 * function(*tensors)


def raising(*_, **__):
    raise RuntimeError("no such compiler\nand more of it")


@pytest.mark.parametrize(
    "name, broken, why",
    (
        ("compile", raising, "no such compiler$"),
        ("compile", wrong, "compiled code gives other results$"),
    ),
)
def test_what_fails_is_said_once(name, broken, why, monkeypatch, fresh):
    """And the image is the eager one."""
    model = mixed()
    expected = images(model, kernel="sparse", tolerance=1e-2)
    monkeypatch.setattr(ahead, "load", raising)
    monkeypatch.setattr(torch, name, broken)
    with pytest.warns(RuntimeWarning, match=f"torch.compile does not work here.*{why}") as said:
        found = images(model, kernel="sparse", tolerance=1e-2, compile="always")
    assert len(said) == 1 and torch.equal(found, expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images(mixed("gauss"), kernel="dense", compile="always")


@pytest.mark.parametrize("load", (raising, lambda function, *_: wrong(function)))
def test_what_cannot_be_made_ahead_is_compiled_in_the_process(load, monkeypatch, fresh):
    """Without a word: torch.compile does as well, if later."""
    model, asked = mixed(), []

    def compiles(function, **options):
        asked.append(options)
        return function

    monkeypatch.setattr(ahead, "load", load)
    monkeypatch.setattr(torch, "compile", compiles)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = images(model, kernel="dense", compile="always")
    torch.testing.assert_close(found, images(model, kernel="dense"), rtol=1e-6, atol=0)
    assert len(asked) == 1 and asked[0]["options"]["cpp_wrapper"]


def test_in_the_process(monkeypatch, ready):
    """What torch.compile makes, where nothing could be made ahead, is the function too."""

    def scaled(x: torch.Tensor) -> torch.Tensor:
        return (x * x).sum(0)

    cpu = torch.device("cpu")
    made = compiled.Compiled(scaled, lambda device: [torch.rand(3, 9, device=device)], {0: (1,)})
    monkeypatch.setattr(ahead, "load", raising)
    assert made.want(cpu) and not isinstance(made.on(cpu), ahead.Loaded)
    x = s1_of(30)
    with torch.no_grad(), compiled.one_thread():
        torch.testing.assert_close(made.on(cpu)(x.float()), scaled(x.float()))


SCRIPT = """
import sys, warnings
sys.path.insert(0, {tests!r})
from test_compiled import images, mixed
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    found = images(mixed(), kernel="dense", compile="always")
messages = [str(one.message) for one in said]
ours = [message for message in messages if message.startswith("torch.compile does not work")]
assert len(ours) == 1 and "C++ compiler" in ours[0], ours
print(float(found.sum()))
"""


def test_a_machine_without_a_compiler(tmp_path, fresh):
    """Nothing on the PATH, and nothing compiled before."""
    (tmp_path / "bin").mkdir()
    environment = {
        name: value for name, value in os.environ.items() if name not in ("CXX", "CC", "PATH")
    }
    environment |= {"PATH": str(tmp_path / "bin"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    script = SCRIPT.format(tests=str(Path(__file__).parent))
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    expected = float(images(mixed(), kernel="dense").sum())
    assert float(done.stdout) == pytest.approx(expected, rel=1e-12)
