"""The frame of an MTZ file, looked at before CCP4's library reads it, which never ends where the
header's records do not (https://www.ccp4.ac.uk/html/mtzformat.html)."""

from __future__ import annotations

from pathlib import Path

from libtbx.utils import Sorry

#: Bytes of a record, of the header at most.
RECORD, MAX_HEADER = 80, 1 << 24


def check(path: Path) -> None:
    """`Sorry` unless a file has a header that ends, and as many values as it says."""
    with path.open("rb") as stream:
        head = stream.read(20)
        size = stream.seek(0, 2)
        for order in ("little", "big"):
            begin = 4 * (int.from_bytes(head[4:8], order, signed=True) - 1)
            if begin == -8:  # of files beyond 8 GB
                begin = 4 * (int.from_bytes(head[12:20], order, signed=True) - 1)
            if 80 <= begin < size:
                stream.seek(begin)
                if _is_whole(stream.read(MAX_HEADER), begin):
                    return
    raise Sorry(f"{path} is not a whole MTZ file: its header is missing, damaged or cut short")


def _is_whole(header: bytes, begin: int) -> bool:
    records = [header[i : i + RECORD] for i in range(0, len(header), RECORD)]
    if not header.startswith(b"VERS") or not any(r.startswith(b"END ") for r in records):
        return False
    if not any(record.startswith(b"MTZENDOFHEADERS") for record in records):
        return False
    counts = [record.split()[1:3] for record in records if record.startswith(b"NCOL")]
    if len(counts) != 1 or len(counts[0]) != 2 or not all(c.isdigit() for c in counts[0]):
        return False
    columns, reflections = map(int, counts[0])
    return 0 < columns <= 10_000 and RECORD + 4 * columns * reflections <= begin
