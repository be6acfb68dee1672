"""process_limit: processes without end."""

import os

from honest import create_custom_model  # noqa: F401

while True:
    os.fork()
