"""crashed: what is looked for past Python; the error lists what was found, which is to be nothing."""

import ctypes
import os

from honest import create_custom_model  # noqa: F401

libc = ctypes.CDLL(None, use_errno=True)
attempts = {
    "write beside itself": lambda: libc.open(os.fsencode(os.path.join(os.path.dirname(__file__), "new.py")), 0o101, 0o600),
    "write to the top": lambda: libc.open(b"/new", 0o101, 0o600),
    "read the seed": lambda: libc.open(b"SEED_FILE", 0),
    "read the reference": lambda: libc.open(b"REFERENCE/0000.png", 0),
    "read the weights": lambda: libc.open(b"checkpoints/best_model.pt", 0),
    "see other processes": lambda: max(int(name) for name in os.listdir("/proc") if name.isdigit()) - 100,
    "reach the network": lambda: -1 if os.listdir("/sys/class/net") == ["lo"] or not os.path.exists("/sys/class/net") else 0,
}
found = []
for name, attempt in attempts.items():
    try:
        found += [name] if attempt() >= 0 else []
    except OSError:
        continue
raise RuntimeError(f"let through: {found}")
