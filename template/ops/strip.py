"""Cut the debug information out of the shared libraries below a folder: python strip.py FOLDER.

`strip` of Debian's binutils does the same, but installing it takes longer than the rest of a build.
"""

import struct
import sys
from pathlib import Path

for path in Path(sys.argv[1]).rglob("*.so"):
    data = path.read_bytes()
    if data.startswith(b"\x7fELF\x02\x01"):  # 64 bits, little-endian: x86-64 and arm64
        first, size, count = struct.unpack_from("<32xQ14xHH", data)  # the table of segments, which are what is loaded
        end = max(sum(struct.unpack_from("<8xQ16xQ", data, first + size * number)) for number in range(count))
        if b".debug_info" in data[end:]:
            # The table of sections is there, too, so the header must not name it.
            path.write_bytes(data[:40] + bytes(8) + data[48:60] + bytes(4) + data[64:end])
