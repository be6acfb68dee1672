"""crashed: system calls made past Python; the error lists what the kernel let through, which is to be nothing."""

import ctypes
import os

from honest import create_custom_model  # noqa: F401

libc = ctypes.CDLL(None, use_errno=True)
attempts = {
    "fork": lambda: libc.fork(),
    "socket": lambda: libc.socket(2, 1, 0),
    "unshare": lambda: libc.unshare(0x10000000),
    "write beside itself": lambda: libc.open(os.fsencode(os.path.join(os.path.dirname(__file__), "new.py")), 0o101, 0o600),
    "write to the top": lambda: libc.open(b"/new", 0o101, 0o600),
    "read the seed": lambda: libc.read(libc.open(b"SEED_FILE", 0), ctypes.create_string_buffer(4), 4) or -1,
    "read the reference": lambda: libc.open(b"REFERENCE/0000.png", 0),
    "signal its parent": lambda: libc.kill(os.getppid(), 0) if os.getppid() else -1,
}
raise RuntimeError(f"let through: {[name for name, attempt in attempts.items() if attempt() >= 0]}")
