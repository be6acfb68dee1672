"""Training the full network: a plain loop beside train.py's, in one run; what the extras cost; memory by batch size.

python -m benchmarks.training

The plain loop is what a course's script does: float32, PyTorch's default layout, Adam, a DataLoader that decodes PNG files, and
loss.item() at every step.
"""

import argparse
import contextlib
import itertools
import multiprocessing
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks.shared.peak import network_peak
from custom_model import create_custom_model
from src.challenges import get_challenge
from src.challenges.toon.drawing import toon_faces
from src.common.cli import Parser, number, run_script
from src.common.devices import (
    device_name,
    peak_memory,
    precision_name,
    resolve_device,
    resolve_precision,
    seed_everything,
    synchronize,
)
from src.methods import Method
from src.training.config import TrainingConfig
from src.training.cost import estimate_step
from src.training.loop import Trainer, usual_layout
from src.training.schedule import Clock
from src.training.writing import Previews

CHALLENGE = get_challenge()
PHOTO_SIZE = 200  # of the published faces
IMAGES = 256


class PngFolder(Dataset):
    """The faces as a course's script reads them: decoded and resized each time one is asked for."""

    def __init__(self, folder: Path):
        self.paths = sorted(folder.iterdir())
        steps = [transforms.Resize(CHALLENGE.shape[1:]), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
        self.transform = transforms.Compose([*steps, transforms.Normalize([0.5] * 3, [0.5] * 3)])

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.transform(Image.open(self.paths[index]).convert("RGB"))


def plain_steps(model: Method, batches: Iterator[torch.Tensor], config: TrainingConfig) -> Iterator[float]:
    """Train as a plain loop does, for ever; yields the loss of each step."""
    optimizer = torch.optim.Adam(model.parameters(), config.lr, foreach=False, fused=False)
    model.train()
    for step, data in enumerate(batches, start=1):
        data = data.to(model.device)
        optimizer.zero_grad()
        loss = model.compute_loss(data, torch.randn_like(data), step=step, total_steps=config.num_iterations, group="network")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
        optimizer.step()
        yield loss.item()


def plain_speed(device: torch.device, images: np.ndarray, config: TrainingConfig) -> float:
    """Images per second of the plain loop, the median of its steps after the first two."""
    with tempfile.TemporaryDirectory() as folder:
        for index, pixels in enumerate(images):
            Image.fromarray(pixels.transpose(1, 2, 0)).resize((PHOTO_SIZE,) * 2).save(Path(folder) / f"{index:04d}.png")
        workers = min(4, os.cpu_count() or 1)
        loader = DataLoader(PngFolder(Path(folder)), config.batch_size, shuffle=True, drop_last=True, num_workers=workers)
        epochs = (batch for _ in itertools.count() for batch in loader)
        steps = plain_steps(create_custom_model(device), epochs, config)
        ends = [time.perf_counter() for _, _ in zip(range(config.num_iterations), steps, strict=False)]
    return config.batch_size / float(np.median(np.diff(ends[1:])))


class DeviceClock(Clock):
    """A clock that waits for the device before it looks."""

    def __init__(self, device: torch.device):
        super().__init__()
        self.device = device

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[None]:
        synchronize(self.device)
        with super().timed(name):
            yield
            synchronize(self.device)


def shipped(device: torch.device, images: np.ndarray, config: TrainingConfig, dtype: torch.dtype) -> Trainer:
    """Train as train.py does, into a folder that is thrown away; the trainer afterwards."""
    seed_everything(config.seed)
    previews = Previews(CHALLENGE.nfe, CHALLENGE.to_array, CHALLENGE.picture, CHALLENGE.preview_samples)
    trainer_kwargs = {"previews": previews, "clock": DeviceClock(device)}
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(create_custom_model(device), images, config, {}, Path(folder), device, dtype, **trainer_kwargs)
        trainer.run()
    return trainer


def images_per_second(trainer: Trainer) -> float:
    """The median over the lines of the log, but for the first two."""
    return float(np.median([row["images_per_second"] for row in trainer.log.rows[2:]]))


def overheads(trainer: Trainer) -> dict[str, float]:
    """Seconds a step of what is not training itself, at the default intervals."""
    synchronize(trainer.device)
    start = time.perf_counter()
    for _ in range(5):
        trainer.state.ema.update(trainer.state.step)
    synchronize(trainer.device)
    defaults = TrainingConfig()
    return {
        "EMA": (time.perf_counter() - start) / 5,
        "logging": float(np.median(trainer.clock.seconds["log"])) / defaults.log_interval,
        "checkpoint, curves and preview": sum(map(trainer.clock.longest, ("save", "preview"))) / defaults.save_interval,
    }


def memory_of_batch(queue: Any, device: torch.device, batch_size: int, micro_batch: int, dtype: torch.dtype) -> None:
    """Put the bytes that two steps of this size need, or "out of memory", into the queue. For a process of its own."""
    config = TrainingConfig(batch_size=batch_size, micro_batch=micro_batch, num_iterations=2)
    try:
        start = peak_memory(device) if device.type == "cpu" else 0
        images = np.zeros((batch_size, *CHALLENGE.shape), dtype=np.uint8)
        with tempfile.TemporaryDirectory() as folder:
            trainer = Trainer(create_custom_model(device), images, config, {}, Path(folder), device, dtype)
            trainer.begin()
            for step in (1, 2):
                trainer.training_step(step)
        queue.put(peak_memory(device) - start)
    except torch.OutOfMemoryError:
        queue.put("out of memory")


def print_memory(device: torch.device, batch_sizes: list[int], micro_batch: int, dtype: torch.dtype) -> None:
    context = multiprocessing.get_context("spawn")
    how = f"{precision_name(dtype)}, {usual_layout(device, dtype)}"
    print(f"\nmemory of a training step of the full network, weights, optimizer and one EMA included, {how}")
    for batch_size in batch_sizes:
        for micro in (0, micro_batch):
            if micro and (micro >= batch_size or batch_size % micro):
                continue
            queue = context.Queue()
            process = context.Process(target=memory_of_batch, args=(queue, device, batch_size, micro, dtype))
            process.start()
            process.join()
            result = queue.get() if process.exitcode == 0 else f"the process ended with exit code {process.exitcode}"
            words = result if isinstance(result, str) else f"{result / 2**30:.2f} GiB"
            print(f"  batch {batch_size:4}{f', {micro} at a time' if micro else '':16} {words}", flush=True)


def parse() -> argparse.Namespace:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", help="falls back to the CPU where there is no such device")
    parser.add_argument("--batch_size", type=number(int, 1), help="images per step; 8 on a CPU, 128 on a GPU if not given")
    parser.add_argument("--steps", type=number(int, 4), help="steps each way; 6 on a CPU, 60 on a GPU if not given")
    parser.add_argument("--compile", action="store_true", help="train.py's loop with torch.compile too")
    parser.add_argument("--memory", type=number(int, 1), nargs="*", default=[], help="batch sizes whose memory is measured")
    parser.add_argument("--micro_batch", type=number(int, 1), default=8, help="the memory of these batches in such parts, too")
    return parser.parse_args()


def main() -> None:
    args = parse()
    device = resolve_device(args.device)
    on_cpu = device.type == "cpu"
    dtype = resolve_precision("auto", device)
    batch_size, steps = args.batch_size or (8 if on_cpu else 128), args.steps or (6 if on_cpu else 60)
    images = toon_faces(max(IMAGES, batch_size), seed=1)
    config = TrainingConfig(batch_size=batch_size, num_iterations=steps, log_interval=max(steps // 6, 1), save_interval=10**6)
    name = platform.machine() if on_cpu else device_name(device)
    if device.type == "cuda":  # as train.py does, for both loops
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
    print(f"{date.today()}, torch {torch.__version__}, {name}, {torch.get_num_threads()} threads, batch {batch_size}")
    flop = estimate_step(create_custom_model(device), images.shape[1:], 1, 1, 1, torch.float32).flop
    print(f"{flop / 1e9:,.0f} GFLOP per training image of the full network")

    peaks = {kind: network_peak(device, kind) for kind in {torch.float32, dtype}}
    plain = plain_speed(device, images, config)
    print_speed("plain loop", plain, torch.float32, flop, peaks)
    for compiled in (False, True) if args.compile else (False,):
        config.compile = compiled
        trainer = shipped(device, images, config, dtype)
        label = "train.py --compile" if compiled else "train.py"
        rate = images_per_second(trainer)
        print_speed(label, rate, dtype, flop, peaks)
        print(f"{'':19}layout {trainer.state.settings['layout']}; {rate / plain:.2f} times the plain loop")
        if not compiled:
            spent, step = overheads(trainer), batch_size / rate
            parts = ", ".join(f"{what} {1e3 * seconds:.2f} ms" for what, seconds in spent.items())
            print(f"{'':19}beside training a step takes {parts}: {sum(spent.values()) / step:.2%} of {step:.3f} s")
    if args.memory:
        print_memory(device, args.memory, args.micro_batch, dtype)


def print_speed(label: str, rate: float, dtype: torch.dtype, flop: float, peaks: dict[torch.dtype, tuple[float, str]]) -> None:
    peak, kind = peaks[dtype]
    print(
        f"{label:19}{rate:9.2f} images/s, {kind}: {rate * flop / 1e9:,.0f} GFLOP/s, {rate * flop / peak:.0%} of this run's "
        f"{kind} matrix peak of {peak / 1e9:,.0f} GFLOP/s",
        flush=True,
    )


if __name__ == "__main__":
    run_script(main)
