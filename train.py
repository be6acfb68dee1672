"""Train a method: `python train.py --num_iterations 100000 --batch_size 32 --device cuda`.

`--method NAME --help` lists the options of that method. Everything that builds the model is saved in model_config.json.
On several GPUs: `torchrun --nproc_per_node=4 train.py ...`.
"""

import argparse
import contextlib
import json
import math
import sys
import time
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch

from custom_model import MODEL_OPTIONS, create_custom_model
from src.challenges import Challenge, add_challenge_flag, get_challenge
from src.common.cli import Parser, UserError, run_script
from src.common.devices import precision_name, resolve_precision, seed_everything
from src.common.networks import takes_condition
from src.common.options import Preset, add_option_flags
from src.common.processes import Processes, join_processes
from src.datasets.pairs import describe_pairs, load_labelled_pairs
from src.methods import Method, get_method, method_names
from src.runs.folder import LAST, Run
from src.training import flags
from src.training.batches import development_split, first_of_each
from src.training.checkpoint import give_teacher, init_network, parameter_count
from src.training.config import TrainingConfig, micro_batches
from src.training.continuing import DATA_FLAGS, claim_run, saved_flags
from src.training.cost_estimate import describe_cost
from src.training.loop import Trainer
from src.training.method_list import list_methods
from src.training.presets import PRESETS
from src.training.saving import Previews
from src.utils import get_current_time

START = time.monotonic()


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The flags of the method and challenge that were asked for, with the defaults of the resumed run or of a preset."""

    def add_choices(parser, known):
        parser.add_argument("--method", choices=method_names(), default=known.get("method", "custom"))
        add_challenge_flag(parser, **({"default": known["challenge"]} if known.get("challenge") else {}))

    chosen, run_flags = flags.first_look(argv, add_choices)
    challenge, method = get_challenge(chosen.challenge), get_method(chosen.method)

    parser = Parser(description=__doc__)
    run_group = parser.add_argument_group("the run")
    run_group.add_argument(
        "--method", choices=method_names(), default="custom", help="what is trained; custom is custom_model.py"
    )
    run_group.add_argument("--list_methods", action="store_true", help="print all methods, what they need and cost, and exit")
    add_challenge_flag(run_group, default=challenge.name)
    presets = presets_of(challenge)
    flags.add_run_flags(run_group, presets)
    flags.add_data_flags(run_group, challenge.default_root, challenge.class_conditional, challenge.max_per_class)
    flags.add_training_flags(parser)
    model_group = parser.add_argument_group("the model, saved in model_config.json")
    flags.add_model_flags(model_group, challenge.network_fields())
    method_group = parser.add_argument_group(f"method {chosen.method}, saved in model_config.json")
    add_option_flags(method_group, fields(method.Config))
    parser.set_defaults(**challenge.training, **challenge.method_options.get(chosen.method, {}))
    known = {action.dest for action in parser._actions}
    parser.set_defaults(**{name: value for name, value in run_flags.items() if name in known})
    if chosen.preset in presets:
        parser.set_defaults(**presets[chosen.preset].flags)
    return parser.parse_args(argv)


def presets_of(challenge: Challenge) -> dict[str, Preset]:
    """The kit's presets, and in the place of some the challenge's own."""
    return {**PRESETS, **challenge.presets}


# ----------------------------------------------------------------------------------------------------------- building


@dataclass
class TrainingData:
    """What a run learns from, and the images (N, ...) set aside to score it: development.

    noise_seeds: of the noise that belongs to each image, or None. labels: of each image, or None; classes: their names.
    """

    images: np.ndarray
    development: np.ndarray
    noise_seeds: np.ndarray | None = None
    labels: np.ndarray | None = None
    classes: tuple[str, ...] = ()

    def crc32(self) -> int:
        """A checksum of what is learned from."""
        crc = 0
        for array in (self.images, self.noise_seeds, self.labels):
            crc = crc if array is None else zlib.crc32(np.ascontiguousarray(array), crc)
        return crc


def load_training_data(args: argparse.Namespace, challenge: Challenge) -> TrainingData:
    """What the flags name.

    Raises UserError where a method that needs pairs has none, pairs are of another resolution than the development images, or
    classes are to be learned of data without.
    """
    if get_method(args.method).needs_pairs and not args.pairs:
        raise UserError(
            f"--method {args.method} learns from pairs of noise and image: make them with python -m src.datasets.pairs and "
            "name their folder with --pairs"
        )
    if args.drop_longest and not args.pairs:
        raise UserError(f"--drop_longest {args.drop_longest:g} is about pairs: name their folder with --pairs")
    if not args.pairs:
        images, labels = challenge.load("train", args.data_root)
        if (args.class_conditional or args.max_per_class) and labels is None:
            flag = "--class_conditional" if args.class_conditional else "--max_per_class"
            raise UserError(f"{flag}: the data of challenge {challenge.name} have no classes")
        if args.max_per_class:
            kept = first_of_each(labels, args.max_per_class)
            images, labels = images[kept], labels[kept]
        train_ids, dev_ids = development_split(len(images), args.dev_images)
        data = TrainingData(images[train_ids] if args.dev_images else images, images[dev_ids])
        if args.class_conditional:
            data.labels, data.classes = labels[train_ids], challenge.class_names(args.data_root)
        return data
    images, seeds, labels, classes = load_labelled_pairs(args.pairs, args.drop_longest)
    if args.class_conditional and labels is None:
        raise UserError(f"--class_conditional: the teacher of --pairs {args.pairs} has no classes")
    told = (seeds, labels, classes) if args.class_conditional else (seeds,)
    if not args.dev_images:
        return TrainingData(images, images[:0], *told)
    real, _ = challenge.load("train", args.data_root)
    if real.shape[1:] != images.shape[1:]:
        raise UserError(f"--pairs {args.pairs}: images of shape {images.shape[1:]}; those of --dev_images are {real.shape[1:]}")
    return TrainingData(images, real[development_split(len(real), args.dev_images)[1]], *told)


def build_model(
    args: argparse.Namespace,
    challenge: Challenge,
    device: torch.device,
    classes: Sequence[str] = (),
    shape: Sequence[int] = (),
) -> tuple[Method, dict]:
    """The model that the flags ask for, with fresh weights, and the options that build it anew.

    shape: of one sample, which is one of these options where the data decide on it.
    """
    names = [*(item.name for item in challenge.network_fields()), *MODEL_OPTIONS]
    names += [item.name for item in fields(get_method(args.method).Config)]
    told: dict = {} if challenge is get_challenge() else {"challenge": challenge.name}
    if classes:
        told["classes"] = list(classes)
    if not challenge.shape:
        told["sample_shape"] = list(shape)
    model_config = {"method": args.method, **told, **{name: getattr(args, name) for name in names}}
    try:
        model = create_custom_model(device, **model_config)
    except ValueError as error:
        raise UserError(str(error)) from error
    model_config["use_additional_condition"] = takes_condition(model.network)
    if model.needs_teacher and not args.teacher:
        raise UserError(f"--method {args.method} learns from a teacher: name its run with --teacher")
    return model, model_config


# ------------------------------------------------------------------------------------------------------------ running


def main() -> None:
    if "--list_methods" in sys.argv[1:]:
        print(list_methods())
        return
    args = parse()
    with join_processes(args.device) as (processes, device):
        run(args, processes, device)


def run(args: argparse.Namespace, processes: Processes, device: torch.device) -> None:
    challenge = get_challenge(args.challenge)
    if args.preset:
        processes.say(flags.describe_preset(args.preset, presets_of(challenge)[args.preset], args))
    try:
        config = TrainingConfig(**{item.name: getattr(args, item.name) for item in fields(TrainingConfig)})
    except ValueError as error:
        raise UserError(str(error)) from error
    if config.eval_interval and not config.dev_images:
        raise UserError("--eval_interval needs images to measure FID on: give --dev_images")
    if config.dev_images == 1:
        raise UserError("--dev_images 1: FID needs at least two images")

    data = load_training_data(args, challenge)
    images = data.images
    micro_batches(config, processes)
    seed_everything(config.seed)
    model, model_config = build_model(args, challenge, device, data.classes, images.shape[1:])
    if args.teacher:
        processes.say(give_teacher(model, Path(args.teacher), images.shape[1:], create_custom_model))
    if args.init_from:
        init_network(model.network, Path(args.init_from))
    dtype = resolve_precision(args.precision, device)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32 for what stays in float32
        torch.backends.cudnn.benchmark = True
    if args.dry_run:
        processes.say(json.dumps({**asdict(config), **model_config, "precision": precision_name(dtype)}, indent=2))
        processes.say(describe_cost(model, config, processes, images.shape[1:], dtype))
        return

    about = {name: getattr(args, name) for name in (*DATA_FLAGS, "init_from", "teacher")}
    about["trained_on"] = describe_pairs(args.pairs, args.drop_longest) if args.pairs else None
    about |= {"num_training_images": len(images), "data_crc32": data.crc32()}
    wanted = (args.precision, config, model_config, about)
    where = (Path(args.save_dir), args.run_name, args.resume, args.auto_resume, get_current_time())
    with claim_run(*where, wanted) if processes.is_first else contextlib.nullcontext() as claimed:
        run_dir, resume = processes.first_says(claimed)
        if resume:
            dtype = resolve_precision(saved_flags(Run(run_dir))["precision"], device)
        together = f", {processes.size} processes" if processes.size > 1 else ""
        kind = "images" if data.noise_seeds is None else "pairs"
        kind += f" of {len(data.classes)} classes" if data.classes else ""
        processes.say(
            f"{args.method}: {parameter_count(model):,} parameters, {len(images):,} {kind}, {device}, "
            f"{precision_name(dtype)}{together} -> {run_dir}{' (continued)' if resume else ''}"
        )
        calls, evaluate = challenge.calls_of(model), None
        if config.dev_images:
            evaluate = challenge.evaluation(data.development, device, config.batch_size, processes, calls)
        trainer = Trainer(
            model,
            images,
            config,
            model_config,
            run_dir,
            device,
            dtype,
            processes,
            evaluate=evaluate,
            deadline=START + 60 * config.max_minutes if config.max_minutes else math.inf,
            about=about,
            noise_seeds=data.noise_seeds,
            labels=data.labels,
            previews=Previews(calls, challenge.to_array, challenge.picture, challenge.preview_samples),
        )
        finished = trainer.run(resume)
    if not finished and trainer.stopped_by:
        sys.exit(128 + trainer.stopped_by)  # as shells and schedulers expect
    if finished:
        processes.say(f"checkpoint: {run_dir / LAST}")


if __name__ == "__main__":
    run_script(main)
