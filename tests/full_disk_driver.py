"""nanobragg.simulate on small disks; prints lines of JSON: kB, exit status or minus signal, what it
said, files.

    python full_disk_driver.py FOLDER KB,KB... ARGUMENT...

A tmpfs of each size is mounted on FOLDER, which takes root. What the command thinks it needs is not
looked at: other programs may fill a disk meanwhile.
"""

from __future__ import annotations

import nanobragg_plugin  # noqa: F401  isort: skip  before dxtbx: torch keeps its threads

import json
import os
import subprocess
import sys
from pathlib import Path

from nanobragg_plugin.command_line import simulate
from nanobragg_plugin.run import resources


def said(args: list[str], errors: Path) -> int:
    """The command in a child of this process: exit status, or minus the signal that ended it."""
    process = os.fork()
    if process:
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    resources.check_disk = lambda *given: None
    status = 1
    try:
        simulate.run(args)
        status = 0
    except BaseException as error:  # the parent says so
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(status)


def main(folder: Path, sizes: list[str], args: list[str]) -> None:
    errors, home = folder.with_suffix(".errors"), Path.cwd()
    for size in sizes:
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(folder)]
        subprocess.run(mount, check=True)
        try:
            os.chdir(folder)
            status = said(args, errors)
            names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
            print(json.dumps([int(size), status, errors.read_text(), names]), flush=True)
        finally:
            os.chdir(home)
            subprocess.run(["umount", str(folder)], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2].split(","), sys.argv[3:])
