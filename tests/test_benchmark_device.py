# ruff: noqa: E402
"""nanobragg.benchmark on a device that is no CPU, whose module in torch a test plays."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("dials")

from libtbx.utils import Sorry

from nanobragg_plugin.command_line import benchmark as command
from nanobragg_plugin.run import benchmark_device, benchmark_report, resources
from nanobragg_plugin.run.benchmark_processes import Worker

CPU, GPU = torch.device("cpu"), torch.device("cuda:1")


class Played:
    """Of torch.cuda what is used; done: with which devices, in order."""

    def __init__(self) -> None:
        self.done: list = []

    def synchronize(self, device: torch.device) -> None:
        self.done.append(("synchronize", device))

    def reset_peak_memory_stats(self, device: torch.device) -> None:
        self.done.append(("reset", device))

    def memory_allocated(self, device: torch.device) -> int:
        return {GPU: 5_000_000}[device]

    def max_memory_allocated(self, device: torch.device) -> int:
        return {GPU: 12_000_000}[device]

    def get_device_name(self, device: torch.device) -> str:
        return {GPU: "A GPU"}[device]


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Played:
    one = Played()
    monkeypatch.setattr(torch, "cuda", one)
    return one


def test_a_gpu(played: Played) -> None:
    benchmark_device.finish(GPU)
    peak = benchmark_device.Peak(GPU)
    assert peak.mb == 7
    assert played.done == [("synchronize", GPU), ("reset", GPU)]
    about = benchmark_report.machine(GPU)
    assert (about["device"], about["device_name"]) == ("cuda:1", "A GPU")
    head = benchmark_report.head(about, 1.0)
    assert "\ndevice cuda:1, A GPU\n" in head and head.endswith(benchmark_report.ELSEWHERE)


def test_the_cpu(played: Played) -> None:
    benchmark_device.finish(CPU)
    peak = benchmark_device.Peak(CPU)
    assert peak.mb is None or 0 <= peak.mb < 100
    filled = torch.ones(25_000_000)  # 100 MB
    assert peak.mb is None or 90 < peak.mb < 200
    del filled
    about = benchmark_report.machine(CPU)
    assert (about["device"], about["device_name"]) == ("cpu", None)
    head = benchmark_report.head(about, 1.0)
    assert "\ndevice cpu\n" in head and head.endswith(benchmark_report.LEGEND)
    assert played.done == []


@pytest.mark.parametrize("given, expected", (([], (1,)), (["threads=4,2"], (2, 4))))
def test_settings(given: list[str], expected: tuple[int, ...], tmp_path: Path) -> None:
    """Of one thread, unless others are given; every process is told of the device."""
    settings = command.settings_of(command.parameters(given), tmp_path, GPU)
    assert settings.threads == expected
    assert settings.begin("sweep", "auto", 0.0)["device"] == "cuda:1"
    usual = command.settings_of(command.parameters([]), tmp_path, CPU)
    assert usual.threads == tuple(sorted({1, resources.cores()}))


def test_a_process_without_the_device(tmp_path: Path) -> None:
    begin = {"folder": str(tmp_path), "small": 0.001, "options": {}, "device": "meta"}
    with pytest.raises(Sorry, match="^device=meta cannot be used here"):
        Worker(1, None, case="sweep", **begin)
