"""A trained model for the kit to bring along: its weights in float16, its options and what was measured of it beside them.

python -m recipes.ship_checkpoint results/RUN checkpoints/mnist --method rectified_flow

Training goes on from it in another place: train.py --init_from checkpoints/mnist/best_model.pt.
"""

from dataclasses import replace
from pathlib import Path

import torch

from custom_model import create_custom_model
from src.common.checkpoints import MODEL_CONFIG, load_model, read_model_config, state_of
from src.common.cli import Parser, UserError, run_script
from src.common.files import load_torch, save_json, save_torch
from src.methods import method_names
from src.runs.folder import BEST, METRICS, Run, checkpoint_of
from src.runs.scores import measured_scores, write_scores

LIMIT = 8e6  # bytes
OWN = "custom"


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="the run's folder, or a checkpoint")
    parser.add_argument("folder", type=Path, help="best_model.pt, model_config.json and metrics.jsonl are written anew in here")
    parser.add_argument("--method", choices=method_names(), help="of a model of custom_model.py: the method that it is")
    args = parser.parse_args()
    source = checkpoint_of(args.run)
    if source.resolve().parent == args.folder.resolve():
        raise UserError(f"{args.folder} is where {source} lies itself: name another folder")
    checkpoint, config = load_torch(source), read_model_config(source)
    if config is None:
        raise UserError(f"{source}: no {MODEL_CONFIG} beside it")
    config["method"] = args.method or config.get("method", OWN)
    if config["method"] == OWN:
        raise UserError(f"{source}: its method is {OWN}, and {OWN}_model.py may change: name with --method what it is")
    state = state_of(checkpoint, source)
    half = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    if unfit := next((name for name, value in half.items() if not value.isfinite().all()), None):
        raise UserError(f"{source}: {unfit} has values that float16 cannot hold")
    size = sum(value.nbytes for value in half.values())
    if size > LIMIT:
        raise UserError(f"{source}: {size / 1e6:.1f} MB in float16; what the kit brings along has at most {LIMIT / 1e6:g} MB")
    file = args.folder / BEST
    args.folder.mkdir(parents=True, exist_ok=True)
    save_torch({**checkpoint, "state_dict": half}, file)
    save_json(config, args.folder / MODEL_CONFIG)
    (args.folder / METRICS).unlink(missing_ok=True)
    shipped = [replace(score, sampling={**score.sampling, "samples": None}) for score in measured_scores(Run.of(source))]
    write_scores(Run(args.folder), shipped)  # the samples stay behind
    load_model(file, create_custom_model)
    off = max((value.float() - state[name]).abs().max().item() for name, value in half.items() if value.dtype == torch.half)
    print(f"{file}: {file.stat().st_size / 1e6:.1f} MB; a weight is off by at most {off:.1g}")


if __name__ == "__main__":
    run_script(main)
