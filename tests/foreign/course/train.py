"""The student's training script."""

import argparse

try:
    import torch_xla  # noqa: F401
except ImportError:
    pass
import wandb  # noqa: F401

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--num_iterations", type=int, default=100000)
    parser.parse_args()
