"""The device that nanobragg.benchmark runs on: its name, when it has done, what memory it took."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from pathlib import Path
from typing import Any

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
MB = 1e6


def name_of(device: torch.device) -> str | None:
    """What its maker calls it; None of a CPU, which /proc knows."""
    return None if device.type == "cpu" else _module(device).get_device_name(device)


def finish(device: torch.device) -> None:
    """Wait until it has done what it was told to; a CPU always has."""
    if device.type != "cpu":
        _module(device).synchronize(device)


class Peak:
    """The most memory, MB, above what there is when this is made: of the process as Linux counts
    it, or on a device that is no CPU what torch has allocated there."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        gc.collect()
        self.before = _begin_anew() if device.type == "cpu" else self._begin_anew_there()

    @property
    def mb(self) -> float | None:
        """None where it is not known."""
        if self.device.type == "cpu":
            most = memory("VmHWM")
        else:
            most = _module(self.device).max_memory_allocated(self.device) / MB
        return None if most is None or self.before is None else most - self.before

    def _begin_anew_there(self) -> float:
        """MB that remain."""
        module = _module(self.device)
        module.reset_peak_memory_stats(self.device)
        return module.memory_allocated(self.device) / MB


def memory(name: str) -> float | None:
    """MB of this process as Linux counts it: VmRSS, or VmHWM, the most there was; else None."""
    with contextlib.suppress(OSError):
        for line in STATUS.read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024 / MB
    return None


def _begin_anew() -> float | None:
    """Give freed memory back to the system, begin VmHWM anew; MB that remain.

    Where Linux does not let it be begun anew, the peak holds what went before too.
    """
    with contextlib.suppress(OSError, AttributeError):  # glibc's alone
        ctypes.CDLL(None).malloc_trim(0)
    with contextlib.suppress(OSError):
        CLEAR.write_text("5")
    return memory("VmRSS")


def _module(device: torch.device) -> Any:
    """torch.cuda, torch.xpu: their functions have the same names."""
    return getattr(torch, device.type)
