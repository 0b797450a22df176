"""Write the commands of Debian's DIALS and dxtbx into a venv's bin folder: commands.py BIN.

`/usr/bin/dials.*` start the system's Python, which does not see the venv, hence neither our format
class nor our commands; `/usr/bin/dxtbx.*` of Debian 12 start files that are not there. Both
packages name their commands as entry points, from which they are written here for this Python.
"""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

# The `exec` line is sh's, the rest Python's, which takes it for a string: a `#!` line can neither
# hold a path with a space nor a long one.
SCRIPT = """\
#!/bin/sh
'''exec' "{python}" "$0" "$@"
' '''
import sys

from {module} import {function}

if __name__ == "__main__":
    sys.exit({function}())
"""


def main(folder: Path) -> int:
    """Write every console script of dials and dxtbx into `folder`; the number of them."""
    commands = {
        entry.name: entry
        for name in ("dxtbx", "dials")
        for entry in metadata.distribution(name).entry_points
        if entry.group == "console_scripts"
    }
    for name, entry in commands.items():
        module, function = entry.value.split(":")
        path = folder / name
        path.write_text(
            SCRIPT.format(python=sys.executable, module=module, function=function),
            encoding="utf-8",
        )
        path.chmod(0o755)
    return len(commands)


if __name__ == "__main__":
    if not main(Path(sys.argv[1])):
        sys.exit("No command of dials or dxtbx is known to this Python.")
