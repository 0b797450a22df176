"""The two kinds of programs that nanobragg.benchmark times: our own process, and nanoBragg.c."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from libtbx.utils import Sorry

from nanobragg_plugin.run import benchmark_cases as cases

WORKER = "nanobragg_plugin.run.benchmark_worker"
#: Where torch keeps what it compiles.
CACHE = "TORCHINDUCTOR_CACHE_DIR"
#: nanoBragg.c's images, in the folder it runs in. Their names must hold no flag of its: it looks
#: for these anywhere in a word. So must the folder's, which is therefore not among the words.
FLOATS, INTEGERS = "f.bin", "i.img"
#: Seconds in which a process ends of its own that is asked no more.
PATIENCE = 20


class Worker:
    """A `benchmark_worker` process: ask(question, ...) -> answer. A context manager.

    cache: a folder for compiled code, None for torch's own.
    """

    def __init__(self, threads: int, cache: Path | None, **begin: Any) -> None:
        self.log = tempfile.TemporaryFile("w+")
        more = {} if cache is None else {CACHE: str(cache)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(threads), **more},
        )
        try:
            self.ask("begin", threads=threads, **begin)
        except BaseException:
            self.close()
            raise

    def ask(self, question: str, **given: Any) -> dict[str, Any]:
        """The answer; the worker's `Sorry` is raised here."""
        try:
            print(json.dumps([question, given]), file=self.process.stdin, flush=True)
        except BrokenPipeError:
            pass  # why, is said below
        line = self.process.stdout.readline()
        if not line:
            raise self._failure(question)
        answer = json.loads(line)
        if "sorry" in answer:
            raise Sorry(answer["sorry"])
        return answer

    def _failure(self, question: str) -> Exception:
        """What became of a process that answers no more."""
        status = self.process.wait()
        if status < 0:
            return Sorry(
                f"a process of the benchmark was ended by signal {-status}: was there too little "
                "memory? small=0.1 simulates a tenth of the pixels"
            )
        self.log.seek(0)
        return RuntimeError(f"the process that was to {question} failed:\n{self.log.read()}")

    def close(self) -> None:
        """End the process."""
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            pass  # it has answered all it was asked
        finally:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()
            self.log.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.process.kill()
        self.close()


class NanoBraggC:
    """A program made of nanoBragg.c, run with one thread in a folder that holds the amplitudes."""

    def __init__(self, program: str, folder: Path) -> None:
        self.program, self.folder = Path(program).resolve(), folder
        if not self.program.is_file() or not os.access(self.program, os.X_OK):
            raise Sorry(f"nanobragg_c={program}: there is no such program")

    def seconds(self, case: cases.Case, small: float) -> tuple[float, float]:
        """Of a whole run, and of the same run with one pixel: reading and writing."""
        files = self.run([*case.c_words, *cases.one_pixel_words(case, small)])
        return self.run([*case.c_words, *cases.roi_words(case, small)]), files

    def run(self, words: list[str]) -> float:
        """Seconds of a run."""
        command = [str(self.program), *words, "-noprogress"]
        command += ["-floatfile", FLOATS, "-intfile", INTEGERS]
        (self.folder / FLOATS).unlink(missing_ok=True)
        start = time.perf_counter()
        try:
            done = subprocess.run(
                command,
                cwd=self.folder,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
        except OSError as error:
            raise Sorry(
                f"nanobragg_c={self.program.name} cannot be run: {error.strerror}"
            ) from None
        seconds = time.perf_counter() - start
        if done.returncode or not (self.folder / FLOATS).is_file():
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise Sorry(
                f"nanobragg_c={self.program.name} failed (exit status {done.returncode}"
                f"{', ' + said[-1] if said else ''}): is it nanoBragg.c?"
            )
        return seconds

    def photons(self, case: cases.Case) -> np.ndarray:
        """The image of the last run, float32 [slow, fast]."""
        values = np.fromfile(self.folder / FLOATS, "<f4")
        shape = cases.shape_of(case)
        if values.size != shape[0] * shape[1]:
            raise Sorry(
                f"nanobragg_c={self.program.name} wrote {values.size} pixels, not "
                f"{shape[1]} x {shape[0]}: is it nanoBragg.c?"
            )
        return values.reshape(shape)
