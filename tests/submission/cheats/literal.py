"""stored_images: an image in the code."""

from honest import create_custom_model  # noqa: F401

IMAGE = "LITERAL"
