"""Kills nanobragg.simulate again and again: prints JSON of what was found.

    python restart_driver.py SEED KILLS ARGUMENT...

In the working directory: the command with these arguments, first undisturbed, with
output.prefix=whole, then killed (SIGKILL) at random moments and called again until it ends, in a
child of this process, which has all imports done; then with a new start, until it has been killed
often enough.
"""

from __future__ import annotations

import nanobragg_plugin  # noqa: F401  isort: skip  before dxtbx: torch keeps its threads

import glob
import json
import os
import random
import signal
import sys
import time

import h5py
import numpy as np

from nanobragg_plugin.command_line import simulate


def child(args: list[str], prefix: str) -> int:
    """Start the command; its process."""
    process = os.fork()
    if process:
        return process
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(os.open("errors", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    status = 1
    try:
        simulate.run([*args, f"output.prefix={prefix}"])
        status = 0
    except BaseException as error:  # the parent says so
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(status)


def wait(process: int, seconds: float) -> tuple[int, int]:
    """For a process to end, but no longer than that: as os.waitpid has it."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        found = os.waitpid(process, os.WNOHANG)
        if found[0]:
            return found
        time.sleep(0.01)
    return 0, 0


def pixels(prefix: str) -> np.ndarray | list[bytes]:
    """All images of a run: values, or of a file each the bytes."""
    if os.path.exists(f"{prefix}.nxs"):
        with h5py.File(f"{prefix}.nxs") as handle:
            return handle["/entry/data/data"][()]
    names = sorted(glob.glob(f"{prefix}_*.img"))
    return np.array(
        [np.frombuffer(open(name, "rb").read()[-2 * 432 :], np.uint16) for name in names]
    )


def files(prefix: str) -> list[str]:
    """What has been made, by its names without the prefix."""
    return sorted(name[len(prefix) :] for name in os.listdir() if name.startswith(prefix))


def main(seed: int, kills: int, args: list[str]) -> None:
    start = time.perf_counter()
    assert os.waitpid(child(args, "whole"), 0)[1] == 0, open("errors").read()
    length = time.perf_counter() - start
    expected, names = pixels("whole"), files("whole")
    chance, found = random.Random(seed), []
    killed = runs = 0
    while killed < kills:
        prefix = f"run{runs}"
        while True:
            process = child(args, prefix)
            done, status = wait(process, chance.uniform(0.2, 1.1) * length)
            if not done:
                os.kill(process, signal.SIGKILL)
                _, status = os.waitpid(process, 0)
            if status == 0:
                break
            if status != signal.SIGKILL:
                found.append(f"status {status}: {open('errors').read()}")
                break
            killed += 1
            if os.path.exists(f"{prefix}.expt") and not os.path.exists(f"{prefix}.parts"):
                break  # all was done, but for the end of the process
            for name in glob.glob(f"{prefix}.nxs"):  # only whole, if it is there
                if not np.array_equal(pixels(prefix), expected):
                    found.append(f"{name} is there, and not whole")
        if not found and not np.array_equal(pixels(prefix), expected):
            found.append(f"{prefix} differs")
        if not found and files(prefix) != names:
            found.append(f"{prefix}: {files(prefix)}")
        if found:
            break
        runs += 1
    print(json.dumps({"killed": killed, "runs": runs, "found": found, "length": length}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
