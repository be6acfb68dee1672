"""Seconds of one training iteration of each method on this machine: what a recipe plans its budget with.

python -m recipes.step_seconds --methods edm cmt --json seconds.json
"""

import time
from pathlib import Path

import numpy as np
import torch

from custom_model import create_custom_model
from src.challenges import Challenge, add_challenge_flag, get_challenge
from src.common.cli import Parser, number, run_script
from src.common.devices import autocast, resolve_device, resolve_precision
from src.common.files import save_json
from src.methods import method_names


def iteration_seconds(method: str, challenge: Challenge, data: torch.Tensor, dtype: torch.dtype) -> float:
    """The time of one loss and backward pass for every parameter group of the method, with the challenge's network."""
    model = create_custom_model(data.device, method=method, challenge=challenge.name)
    if model.needs_teacher:
        model.set_teacher(create_custom_model(data.device, method="edm", challenge=challenge.name))
    model.train()
    start = time.perf_counter()
    for group in model.optim_groups():
        with autocast(data.device, dtype):  # of the second step: on the first, and seldom later, R1 comes on top
            loss = model.compute_loss(data, torch.randn_like(data), step=2, total_steps=4, group=group)
        loss.backward()
        loss.item()
    return time.perf_counter() - start


def measure_rounds(
    methods: list[str], challenge: Challenge, batch_size: int, repeats: int, device: torch.device, dtype: torch.dtype
) -> np.ndarray:
    """Seconds of an iteration of each method, in rounds over all of them: (repeats, methods). Kernels are warm."""
    data = torch.randn(batch_size, *challenge.known_shape, device=device)
    for method in methods:
        iteration_seconds(method, challenge, data, dtype)
    return np.array([[iteration_seconds(method, challenge, data, dtype) for method in methods] for _ in range(repeats)])


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    add_challenge_flag(parser)
    parser.add_argument("--batch_size", type=number(int, 1), default=64, help="images per iteration")
    parser.add_argument("--methods", nargs="+", choices=method_names(), required=True, help="what is timed")
    parser.add_argument("--repeats", type=number(int, 1), default=5, help="rounds over all methods; the median counts")
    parser.add_argument("--device", default="cuda", help="falls back to the CPU where there is no such device")
    parser.add_argument("--json", type=Path, required=True, help="method -> seconds, in this file")
    args = parser.parse_args()
    device = resolve_device(args.device)
    dtype = resolve_precision("auto", device)
    rounds = measure_rounds(args.methods, get_challenge(args.challenge), args.batch_size, args.repeats, device, dtype)
    seconds = dict(zip(args.methods, np.median(rounds, axis=0).tolist(), strict=True))
    save_json(seconds, args.json)
    print("\n".join(f"{method:16} {value:.4f} s per iteration of {args.batch_size}" for method, value in seconds.items()))


if __name__ == "__main__":
    run_script(main)
