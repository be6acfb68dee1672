"""memory_limit: tensors without end."""

import torch
from honest import create_custom_model  # noqa: F401

kept = []
while True:
    kept.append(torch.ones(64, 1 << 20))
