"""Show a model's sampler as the plan that the grader runs: `python -m src.submission plan results/RUN --nfe 4`."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from custom_model import create_custom_model
from src.challenges import Challenge, get_challenge
from src.common.checkpoints import load_model, read_model_config
from src.common.cli import Parser, UserError, number
from src.common.files import PROJECT_ROOT
from src.runs.folder import checkpoint_of
from src.submission.plan.operations import BadPlan
from src.submission.plan.read import read
from src.submission.plan.record import NotRecorded, Recorder, as_bytes, record
from src.submission.plan.text import lines
from src.submission.sandbox.sampler import Plans


def plans_of(
    model: torch.nn.Module, nfe: int, challenge: Challenge, folder: Path = PROJECT_ROOT, sizes: Sequence[int] = (2,)
) -> Plans:
    """The plans of a model's sample() at this NFE, of a model of this process; folder: where its files are.

    Raises NotRecorded, BadPlan, and whatever sample() raises.
    """
    kind = challenge.network
    networks = {f"{name}." if name else "": each for name, each in model.named_modules() if isinstance(each, kind)}
    classes = max((getattr(each, "num_classes", 0) for each in networks.values()), default=0)
    now: list[Recorder | None] = [None]

    def forward_of(prefix: str) -> object:
        return lambda x, timestep, condition=None, labels=None: now[0].call(
            prefix, x, timestep=timestep, condition=condition, labels=labels
        )

    for prefix, network in networks.items():
        network.forward = forward_of(prefix)
    try:
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            shape = tuple(challenge.shape)
            plans = record(model.sample, partial(now.__setitem__, 0), nfe, shape, str(folder), classes, sizes)
    finally:
        for network in networks.values():
            del network.forward
    return Plans([read(as_bytes(plan), shape, tuple(networks)) for plan in plans])


def main(argv: Sequence[str]) -> None:
    parser = Parser(prog="python -m src.submission plan", description="show a model's sampler as arithmetic")
    parser.add_argument("run", type=checkpoint_of, help="a run, its folder of an average, or a checkpoint")
    parser.add_argument("--nfe", type=number(int, 1), nargs="+", help="network calls per image; its challenge's if not given")
    args = parser.parse_args(argv)
    config = read_model_config(args.run) or {}
    challenge = get_challenge(config.get("challenge"))
    model = load_model(args.run, create_custom_model).eval()
    for nfe in args.nfe or challenge.calls_of(model):
        try:
            plan = plans_of(model, nfe, challenge).shown
        except (NotRecorded, BadPlan) as error:
            raise UserError(f"NFE {nfe}: no plan: {error}") from None
        size = f"; for {plan.batch} images" if plan.batch else ""
        print("\n  ".join([f"NFE {nfe}: {plan.summary}{size}", *lines(plan)]))
