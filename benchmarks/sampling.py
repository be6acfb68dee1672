"""Images per second of the full network: plain float32 in PyTorch's default layout beside sampling.py's way, in one run.

python -m benchmarks.sampling
"""

import time

import torch

from benchmarks.shared.peak import machine, network_peak
from custom_model import create_custom_model
from src.challenges import get_challenge
from src.common.cli import Parser, number, run_script
from src.common.devices import resolve_device, resolve_precision
from src.common.flops import flops_counted
from src.common.sampling import fitting_batch_size, generate

IMAGE_SHAPE = get_challenge().shape


def images_per_second(model: torch.nn.Module, batch_size: int, batches: int, dtype: torch.dtype) -> float:
    """Speed of sampling at NFE 1, the best of `batches` batches after one to warm up."""
    best = 0.0
    start = None
    for samples in generate(model, IMAGE_SHAPE, 1, batch_size * (batches + 1), batch_size, seed=0, dtype=dtype):
        samples.sum().item()  # wait for the device
        now = time.perf_counter()
        if start is not None:
            best = max(best, batch_size / (now - start))
        start = now
    return best


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch_size", type=number(int, 1), default=32, help="images at a time, as sampling.py's default")
    parser.add_argument("--batches", type=number(int, 1), default=3, help="timed batches each way")
    parser.add_argument("--device", default="cuda", help="falls back to the CPU where there is no such device")
    args = parser.parse_args()
    device = resolve_device(args.device)
    dtype = resolve_precision("auto", device)
    model = create_custom_model(device).eval()
    with torch.no_grad(), flops_counted() as counter:
        model.predict(torch.zeros(1, *IMAGE_SHAPE, device=device), torch.zeros(1, device=device))
    flop = counter.get_total_flops()
    print(machine(device))

    plain = images_per_second(model, args.batch_size, args.batches, torch.float32)
    model.to(memory_format=torch.channels_last)
    shipped = images_per_second(model, fitting_batch_size(args.batch_size, device), 4 * args.batches, dtype)
    for name, rate, kind in (("plain float32", plain, torch.float32), ("as shipped", shipped, dtype)):
        peak, label = network_peak(device, kind)
        print(f"{name:14} {rate:7.2f} images/s per network call, {label}: {rate * flop / 1e9:,.0f} GFLOP/s, ", end="")
        print(f"{rate * flop / peak:.0%} of the {label} matrix peak of this run, {peak / 1e9:,.0f} GFLOP/s")
    print(f"ratio {shipped / plain:.2f}")


if __name__ == "__main__":
    run_script(main)
