"""The flags of train.py. Their defaults are those of the challenge and method, of a preset, or of the run that is continued."""

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import Field, fields
from typing import Any

from src.common.cli import Parser, number
from src.common.devices import add_precision_flag
from src.common.options import Preset, add_option_flags
from src.runs.folder import Run
from src.training.config import TrainingConfig
from src.training.continuing import saved_flags


def first_look(argv: Sequence[str] | None, add_choices: Callable[[Parser, Mapping[str, Any]], None]) -> tuple[Any, Any]:
    """What decides about all other flags, and the flags of the run that is continued.

    add_choices: adds --method and --challenge to a parser, their defaults those of the flags that it is given.
    """
    first = Parser(add_help=False)
    first.add_argument("--resume")
    resumed = first.parse_known_args(argv)[0].resume
    run_flags = saved_flags(Run.of(resumed)) if resumed else {}
    add_choices(first, run_flags)
    first.add_argument("--preset")
    return first.parse_known_args(argv)[0], run_flags


def add_run_flags(group: argparse._ArgumentGroup, presets: Iterable[str]) -> None:
    group.add_argument("--preset", choices=sorted(presets), help="a named set of flags; flags given beside it win")
    group.add_argument("--save_dir", default="./results", help="the run's folder is made in here")
    group.add_argument("--run_name", help="the run's folder; by default the time")
    group.add_argument(
        "--resume",
        metavar="RUN",
        help="continue the run in this folder, with its flags; where the training images have changed, it says so and goes on",
    )
    group.add_argument("--init_from", metavar="RUN", help="start from the weights of this run's network, or of a checkpoint")
    group.add_argument("--teacher", metavar="RUN", help="the run, or checkpoint, that a student method learns from")
    group.add_argument(
        "--auto_resume",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="continue what the same command has begun in --save_dir, if it has",
    )
    group.add_argument("--dry_run", action="store_true", help="print what the run would be and take, and exit")
    group.add_argument("--device", default="cuda", help="falls back to the CPU where there is no such device")
    add_precision_flag(group, "auto is bf16 where the processor has it, and that of the run that is continued")


def add_data_flags(group: argparse._ArgumentGroup, default_root: str, class_conditional: bool, max_per_class: int) -> None:
    group.add_argument("--data_root", default=default_root, help="folder or zip file of the data")
    group.add_argument(
        "--class_conditional",
        action=argparse.BooleanOptionalAction,
        default=class_conditional,
        help="learn the classes of data that have some: samples can then be asked for by class, and guided",
    )
    group.add_argument(
        "--max_per_class",
        type=number(int, 0),
        default=max_per_class,
        help="take at most so many training images of each class, the first ones; 0: all",
    )
    group.add_argument(
        "--pairs",
        metavar="FOLDER",
        help="train on these pairs of noise and image, made by python -m src.datasets.pairs; the challenge's own data then "
        "give the development images alone",
    )
    group.add_argument(
        "--drop_longest", type=number(float, 0), default=0.0, help="share of the pairs left out, the most distant ones"
    )


def add_training_flags(parser: Parser) -> None:
    add_option_flags(parser.add_argument_group("training"), fields(TrainingConfig))


def add_model_flags(group: argparse._ArgumentGroup, network_fields: Iterable[Field]) -> None:
    group.add_argument("--use_additional_condition", action="store_true", help="give the network a second scalar input")
    group.add_argument("--num_train_timesteps", type=number(int, 1), default=1000, help="steps of discrete schedulers")
    add_option_flags(group, network_fields)


def describe_preset(name: str, preset: Preset, args: argparse.Namespace) -> str:
    """What a preset is, its flags as they are used, and where others were given, the preset's own: a line each."""
    lines = [f"preset {name}: {preset.about}", f"  {' '.join(_flag(flag, getattr(args, flag)) for flag in preset.flags)}"]
    if others := [_flag(flag, value) for flag, value in preset.flags.items() if getattr(args, flag) != value]:
        lines.append(f"  given beside it, in the place of {' '.join(others)}")
    return "\n".join(lines)


def _flag(name: str, value: Any) -> str:
    """A flag as it is typed."""
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no-{name}"
    return f"--{name} {' '.join(map(str, value)) if isinstance(value, list) else value}"
