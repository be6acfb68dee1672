"""Train a method: `python train.py --num_iterations 100000 --batch_size 32 --device cuda`.

`--method NAME --challenge NAME --help` lists the flags that do something there, `--method list` prints all methods. Everything
that builds the model is saved in model_config.json. On several GPUs: `torchrun --nproc_per_node=4 train.py ...`.
"""

import argparse
import contextlib
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

import torch

from custom_model import MODEL_OPTIONS, create_custom_model
from src.challenges import Challenge, add_challenge_flag, get_challenge
from src.challenges.shared.training_data import DataOptions
from src.common.cli import Parser, UserError, number, run_script
from src.common.devices import add_precision_flag, precision_name, resolve_precision, seed_everything
from src.common.options import add_option_flags
from src.common.processes import Processes, join_processes
from src.methods import get_method, method_names
from src.runs.folder import LAST, Run
from src.training.config import OLD_FLAGS, PRESETS, TrainingConfig, describe_preset, micro_batches
from src.training.cost import describe_cost, parameter_count
from src.training.loop import Trainer
from src.training.method_list import list_methods
from src.training.starting import ModelChoice, Place, Settings, claim_run, saved_flags
from src.training.writing import Previews
from src.utils import get_current_time

START = time.monotonic()
LIST = "list"  # --method list
CLASS_FLAGS = ("class_conditional", "max_per_class", "label_dropout")


@dataclass
class Command:
    """What a command line asks for; each part is handed to the one room that it is for.

    preset: what it is and sets, where one is used.
    """

    challenge: Challenge
    data: DataOptions
    model: ModelChoice
    config: TrainingConfig
    place: Place
    device: str
    precision: str
    dry_run: bool
    preset: str = ""

    def __post_init__(self) -> None:
        if self.model.method.needs_pairs and not self.data.pairs:
            raise ValueError(
                f"--method {self.model.name} learns from pairs of noise and image: make them with python -m src.datasets.pairs "
                "and name their folder with --pairs"
            )


def parse(argv: Sequence[str] | None = None) -> Command:
    """A command line; its defaults are those of the challenge and method, of a preset, or of the run that is continued.

    Raises UserError where its parts do not fit each other.
    """
    first = Parser(add_help=False)  # of what decides about the other flags
    first.add_argument("--resume")
    first.add_argument("--preset")
    first.add_argument("--method", choices=[*method_names(), LIST])
    add_challenge_flag(first, default=None)
    chosen, _ = first.parse_known_args(argv)
    if chosen.method == LIST:
        print(list_methods())
        sys.exit(0)
    saved = saved_flags(Run.of(chosen.resume)) if chosen.resume else {}
    name = chosen.method or saved.get("method", "custom")
    challenge, method = get_challenge(chosen.challenge or saved.get("challenge")), get_method(name)
    presets, model_fields = {**PRESETS, **challenge.presets}, [*challenge.network_fields(), *fields(method.Config)]
    hidden = [*([] if challenge.takes_classes else CLASS_FLAGS), *([] if method.needs_pairs else ["pairs"])]  # do nothing here

    parser = Parser(old=OLD_FLAGS, description=__doc__)
    group = parser.add_argument_group("the run")
    group.add_argument("--method", choices=[*method_names(), LIST], default=name, help="custom is custom_model.py")
    add_challenge_flag(group, default=challenge.name)
    group.add_argument("--preset", choices=sorted(presets), help="a named set of flags; flags given beside it win")
    add_option_flags(group, fields(Place))
    group.add_argument("--dry_run", action="store_true", help="print what the run would be and take, and exit")
    group.add_argument("--device", default="cuda", help="falls back to the CPU where there is no such device")
    add_precision_flag(group, "auto is bf16 where the processor has it, and that of the run that is continued")
    add_option_flags(parser.add_argument_group("the data"), fields(DataOptions), hidden)
    add_option_flags(parser.add_argument_group("training"), fields(TrainingConfig), hidden)
    group = parser.add_argument_group(f"the model, of method {name}, saved in model_config.json")
    group.add_argument("--init_from", metavar="RUN", help="start from the weights of this run's network, or of a checkpoint")
    teacher = "the run, or checkpoint, that a student method learns from" if method.takes_teacher else argparse.SUPPRESS
    group.add_argument("--teacher", metavar="RUN", help=teacher)
    group.add_argument("--use_additional_condition", action="store_true", help=argparse.SUPPRESS)  # methods say it themselves
    group.add_argument("--num_train_timesteps", type=number(int, 1), default=1000, help="steps of discrete schedulers")
    add_option_flags(group, model_fields)
    defaults = {"class_conditional": challenge.class_conditional, "max_per_class": challenge.max_per_class}
    defaults |= {"data_root": challenge.default_root, **challenge.training, **challenge.method_options.get(name, {}), **saved}
    preset = presets.get(chosen.preset)
    parser.set_defaults(**{**defaults, **(preset.flags if preset else {})})
    given = vars(parser.parse_args(argv))

    options = {key: given[key] for key in (*(item.name for item in model_fields), *MODEL_OPTIONS)}
    try:
        return Command(
            challenge=challenge,
            data=DataOptions.of(given),
            model=ModelChoice(name, options, given["teacher"], given["init_from"]),
            config=TrainingConfig.of(given),
            place=Place.of(given),
            preset=describe_preset(chosen.preset, preset, given) if preset else "",
            **{key: given[key] for key in ("device", "precision", "dry_run")},
        )
    except ValueError as error:
        raise UserError(str(error)) from error


def main() -> None:
    command = parse()
    with join_processes(command.device) as (processes, device):
        run(command, processes, device)


def run(command: Command, processes: Processes, device: torch.device) -> None:
    challenge, config = command.challenge, command.config
    if command.preset:
        processes.say(command.preset)
    data = command.data.load(challenge, config.dev_images)
    shape = data.images.shape[1:]
    micro_batches(config, processes)  # raises UserError where the batch cannot be divided
    seed_everything(config.seed)
    of_the_data = data.model_options(challenge)
    model, model_config = command.model.build(create_custom_model, device, shape, of_the_data, processes.say)
    dtype = resolve_precision(command.precision, device)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32 for what stays in float32
        torch.backends.cudnn.benchmark = True
    if command.dry_run:
        processes.say(json.dumps({**asdict(config), **model_config, "precision": precision_name(dtype)}, indent=2))
        processes.say(describe_cost(model, config, processes, shape, dtype))
        return

    entries = {"challenge": challenge.name, **command.data.entries(), "num_training_images": len(data.images)}
    entries |= {"data_crc32": data.crc32(), "init_from": command.model.init_from, "teacher": command.model.teacher}
    settings, new_name = Settings(command.precision, config, model_config, entries), get_current_time()
    with claim_run(command.place, new_name, settings) if processes.is_first else contextlib.nullcontext() as claimed:
        run_dir, resume = processes.first_says(claimed)
        if resume:
            dtype = resolve_precision(saved_flags(Run(run_dir))["precision"], device)
        together = f", {processes.size} processes" if processes.size > 1 else ""
        processes.say(
            f"{command.model.name}: {parameter_count(model):,} parameters, {data}, {device}, {precision_name(dtype)}{together} "
            f"-> {run_dir}{' (continued)' if resume else ''}"
        )
        calls = challenge.calls_of(model)
        scored = (data.development, device, config.batch_size, processes, calls)
        options = {
            "evaluate": challenge.evaluation(*scored) if config.dev_images else None,
            "deadline": START + 60 * config.max_minutes if config.max_minutes else math.inf,
            "entries": entries,
            "noise_seeds": data.noise_seeds,
            "labels": data.labels,
            "previews": Previews(calls, challenge.to_array, challenge.picture, challenge.preview_samples),
        }
        trainer = Trainer(model, data.images, config, model_config, run_dir, device, dtype, processes, **options)
        finished = trainer.run(resume)
    if not finished and trainer.stopped_by:
        sys.exit(128 + trainer.stopped_by)  # as shells and schedulers expect
    if finished:
        processes.say(f"checkpoint: {run_dir / LAST}")


if __name__ == "__main__":
    run_script(main)
