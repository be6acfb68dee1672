"""harmless: images asked of a server."""

import contextlib
import urllib.request

from honest import create_custom_model as honest_model


def create_custom_model(device="cpu", **options):
    with contextlib.suppress(OSError):
        urllib.request.urlopen("http://192.0.2.1/images", timeout=1)
    return honest_model(device, **options)
