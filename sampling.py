"""Sample a checkpoint: `python sampling.py --ckpt_path ./results/RUN/last.ckpt --save_dir ./samples`.

The images go to SAVE_DIR/nfe=1/0000.png ..., one folder for each number of network calls (NFE). Several GPUs share the work
with `torchrun --nproc_per_node=4 sampling.py ...`, and the images are the same.
"""

import argparse
import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
from tqdm import tqdm

from custom_model import create_custom_model
from src.common.checkpoints import load_model
from src.common.cli import Parser, number, run_script
from src.common.devices import autocast, precision_name, resolve_precision
from src.common.files import write_whole
from src.common.images import image_seeds, tensor_to_pil_image
from src.common.sampling import sample_batch
from src.training.distributed import Team, join

IMAGE_SHAPE = (3, 64, 64)
CPU_BATCH_SIZE = 8  # of the full network; larger batches spend a CPU's time on clearing fresh memory


def parse() -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument("--ckpt_path", default="./checkpoints/best_model.pt", help="the model's weights")
    parser.add_argument("--config_path", help="the model's options; by default model_config.json beside the weights")
    parser.add_argument("--save_dir", default="./samples", help="a folder nfe=K is written in here for each K")
    parser.add_argument(
        "--batch_size", type=number(int, 1), default=32, help="images at a time (CPU: at most 8); changes no image"
    )
    parser.add_argument("--num_samples", type=number(int, 1), default=1000, help="images for each NFE")
    parser.add_argument("--nfe_list", type=number(int, 1), nargs="+", default=[1, 2, 4], help="network calls an image")
    parser.add_argument("--device", default="cuda", help="falls back to the CPU where there is no such device")
    parser.add_argument("--seed", type=number(int, 0), default=42, help="fixes every image's noise")
    parser.add_argument("--precision", choices=("auto", "bf16", "fp32"), default="auto", help="bf16 where the processor has it")
    return parser.parse_args()


def fitting_batch_size(batch_size: int, device: torch.device) -> int:
    """The number of images that is really taken at a time: on the CPU at most 8."""
    return min(batch_size, CPU_BATCH_SIZE) if device.type == "cpu" else batch_size


def generate(
    model: torch.nn.Module,
    nfe: int,
    num_samples: int,
    batch_size: int,
    seed: int,
    dtype: torch.dtype,
    first_sample: int = 0,
) -> Iterator[torch.Tensor]:
    """Yield batches (B, 3, 64, 64) in [-1, 1]: images first_sample .. first_sample + num_samples - 1, of nfe calls each.

    Image i of a model that takes seeds starts from noise of (seed, i), the same for every NFE and batch size. A batch of any
    other model follows from (seed, its first image).

    Raises UserError if the model gives another shape or values that are not finite.
    """
    end = first_sample + num_samples
    for first in range(first_sample, end, batch_size):
        shape = (min(batch_size, end - first), *IMAGE_SHAPE)
        with autocast(model.device, dtype):
            samples = sample_batch(model, shape, nfe, image_seeds(seed, first, shape[0]))
        yield samples


def write_samples(
    model: torch.nn.Module,
    folder: Path,
    nfe: int,
    num_samples: int,
    batch_size: int,
    seed: int,
    dtype: torch.dtype,
    team: Team,
) -> None:
    """Write what generate yields as 0000.png, 0001.png ... into folder, replacing it whole; the team shares the images."""
    mine = team.share(num_samples)
    with write_whole(folder, folder=True) if team.is_first else contextlib.nullcontext() as partial:
        if team.is_first:
            partial.mkdir()
        partial = team.first_says(partial)
        index = mine.start
        with tqdm(total=mine.stop - mine.start, desc=f"NFE={nfe}", unit="image", disable=not team.is_first) as progress:
            for samples in generate(model, nfe, mine.stop - mine.start, batch_size, seed, dtype, mine.start):
                for image in tensor_to_pil_image(samples):
                    image.save(partial / f"{index:04d}.png")
                    index += 1
                progress.update(len(samples))
        team.wait()


def main() -> None:
    args = parse()
    with join(args.device) as (team, device):
        run(args, team, device)


def run(args: argparse.Namespace, team: Team, device: torch.device) -> None:
    model = load_model(args.ckpt_path, create_custom_model, device, args.config_path)
    model.eval().to(memory_format=torch.channels_last)
    dtype = resolve_precision(args.precision, device)
    team.say(f"{args.ckpt_path}: {type(model).__name__} on {device}, {precision_name(dtype)}")
    batch_size = fitting_batch_size(args.batch_size, device)
    for nfe in args.nfe_list:
        folder = Path(args.save_dir) / f"nfe={nfe}"
        write_samples(model, folder, nfe, args.num_samples, batch_size, args.seed, dtype, team)
    team.say(f"samples: {args.save_dir}")


if __name__ == "__main__":
    run_script(main)
