"""A stand-in of the course's sampling.py: it seeds once, and asks for images by the course's call."""

import argparse
from pathlib import Path

import torch
from custom_model import create_custom_model

from src.utils import load_model, seed_everything, tensor_to_pil_image


def main(args):
    seed_everything(args.seed)
    model = load_model(args.ckpt_path, create_custom_model, args.device, args.config_path).eval()
    for nfe in args.nfe_list:
        folder = Path(args.save_dir) / f"nfe={nfe}"
        folder.mkdir(parents=True, exist_ok=True)
        for first in range(0, args.num_samples, args.batch_size):
            count = min(args.batch_size, args.num_samples - first)
            with torch.no_grad():
                samples = model.sample((count, 3, 64, 64), num_inference_timesteps=nfe, verbose=False)
            for index, image in enumerate(tensor_to_pil_image(samples), start=first):
                image.save(folder / f"{index:04d}.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--ckpt_path", default="./checkpoints/best_model.pt")
    parser.add_argument("--config_path")
    parser.add_argument("--save_dir", default="./samples")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--num_samples", type=int, default=1000)
    parser.add_argument("--nfe_list", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=42)
    main(parser.parse_args())
