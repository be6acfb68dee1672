"""Train a method: `python train.py --num_iterations 100000 --batch_size 32 --device cuda`.

`--method NAME --help` lists the options of that method. Everything that builds the model is saved in model_config.json.
"""

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

from custom_model import NETWORK_OPTIONS, create_custom_model
from dataset import DATA_NAMES, DEFAULT_ROOT, load_split
from src.methods import get_method, method_names
from src.training.checkpoint import parameter_count
from src.training.loop import TrainingConfig, train
from src.training.presets import PRESETS
from src.utils import (
    Parser,
    UserError,
    get_current_time,
    load_json,
    number,
    resolve_device,
    resolve_precision,
    run_script,
    seed_everything,
)


def add_fields(group: argparse._ArgumentGroup, items: Iterable[Field]) -> None:
    """Add one flag for each field of a dataclass, by its type, default and metadata (help, choices, minimum)."""
    for item in items:
        default = item.default if item.default is not MISSING else item.default_factory()
        options: dict[str, Any] = {"default": default, "help": item.metadata.get("help", " ")}
        if isinstance(default, bool):
            options["action"] = argparse.BooleanOptionalAction
        elif isinstance(default, (int, float)):
            options["type"] = number(type(default), item.metadata.get("minimum", float("-inf")))
        else:
            options["choices"] = item.metadata.get("choices")
        group.add_argument(f"--{item.name}", **options)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The flags of the method that was asked for, with the preset's values as defaults."""
    first = Parser(add_help=False)
    first.add_argument("--method", choices=method_names(), default="custom")
    first.add_argument("--preset", choices=sorted(PRESETS))
    chosen, _ = first.parse_known_args(argv)

    parser = Parser(description=__doc__)
    run = parser.add_argument_group("the run")
    run.add_argument("--method", choices=method_names(), default="custom", help="what is trained; custom is custom_model.py")
    run.add_argument("--preset", choices=sorted(PRESETS), help="a named set of flags; flags given beside it win")
    run.add_argument("--save_dir", default="./results", help="the run's folder is made in here")
    run.add_argument("--run_name", help="the run's folder; by default the time")
    run.add_argument("--resume", metavar="RUN", help="continue the run in this folder, with the same flags")
    run.add_argument("--device", default="cuda", help="falls back to the CPU where there is no such device")
    run.add_argument("--precision", choices=("auto", "bf16", "fp32"), default="auto", help="bf16 where the processor has it")
    run.add_argument("--data", choices=DATA_NAMES, default="simpsons", help="toon faces are drawn, not downloaded")
    run.add_argument("--data_root", default=DEFAULT_ROOT, help="folder or zip file of the faces")
    add_fields(parser.add_argument_group("training"), fields(TrainingConfig))

    model = parser.add_argument_group("the model, saved in model_config.json")
    add_model_flags(model)
    method = parser.add_argument_group(f"method {chosen.method}, saved in model_config.json")
    add_fields(method, fields(get_method(chosen.method).Config))
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


def main() -> None:
    args = parse()
    if args.preset:
        print(f"preset {args.preset}: {PRESETS[args.preset].about}")
        print("  " + " ".join(f"--{name} {value}" for name, value in PRESETS[args.preset].flags.items()))

    method_options = [item.name for item in fields(get_method(args.method).Config)]
    model_options = [*NETWORK_OPTIONS, "use_additional_condition", "num_train_timesteps", *method_options]
    model_config = {"method": args.method, **{name: getattr(args, name) for name in model_options}}
    config = TrainingConfig(**{item.name: getattr(args, item.name) for item in fields(TrainingConfig)})

    device = resolve_device(args.device)
    images = load_split("train", args.data_root, args.data)
    seed_everything(config.seed)
    try:
        model = create_custom_model(device, **model_config)
    except ValueError as error:
        raise UserError(str(error)) from error
    model_config["use_additional_condition"] = model.network.use_additional_condition

    run_dir = Path(args.resume) if args.resume else Path(args.save_dir) / (args.run_name or get_current_time())
    if args.resume and load_json(run_dir / "model_config.json") != json.loads(json.dumps(model_config)):
        raise UserError(f"{run_dir} holds another model than these flags give: compare its model_config.json")
    if not args.resume and (run_dir / "resume.pt").exists():
        raise UserError(f"{run_dir} holds a run already: continue it with --resume {run_dir}, or choose another --run_name")

    dtype = resolve_precision(args.precision, device)
    precision = str(dtype).removeprefix("torch.")
    print(f"{args.method}: {parameter_count(model):,} parameters, {len(images):,} images, {device}, {precision} -> {run_dir}")
    train(model, images, config, model_config, run_dir, device, dtype, resume=bool(args.resume))
    print(f"checkpoint: {run_dir / 'last.ckpt'}")


if __name__ == "__main__":
    run_script(main)
