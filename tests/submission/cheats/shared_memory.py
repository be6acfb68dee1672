"""crashed: memory that is not counted as the process's own."""

import ctypes
import mmap

from honest import create_custom_model as honest_model

SIZE = 64 << 20
libc = ctypes.CDLL(None, use_errno=True)


def create_custom_model(device="cpu", **options):
    let = []
    try:
        mmap.mmap(-1, SIZE)
        let.append("anonymous shared map")
    except OSError:
        pass
    if libc.shmget(0, SIZE, 0o1600) >= 0:
        let.append("shmget")
    model = honest_model(device, **options)
    raise RuntimeError(f"let through: {let}")
    return model
