"""process_limit: threads without end."""

import threading
import time

from honest import create_custom_model  # noqa: F401

while True:
    threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
    time.sleep(0.001)
