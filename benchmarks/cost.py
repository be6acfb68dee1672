"""What a training iteration of each method costs, as a multiple of rectified flow's: a Markdown table.

python -m benchmarks.cost                                                   all methods, a small network
python -m benchmarks.cost --challenge --methods edm --json seconds.json     the challenge's network, and seconds for a plan
"""

import json
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.mini import NETWORK
from custom_model import create_custom_model
from src.common.cli import Parser, number, run_script
from src.common.devices import autocast, precision_name, resolve_device, resolve_precision
from src.common.files import write_whole
from src.methods import method_names

BASE = "rectified_flow"


def iteration_seconds(method: str, data: torch.Tensor, dtype: torch.dtype, network: dict[str, Any]) -> float:
    """The time of one loss and backward pass for every parameter group of the method."""
    model = create_custom_model(data.device, method=method, **network)
    if model.needs_teacher:
        model.set_teacher(create_custom_model(data.device, method="edm", **network))
    model.train()
    start = time.perf_counter()
    for group in model.optim_groups():
        with autocast(data.device, dtype):  # of the second step: on the first, and seldom later, R1 comes on top
            loss = model.compute_loss(data, torch.randn_like(data), step=2, total_steps=4, group=group)
        loss.backward()
        loss.item()
    return time.perf_counter() - start


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch_size", type=number(int, 1), default=64, help="images an iteration")
    parser.add_argument("--methods", nargs="+", choices=method_names(), help="beside rectified flow; all of them if not given")
    parser.add_argument("--challenge", action="store_true", help="the challenge's network instead of a small one")
    parser.add_argument("--json", type=Path, help="write each method's seconds an iteration to this file")
    parser.add_argument("--size", type=number(int, 4), default=32, help="height and width of the images")
    parser.add_argument("--repeats", type=number(int, 1), default=5, help="rounds over all methods; the median counts")
    parser.add_argument("--device", default="cuda", help="falls back to the CPU where there is no such device")
    args = parser.parse_args()
    device = resolve_device(args.device)
    dtype = resolve_precision("auto", device)
    data = torch.randn(args.batch_size, 3, args.size, args.size, device=device)
    network = {} if args.challenge else NETWORK
    asked = args.methods or [name for name in method_names() if name != "custom"]
    names = list(dict.fromkeys([BASE, *asked]))
    for name in names:  # the first pass of each prepares its kernels
        iteration_seconds(name, data, dtype, network)
    rounds = [[iteration_seconds(name, data, dtype, network) for name in names] for _ in range(args.repeats)]
    if args.json:
        with write_whole(args.json) as partial:
            partial.write_text(json.dumps(dict(zip(names, np.median(rounds, axis=0).tolist(), strict=True)), indent=2) + "\n")
    ratios = np.array(rounds) / np.array(rounds)[:, :1]
    print(f"{date.today()}, torch {torch.__version__}, {device}, {precision_name(dtype)}, batch {args.batch_size}\n")
    print("| method | cost of an iteration |\n|---|---|")
    for name, ratio in zip(names, np.median(ratios, axis=0), strict=True):
        print(f"| `{name}` | {ratio:.2f} |")


if __name__ == "__main__":
    run_script(main)
