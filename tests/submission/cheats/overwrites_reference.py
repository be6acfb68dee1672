"""crashed: the script that measures, replaced while it samples."""

from pathlib import Path

from honest import create_custom_model as honest_model


def create_custom_model(device="cpu", **options):
    (Path(__file__).parent / "measure_fid.py").write_text('print("FID 1.0")')
    return honest_model(device, **options)
