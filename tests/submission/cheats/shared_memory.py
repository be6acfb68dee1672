"""memory_limit: memory that does not count as the process's own."""

import mmap

from honest import create_custom_model  # noqa: F401

SIZE = 64 << 20
kept = []
while True:
    kept.append(mmap.mmap(-1, SIZE))
    kept[-1].write(b"x" * SIZE)
