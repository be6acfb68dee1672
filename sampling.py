"""Sample a checkpoint: `python sampling.py --ckpt_path ./results/RUN/last.ckpt --save_dir ./samples`.

The images go to SAVE_DIR/nfe=1/0000.png ..., one folder for each number of network calls (NFE).
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from tqdm import tqdm

from custom_model import create_custom_model
from src.utils import (
    Parser,
    UserError,
    autocast,
    image_seeds,
    load_model,
    number,
    resolve_device,
    resolve_precision,
    run_script,
    seed_everything,
    tensor_to_pil_image,
    write_whole,
)

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


@torch.inference_mode()
def generate(
    model: torch.nn.Module, nfe: int, num_samples: int, batch_size: int, seed: int, dtype: torch.dtype
) -> Iterator[torch.Tensor]:
    """Yield batches (B, 3, 64, 64) in [-1, 1], num_samples images in all, of nfe network calls each.

    Image i starts from noise of (seed, i), the same for every NFE and batch size. A model that takes no `seeds` draws from the
    global generator instead, which is seeded once.

    Raises UserError if the model gives another shape or values that are not finite.
    """
    seed_everything(seed)
    for first in range(0, num_samples, batch_size):
        shape = (min(batch_size, num_samples - first), *IMAGE_SHAPE)
        with autocast(model.device, dtype):
            samples = model.sample(shape, num_inference_timesteps=nfe, seeds=image_seeds(seed, first, shape[0]))
        if tuple(samples.shape) != shape:
            raise UserError(f"the model's sample() gave images {tuple(samples.shape)}, expected {shape}")
        if not torch.isfinite(samples).all():
            raise UserError(f"the model's sample() gave values that are not finite at NFE {nfe}")
        yield samples


def write_samples(
    model: torch.nn.Module, folder: Path, nfe: int, num_samples: int, batch_size: int, seed: int, dtype: torch.dtype
) -> None:
    """Write what generate yields as 0000.png, 0001.png ... into folder, replacing it whole."""
    with write_whole(folder) as partial:
        partial.mkdir()
        with tqdm(total=num_samples, desc=f"NFE={nfe}", unit="image") as progress:
            for samples in generate(model, nfe, num_samples, batch_size, seed, dtype):
                for index, image in enumerate(tensor_to_pil_image(samples), start=progress.n):
                    image.save(partial / f"{index:04d}.png")
                progress.update(len(samples))


def main() -> None:
    args = parse()
    device = resolve_device(args.device)
    model = load_model(args.ckpt_path, create_custom_model, device, args.config_path)
    model.eval().to(memory_format=torch.channels_last)
    dtype = resolve_precision(args.precision, device)
    print(f"{args.ckpt_path}: {type(model).__name__} on {device}, {str(dtype).removeprefix('torch.')}")
    batch_size = fitting_batch_size(args.batch_size, device)
    for nfe in args.nfe_list:
        write_samples(model, Path(args.save_dir) / f"nfe={nfe}", nfe, args.num_samples, batch_size, args.seed, dtype)
    print(f"samples: {args.save_dir}")


if __name__ == "__main__":
    run_script(main)
