"""disk_limit: files without end in the scratch folder."""

import tempfile
from pathlib import Path

from honest import create_custom_model  # noqa: F401

number = 0
while True:
    number += 1
    Path(tempfile.gettempdir(), str(number)).write_bytes(bytes(1 << 20))
