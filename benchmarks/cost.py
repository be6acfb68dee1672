"""What a training iteration of each method costs, as a multiple of rectified flow's: a Markdown table.

python -m benchmarks.cost                        all methods, a small network
python -m benchmarks.cost --challenge simpsons   the course's
"""

from datetime import date

import numpy as np
import torch

from recipes.step_seconds import measure_rounds
from src.challenges import add_challenge_flag, get_challenge
from src.common.cli import Parser, number, run_script
from src.common.devices import precision_name, resolve_device, resolve_precision
from src.methods import method_names

BASE = "rectified_flow"


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    add_challenge_flag(parser, default="simpsons32")
    parser.add_argument("--batch_size", type=number(int, 1), default=64, help="images per iteration")
    parser.add_argument("--methods", nargs="+", choices=method_names(), help="beside rectified flow; all of them if not given")
    parser.add_argument("--repeats", type=number(int, 1), default=5, help="rounds over all methods; the median counts")
    parser.add_argument("--device", default="cuda", help="falls back to the CPU where there is no such device")
    args = parser.parse_args()
    device = resolve_device(args.device)
    dtype = resolve_precision("auto", device)
    names = list(dict.fromkeys([BASE, *(args.methods or (name for name in method_names() if name != "custom"))]))
    rounds = measure_rounds(names, get_challenge(args.challenge), args.batch_size, args.repeats, device, dtype)
    ratios = rounds / rounds[:, :1]
    print(f"{date.today()}, torch {torch.__version__}, {device}, {precision_name(dtype)}, batch {args.batch_size}\n")
    print("| method | cost of an iteration |\n|---|---|")
    for name, ratio in zip(names, np.median(ratios, axis=0), strict=True):
        print(f"| `{name}` | {ratio:.2f} |")


if __name__ == "__main__":
    run_script(main)
