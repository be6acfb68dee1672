"""Train a method: `python train.py --num_iterations 100000 --batch_size 32 --device cuda`.

`--method NAME --help` lists the options of that method. Everything that builds the model is saved in model_config.json.
On several GPUs: `torchrun --nproc_per_node=4 train.py ...`.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, Field, asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from custom_model import NETWORK_OPTIONS, create_custom_model
from dataset import DATA_NAMES, DEFAULT_ROOT, load_split
from src.common.cli import Parser, UserError, number, run_script
from src.common.devices import precision_flag, precision_name, resolve_precision, seed_everything
from src.common.files import load_json
from src.datasets.pairs import describe_pairs, load_pairs
from src.evaluation.development import DevelopmentFID
from src.evaluation.weights import load_inception
from src.methods import Method, get_method, method_names
from src.training.checkpoint import has_resume, init_network, load_teacher, parameter_count
from src.training.config import TrainingConfig, micro_batches
from src.training.data import development_split
from src.training.distributed import Team, join
from src.training.estimate import estimate_step
from src.training.loop import Trainer
from src.training.presets import PRESETS
from src.utils import get_current_time

START = time.monotonic()
DATA_FLAGS = ("data", "data_root", "pairs", "drop_longest")  # kept by a continued run


def add_fields(group: argparse._ArgumentGroup, items: Iterable[Field]) -> None:
    """Add one flag for each field of a dataclass, by its type, default and metadata (help, choices, minimum)."""
    for item in items:
        default = item.default if item.default is not MISSING else item.default_factory()
        options: dict[str, Any] = {"default": default, "help": item.metadata.get("help", " ")}
        minimum = item.metadata.get("minimum", -math.inf)
        if isinstance(default, bool):
            options["action"] = argparse.BooleanOptionalAction
        elif isinstance(default, (int, float)):
            options["type"] = number(type(default), minimum)
        elif isinstance(default, list):
            options.update(type=number(type(default[0]), minimum), nargs="+")
        else:
            options["choices"] = item.metadata.get("choices")
        group.add_argument(f"--{item.name}", **options)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The flags of the method that was asked for; defaults are those of the resumed run and of the preset, if given."""
    first = Parser(add_help=False)
    first.add_argument("--resume")
    resumed = first.parse_known_args(argv)[0].resume
    run_flags = saved_flags(Path(resumed)) if resumed else {}
    first.add_argument("--method", choices=method_names(), default=run_flags.get("method", "custom"))
    first.add_argument("--preset", choices=sorted(PRESETS))
    chosen, _ = first.parse_known_args(argv)

    parser = Parser(description=__doc__)
    run = parser.add_argument_group("the run")
    run.add_argument("--method", choices=method_names(), default="custom", help="what is trained; custom is custom_model.py")
    run.add_argument("--preset", choices=sorted(PRESETS), help="a named set of flags; flags given beside it win")
    run.add_argument("--save_dir", default="./results", help="the run's folder is made in here")
    run.add_argument("--run_name", help="the run's folder; by default the time")
    run.add_argument("--resume", metavar="RUN", help="continue the run in this folder, with its flags")
    run.add_argument("--init_from", metavar="RUN", help="start from the weights of this run's network, or of a checkpoint")
    run.add_argument("--teacher", metavar="RUN", help="the run, or checkpoint, that a student method learns from")
    run.add_argument(
        "--auto_resume",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="continue what the same command has begun in --save_dir, if it has",
    )
    run.add_argument("--dry_run", action="store_true", help="print what the run would be and take, and exit")
    run.add_argument("--device", default="cuda", help="falls back to the CPU where there is no such device")
    run.add_argument(
        "--precision",
        choices=("auto", "bf16", "fp32"),
        default="auto",
        help="auto is bf16 where the processor has it, and that of the run that is continued",
    )
    run.add_argument("--data", choices=DATA_NAMES, default="simpsons", help="toon faces are drawn, not downloaded")
    run.add_argument("--data_root", default=DEFAULT_ROOT, help="folder or zip file of the faces")
    run.add_argument(
        "--pairs",
        metavar="FOLDER",
        help="train on these pairs of noise and image, made by python -m src.datasets.pairs; --data and --data_root then give "
        "the development images alone",
    )
    run.add_argument(
        "--drop_longest", type=number(float, 0), default=0.0, help="share of the pairs left out, the most distant ones"
    )
    add_fields(parser.add_argument_group("training"), fields(TrainingConfig))

    model = parser.add_argument_group("the model, saved in model_config.json")
    add_model_flags(model)
    method = parser.add_argument_group(f"method {chosen.method}, saved in model_config.json")
    add_fields(method, fields(get_method(chosen.method).Config))
    known = {action.dest for action in parser._actions}
    parser.set_defaults(**{name: value for name, value in run_flags.items() if name in known})
    if chosen.preset:
        parser.set_defaults(**PRESETS[chosen.preset].flags)
    return parser.parse_args(argv)


def add_model_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--use_additional_condition", action="store_true", help="give the network a second scalar input")
    group.add_argument("--num_train_timesteps", type=number(int, 1), default=1000, help="steps of discrete schedulers")
    group.add_argument("--ch", type=number(int, 1), default=NETWORK_OPTIONS["ch"], help="channels of the U-Net's first level")
    for name, text in (("ch_mult", "channels of each level, times ch"), ("attn", "levels with self-attention")):
        group.add_argument(f"--{name}", type=number(int, 0), nargs="*", default=list(NETWORK_OPTIONS[name]), help=text)
    group.add_argument(
        "--num_res_blocks", type=number(int, 1), default=NETWORK_OPTIONS["num_res_blocks"], help="blocks a level"
    )
    group.add_argument("--dropout", type=number(float, 0), default=NETWORK_OPTIONS["dropout"], help="in residual blocks")


# -------------------------------------------------------------------------------------------------- continuing a run


def saved_flags(run_dir: Path) -> dict[str, Any]:
    """The flags that the run in this folder was started with."""
    training, model = load_json(run_dir / "training_config.json"), load_json(run_dir / "model_config.json")
    kept = {item.name for item in fields(TrainingConfig)} | set(DATA_FLAGS) | {"teacher"}
    precision = precision_flag(training["precision"])
    return {**{name: value for name, value in training.items() if name in kept}, "precision": precision, **model}


def differences(
    run_dir: Path, precision: str, config: TrainingConfig, model_config: dict[str, Any], about: dict[str, Any]
) -> list[str]:
    """How the run in this folder differs from the one asked for, in what a continued run cannot change."""
    there = saved_flags(run_dir)
    found = config.differences(there)
    mine = {**json.loads(json.dumps(model_config)), "data": about["data"]}
    if precision != "auto":
        mine["precision"] = precision
    found += [f"--{name} {there.get(name)} there, {value} here" for name, value in mine.items() if there.get(name) != value]
    before, now = load_json(run_dir / "training_config.json").get("trained_on"), about["trained_on"]
    return found + ([f"trained on {before or 'images'} there, {now or 'images'} here (--pairs)"] if before != now else [])


def choose_run(
    args: argparse.Namespace, config: TrainingConfig, model_config: dict[str, Any], about: dict[str, Any]
) -> tuple[Path, bool]:
    """The run's folder, and whether to continue what it holds.

    Raises UserError where --resume names a run of other settings, or a new run would overwrite one.
    """
    if args.resume:
        run_dir = Path(args.resume)
        if found := differences(run_dir, args.precision, config, model_config, about):
            raise UserError(f"{run_dir} cannot be continued with other settings: {'; '.join(found)}")
        return run_dir, True
    save_dir = Path(args.save_dir)
    if args.auto_resume:
        folders = [save_dir / args.run_name] if args.run_name else save_dir.glob("*/")
        for run_dir in sorted(folders, key=lambda path: path.stat().st_mtime if path.exists() else 0, reverse=True):
            if not ((run_dir / "training_config.json").is_file() and has_resume(run_dir)):
                continue
            there = load_json(run_dir / "training_config.json")
            found = differences(run_dir, args.precision, config, model_config, about)
            if not found and there["num_iterations"] == config.num_iterations:
                return run_dir, True
            if args.run_name and found:
                raise UserError(f"{run_dir} cannot be continued with other settings: {'; '.join(found)}")
    run_dir = save_dir / (args.run_name or get_current_time())
    if has_resume(run_dir):
        raise UserError(f"{run_dir} holds a run already: continue it with --resume {run_dir}, or choose another --run_name")
    return run_dir, False


# ---------------------------------------------------------------------------------------------------------- the run


def describe(model: Method, config: TrainingConfig, team: Team, image_shape: tuple[int, ...], dtype: torch.dtype) -> str:
    """What a run would take, from a measurement on two images on this device."""
    part = micro_batches(config, team)[0]
    mine = config.batch_size // team.size
    estimate = estimate_step(model, image_shape, mine, part.stop - part.start, len(config.ema_half_lives), dtype)
    hours = estimate.seconds * config.num_iterations / 3600
    return "\n".join(
        [
            f"parameters: {parameter_count(model):,}",
            f"FLOP a step: {estimate.flop * team.size / 1e12:,.2f} TFLOP, {estimate.flop / mine / 1e9:,.1f} GFLOP an image",
            f"memory a process, estimated: {estimate.fixed_bytes / 2**30:.2f} GiB for weights, gradients, optimizer and "
            f"averages, {estimate.activation_bytes / 2**30:.2f} GiB for the activations of {part.stop - part.start} images",
            f"time, estimated from two images on {model.device}: {estimate.seconds:.2f} s a step, {hours:.1f} hours for "
            f"{config.num_iterations} steps",
        ]
    )


def load_training_data(args: argparse.Namespace, needs_pairs: bool) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """The images to train on, the seeds of the noises that belong to them (None: to no image does one), development images.

    Raises UserError where a method that needs pairs has none, or pairs are of another resolution than the development images.
    """
    if needs_pairs and not args.pairs:
        raise UserError(
            f"--method {args.method} learns from pairs of noise and image: make them with python -m src.datasets.pairs and "
            "name their folder with --pairs"
        )
    if args.drop_longest and not args.pairs:
        raise UserError(f"--drop_longest {args.drop_longest:g} is about pairs: name their folder with --pairs")
    if not args.pairs:
        images = load_split("train", args.data_root, args.data)
        train_ids, dev_ids = development_split(len(images), args.dev_images)
        return images[train_ids] if args.dev_images else images, None, images[dev_ids]
    images, seeds = load_pairs(args.pairs, args.drop_longest)
    if not args.dev_images:
        return images, seeds, images[:0]
    real = load_split("train", args.data_root, args.data)
    if real.shape[1:] != images.shape[1:]:
        raise UserError(f"--pairs {args.pairs}: images of shape {images.shape[1:]}; those of --dev_images are {real.shape[1:]}")
    return images, seeds, real[development_split(len(real), args.dev_images)[1]]


def give_teacher(model: Method, source: str, image_shape: tuple[int, ...], team: Team) -> None:
    """Let the model learn from the run or checkpoint `source`, and start from its weights where they mean the same.

    Raises UserError where there is no such model, it cannot teach this method, or it was trained at another resolution.
    """
    try:
        teacher = load_teacher(Path(source), image_shape, create_custom_model, model.device)
        model.set_teacher(teacher)
        same = model.start_from(teacher)
    except ValueError as error:
        raise UserError(f"--teacher {source}: {error}") from error
    if same:
        team.say(f"the network starts from the teacher's weights ({source})")
    else:
        team.say(f"the network starts anew: what it predicts ({model.parameterization}) is not what its teacher predicts")


def make_evaluation(images: Any, model: Method, config: TrainingConfig, team: Team) -> DevelopmentFID:
    return DevelopmentFID(
        images,
        load_inception(device=model.device),
        batch_size=min(config.batch_size, 8 if model.device.type == "cpu" else 250),
        share=team.share(len(images)),
        gather=team.gather,
    )


def main() -> None:
    args = parse()
    with join(args.device) as (team, device):
        run(args, team, device)


def run(args: argparse.Namespace, team: Team, device: torch.device) -> None:
    if args.preset:
        team.say(f"preset {args.preset}: {PRESETS[args.preset].about}")
        flags = {f"--{name}": value for name, value in PRESETS[args.preset].flags.items()}
        team.say("  " + " ".join(f"{flag} {' '.join(map(str, v)) if isinstance(v, list) else v}" for flag, v in flags.items()))
    method_options = [item.name for item in fields(get_method(args.method).Config)]
    model_options = [*NETWORK_OPTIONS, "use_additional_condition", "num_train_timesteps", *method_options]
    model_config = {"method": args.method, **{name: getattr(args, name) for name in model_options}}
    config = TrainingConfig(**{item.name: getattr(args, item.name) for item in fields(TrainingConfig)})
    if config.eval_interval and not config.dev_images:
        raise UserError("--eval_interval needs images to measure FID on: give --dev_images")
    if config.dev_images == 1:
        raise UserError("--dev_images 1: FID needs at least two images")

    images, noise_seeds, dev_images = load_training_data(args, get_method(args.method).needs_pairs)
    image_shape = images.shape[1:]
    micro_batches(config, team)
    seed_everything(config.seed)
    try:
        model = create_custom_model(device, **model_config)
    except ValueError as error:
        raise UserError(str(error)) from error
    model_config["use_additional_condition"] = model.network.use_additional_condition
    if model.needs_teacher and not args.teacher:
        raise UserError(f"--method {args.method} learns from a teacher: name its run with --teacher")
    if args.teacher:
        give_teacher(model, args.teacher, image_shape, team)
    if args.init_from:
        init_network(model.network, Path(args.init_from))
    dtype = resolve_precision(args.precision, device)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32 for what stays in float32
        torch.backends.cudnn.benchmark = True
    if args.dry_run:
        team.say(json.dumps({**asdict(config), **model_config, "precision": precision_name(dtype)}, indent=2))
        team.say(describe(model, config, team, image_shape, dtype))
        return

    about = {name: getattr(args, name) for name in (*DATA_FLAGS, "init_from", "teacher")}
    about["trained_on"] = describe_pairs(args.pairs, args.drop_longest) if args.pairs else None
    run_dir, resume = team.first_says(choose_run(args, config, model_config, about) if team.is_first else None)
    if resume:
        dtype = resolve_precision(saved_flags(run_dir)["precision"], device)
    processes = f", {team.size} processes" if team.size > 1 else ""
    kind = "images" if noise_seeds is None else "pairs"
    team.say(
        f"{args.method}: {parameter_count(model):,} parameters, {len(images):,} {kind}, {device}, "
        f"{precision_name(dtype)}{processes} -> {run_dir}{' (continued)' if resume else ''}"
    )
    trainer = Trainer(
        model,
        images,
        config,
        model_config,
        run_dir,
        device,
        dtype,
        team,
        evaluate=make_evaluation(dev_images, model, config, team) if config.dev_images else None,
        deadline=START + 60 * config.max_minutes if config.max_minutes else math.inf,
        about=about,
        noise_seeds=noise_seeds,
    )
    finished = trainer.run(resume)
    if not finished and trainer.stopped_by:
        sys.exit(128 + trainer.stopped_by)  # as shells and schedulers expect
    if finished:
        team.say(f"checkpoint: {run_dir / 'last.ckpt'}")


if __name__ == "__main__":
    run_script(main)
