"""What the commands of this room share: their flags, the losses and the prior that these name, and one run."""

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from custom_model import create_custom_model
from src.challenges import find_challenge
from src.challenges.shared.images import ImageChallenge
from src.common.checkpoints import load_model, read_model_config
from src.common.cli import Parser, UserError
from src.common.devices import resolve_device, resolve_precision, seed_everything
from src.common.distilled import LOSS_TYPES, RUN_CONFIG, STEP, describe_prior, file_stem
from src.common.files import append_json_line, file_sha256, load_json, save_json
from src.common.guidance import scale_warning
from src.common.options import Options, add_option_flags
from src.runs.folder import LOG, RESUME, checkpoint_of
from src.score_distillation.checkpoint import Checkpoint
from src.score_distillation.loss import Loss
from src.score_distillation.optimize import OptimizeOptions, optimize
from src.score_distillation.outputs import image_names, write_png
from src.score_distillation.prior import Prior
from src.score_distillation.sdi import SDI
from src.score_distillation.sds import SDS
from src.score_distillation.stable_diffusion import MODEL, StableDiffusion
from src.score_distillation.vsd import VSD

LOSSES: dict[str, type[Loss]] = dict(zip(LOSS_TYPES, (SDS, VSD, SDI), strict=True))
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def add_flags(parser: Parser) -> None:
    """Add the flags of a run, but for what it shows."""
    prior = parser.add_argument_group("the frozen model")
    prior.add_argument("--prior", type=Path, help="a run of this kit with classes, or a checkpoint; else Stable Diffusion")
    prior.add_argument("--model", default=MODEL, help="a Stable Diffusion of Hugging Face, or a local folder of one")
    negative_help = "what a text prompt's image is not to show"
    prior.add_argument("--negative_prompt", default="low quality", help=negative_help)
    prior.add_argument("--negative_class", default="", help="the same for --prior; by default no class")
    prior.add_argument("--device", default="cuda", help="falls back to the CPU where there is no such device")
    precision_help = "auto: of Stable Diffusion fp16 on a GPU, of --prior bf16 where the processor has it"
    prior.add_argument("--precision", choices=("auto", *DTYPES), default="auto", help=precision_help)
    run = parser.add_argument_group("the run")
    run.add_argument("--loss_type", choices=LOSS_TYPES, default="sds", help="how the image is led")
    run.add_argument("--save_dir", type=Path, default=Path("outputs"), help="a folder for each loss is made in it")
    add_option_flags(run, fields(OptimizeOptions))
    of_losses = {item.name: item for loss in LOSSES.values() for item in fields(loss.Config)}  # each name once
    add_option_flags(parser.add_argument_group("the losses"), of_losses.values())


def options_of(kind: type[Options], args: argparse.Namespace) -> Any:
    """The options of this kind, from flags of their names. Raises UserError for a value that is not allowed."""
    try:
        return kind(**{item.name: getattr(args, item.name) for item in fields(kind)})
    except ValueError as error:
        raise UserError(str(error)) from error


def open_prior(args: argparse.Namespace) -> Prior:
    """The frozen model that the flags name; which one is printed.

    Raises UserError where it cannot be had, or cannot be distilled; and, before it is loaded, for options out of range.
    """
    for kind in (OptimizeOptions, LOSSES[args.loss_type].Config):
        options_of(kind, args)
    if warning := scale_warning(args.guidance_scale, "the negative", "the negative alone"):
        print(warning)
    device = resolve_device(args.device)
    if args.precision == "fp16" and device.type == "cpu":
        raise UserError("--precision fp16: expected a GPU; on the CPU give bf16 or fp32")
    if args.prior is None:
        auto = torch.float32 if device.type == "cpu" else torch.float16
        print(f"distils {args.model}")
        return StableDiffusion.load(args.model, device, DTYPES.get(args.precision, auto))
    file = checkpoint_of(args.prior)
    model, shape = load_model(file, create_custom_model, device), image_challenge(args).known_shape
    dtype = DTYPES.get(args.precision) or resolve_precision("auto", device)
    prior = Checkpoint(model, (read_model_config(file) or {}).get("classes", ()), shape, dtype)
    print(f"distils {describe_prior(file, model, dtype)}")
    return prior


def image_challenge(args: argparse.Namespace) -> ImageChallenge:
    """The challenge of --prior. Raises UserError where its samples are no images."""
    challenge = find_challenge(None, checkpoint_of(args.prior))
    if not isinstance(challenge, ImageChallenge):
        raise UserError(f"--prior {args.prior}: of challenge {challenge.name}, whose samples are no images")
    return challenge


def distil(prior: Prior, wanted: str, args: argparse.Namespace) -> list[Path]:
    """Make the images of one prompt or class, and all else that src.common.distilled names; the files of the last images.

    What is there already, of the same settings, stays as it is; what was begun is continued. Raises UserError for a prompt
    without letters that name a file.
    """
    options, of_loss = options_of(OptimizeOptions, args), options_of(LOSSES[args.loss_type].Config, args)
    if not file_stem(wanted):
        raise UserError(f"the prompt {wanted!r} is empty: say what the image is to show")
    folder = args.save_dir / args.loss_type
    own, images = folder / file_stem(wanted), [folder / name for name in image_names(wanted, options.particles)]
    resume, settings = own / RESUME, settings_of(args, wanted)
    same = (own / RUN_CONFIG).is_file() and load_json(own / RUN_CONFIG) == settings
    if same and not resume.is_file() and all(file.is_file() for file in images):
        print(f"{images[0]}: there already, of these settings")
        return images
    if not same or not resume.is_file():
        for file in (resume, own / LOG, *own.glob("step_*.png")):
            file.unlink(missing_ok=True)
    for file in (own / RUN_CONFIG, folder / RUN_CONFIG):
        save_json(settings, file)
    print(f"{wanted}: {args.loss_type}, guidance scale {of_loss.guidance_scale:g}")
    seed_everything(options.seed)  # the first weights of adapters
    condition = prior.encode_condition(wanted, args.negative_prompt if args.prior is None else args.negative_class)
    loss = LOSSES[args.loss_type](prior, condition, of_loss)

    def notice(step: int, value: float, latents: torch.Tensor) -> None:
        write_png(torch.cat(list(prior.decode(latents)), dim=-1), own / STEP.format(step=step))
        append_json_line({"step": step, "loss": value}, own / LOG)  # after the image, which a reader of the log looks for

    last = prior.decode(optimize(loss, options, resume, notice, f"{args.loss_type}, {wanted}"[:40]))
    for image, file in zip(last, images, strict=True):
        write_png(image, file)
    resume.unlink(missing_ok=True)
    return images


def settings_of(args: argparse.Namespace, wanted: str) -> dict[str, Any]:
    """What run_config.json says: what is wanted, the prior and the hash of its file, and the options of run and loss."""
    names = ["prior", "precision", "loss_type", *(item.name for item in fields(OptimizeOptions))]
    names += ["model", "negative_prompt"] if args.prior is None else ["negative_class"]
    names += [item.name for item in fields(LOSSES[args.loss_type].Config)]
    settings = {name: str(value) if isinstance(value := getattr(args, name), Path) else value for name in names}
    weights = {} if args.prior is None else {"prior_sha256": file_sha256(checkpoint_of(args.prior))}
    return {"prompt": wanted, **settings, **weights}
