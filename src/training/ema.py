"""Exponential moving averages of the weights: what is sampled, saved and handed in.

python -m src.training.ema results/RUN                              lists the averages of a run
python -m src.training.ema results/RUN --export 0.1                 writes one of them as results/RUN/ema_0.1/last.ckpt
"""

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from src.common.checkpoints import MODEL_CONFIG
from src.common.cli import Parser, UserError, run_script
from src.common.files import save_torch, write_whole
from src.runs.folder import LAST, Run
from src.runs.scores import scores_by_average
from src.training.resume import read_resume

DECAY = "decay_"
Name = float | str  # of an average: its half-life, or decay_D


class EMA:
    """Averages of a model's parameters over the last steps, one for each half-life, kept side by side.

    A half-life is a share of the steps made so far: a weight from half_life * step steps ago counts half. Such an average fits
    runs of every length and forgets the random start. It is the power-function average of Karras et al. (EDM2,
    arXiv:2312.02696, sec. 3.1) in terms of a half-life. 0 keeps the latest weights.

    decay: above 0, the plain average too, whose old value counts decay at every step; it is called decay_D and is the first.

    Raises ValueError without a half-life, for a negative one, or for a decay outside of 0 to below 1.
    """

    def __init__(self, model: nn.Module, half_lives: Sequence[float] = (0.05,), decay: float = 0.0):
        if not half_lives or min(half_lives) < 0:
            raise ValueError(f"expected half-lives of at least 0, got {list(half_lives)}")
        if not 0 <= decay < 1:
            raise ValueError(f"expected a decay from 0 to below 1, got {decay:g}")
        self.names = [name for name, _ in model.named_parameters()]
        self.parameters = list(model.parameters())
        kept: list[Name] = [*([f"{DECAY}{decay:g}"] if decay else []), *map(float, half_lives)]
        self.averages = {name: [parameter.detach().clone() for parameter in self.parameters] for name in kept}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the parameters after step number `step` (from 1): one fused operation for each average."""
        for name, average in self.averages.items():
            torch._foreach_lerp_(average, self.parameters, 1 - decay(name, step))

    @contextlib.contextmanager
    def applied(self, half_life: Name | None = None) -> Iterator[None]:
        """Inside the block the model has the averaged weights, of the first half-life unless another is named.

        After it, it has its own again, untouched. KeyError for a half-life that is not kept.
        """
        average = self.averages[next(iter(self.averages)) if half_life is None else half_life]
        self._swap(average)
        try:
            yield
        finally:
            self._swap(average)

    def _swap(self, average: list[torch.Tensor]) -> None:
        for index, parameter in enumerate(self.parameters):
            parameter.data, average[index] = average[index], parameter.data

    def state_dict(self) -> dict[str, dict[str, torch.Tensor]]:
        """The averages by half-life and parameter name."""
        return {str(half_life): dict(zip(self.names, average, strict=True)) for half_life, average in self.averages.items()}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, dict[str, torch.Tensor]]) -> None:
        """Restore what state_dict gave. KeyError or RuntimeError if it has other half-lives, names or shapes."""
        for half_life, average in self.averages.items():
            saved = state[str(half_life)]
            for name, value in zip(self.names, average, strict=True):
                value.copy_(saved[name])


def decay(name: Name, step: int) -> float:
    """The weight that the old value of an average of this name keeps at this step (from 1)."""
    if isinstance(name, str):
        return float(name.removeprefix(DECAY))
    return 0.5 ** (1 / (name * step)) if name else 0.0


def average_name(text: str) -> Name:
    """The name of an average from its text: a number is a half-life."""
    try:
        return float(text)
    except ValueError:
        return text


def export(run_dir: Path, saved: dict[str, Any], half_life: str, folder: Path) -> None:
    """Write the model with the averages of this half-life to folder/last.ckpt, and model_config.json beside it."""
    state = {name: saved["ema"][half_life].get(name, value) for name, value in saved["model"].items()}
    save_torch({"state_dict": state}, folder / LAST)
    with write_whole(folder / MODEL_CONFIG) as partial:
        shutil.copyfile(run_dir / MODEL_CONFIG, partial)


def main() -> None:
    parser = Parser(description="list and export the weight averages of a run")
    parser.add_argument("run", help="the run's folder, or a checkpoint in it")
    parser.add_argument("--export", metavar="HALF_LIFE", help="write the average of this half-life, or decay_D")
    parser.add_argument("--output", metavar="FOLDER", help="where to; RUN/ema_HALF_LIFE if not given")
    args = parser.parse_args()
    run_dir = Run.of(args.run).folder
    saved = read_resume(run_dir)
    if args.export is not None:
        wanted = str(average_name(args.export))
        if wanted not in saved["ema"]:
            raise UserError(f"{run_dir} keeps no average of half-life {wanted}, only {', '.join(saved['ema'])}")
        folder = Path(args.output or run_dir / f"ema_{wanted}")
        export(run_dir, saved, wanted, folder)
        print(f"checkpoint: {folder / LAST}")
        return
    scores = scores_by_average(Run(run_dir))
    print(f"{run_dir}, step {saved['step']}: half-lives as a share of the steps so far")
    for half_life in saved["ema"]:
        measured = ", ".join(f"{key} {value:.2f}" for key, value in scores.get(average_name(half_life), {}).items())
        print(f"  {half_life:8} {measured or 'no FID measured (--dev_images measures it)'}")


if __name__ == "__main__":
    run_script(main)
