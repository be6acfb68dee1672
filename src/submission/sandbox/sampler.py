"""A sampler as the grader runs it: its plans, its networks with the team's weights, and the noise that the grader draws."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from src.common.devices import autocast
from src.common.guidance import with_labels
from src.common.networks import takes_condition
from src.common.noise import generator_of
from src.submission.failures import Failed
from src.submission.handin.kit import restore
from src.submission.handin.weights import Weights
from src.submission.plan.operations import BadPlan, Plan
from src.submission.plan.replay import Law, OtherAnswer, replay
from src.submission.plan.rules import check

COURSE_SEED = 42  # the course's script seeds once, then makes the model, then all images


class NoPlan(Exception):
    """A sampler that no plan can hold. The text says why, with the line of its file: words of a stranger in part."""


class Plans:
    """The plans of a sampler at one NFE: one for any number of images, or one for each of some numbers.

    Raises BadPlan where there are none, or their calls differ.
    """

    def __init__(self, plans: list[Plan]):
        self._plans, self._proved = {plan.batch: plan for plan in plans}, {plan.batch for plan in plans}
        if len({plan.calls for plan in plans}) != 1:
            raise BadPlan("plans of different numbers of calls, or none")

    @property
    def shown(self) -> Plan:
        """The shortest."""
        return min(self._plans.values(), key=lambda plan: len(plan.steps))

    @property
    def image_by_image(self) -> bool:
        return 1 in self._plans

    def of(self, count: int) -> Plan:
        """The plan for so many images. Raises NoPlan where there is none; else it is proved for this number (rules.check)."""
        plan = self._plans.get(None) or self._plans.get(count)
        if plan is None:
            raise NoPlan(f"no plan of {count} images")
        try:
            if count not in self._proved:
                check(plan, count)
        except BadPlan as error:
            raise NoPlan(str(error)) from None
        self._proved.add(count)
        return plan


@dataclass(frozen=True)
class Model:
    """A submission ready to be sampled: its Python files, its options, its networks here, and its other tensors."""

    code: Path
    config: dict[str, Any]
    weights: Weights

    @classmethod
    def of(cls, top: Path, code: Path, config: dict[str, Any], weights: Weights) -> "Model":
        """Of an unpacked submission: its Python files alone in the new folder `code`, the kit's protected ones among them."""
        for path in (path for path in top.rglob("*.py") if path.is_file()):
            target = code / path.relative_to(top)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        restore(code)
        return cls(code, config, weights)

    @property
    def networks(self) -> dict[str, nn.Module]:
        return self.weights.networks

    @property
    def network(self) -> nn.Module:
        """The first of them."""
        return next(iter(self.networks.values()))

    @property
    def num_classes(self) -> int:
        return getattr(self.network, "num_classes", 0)

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    def to(self, device: torch.device, memory_format: torch.memory_format = torch.channels_last) -> None:
        for network in self.networks.values():
            network.to(device, memory_format=memory_format)

    def answer(self, prefix: str, x: torch.Tensor, scalars: dict[str, torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
        """One call of a network in the autocast that it stands in. Failed where it does not take what the call has.

        scalars: timestep, condition and labels, of one value or one for each image.
        """
        network = self.networks[prefix]
        scalars = {name: value.to(self.device).reshape(-1).expand(len(x)) for name, value in scalars.items()}
        labels, condition = scalars.get("labels"), scalars.get("condition") if takes_condition(network) else None
        if takes_condition(network) and condition is None:
            raise Failed("crashed", "the network has the additional condition, and a call gave it none")
        if not self.num_classes:
            labels = None
        elif labels is not None and (labels.is_floating_point() or not 0 <= labels.min() <= labels.max() <= self.num_classes):
            raise Failed("wrong_output", f"a network call with labels that are not of 0 to {self.num_classes}")
        try:
            with torch.inference_mode(), autocast(self.device, dtype):
                return network(x.to(self.device), scalars["timestep"], condition, **with_labels(labels))
        except torch.OutOfMemoryError:
            raise  # ours
        except (RuntimeError, ValueError) as error:
            what = f"a network call on {x.dtype} that the network does not take"
            raise Failed("crashed", what, private=str(error)) from error


def run_plan(
    plan: Plan, model: Model, count: int, draw: Callable[[int, Law], torch.Tensor], labels: torch.Tensor | None = None
) -> torch.Tensor:
    """The images (count, C, H, W) of a plan with the team's own network. Raises NoPlan where a question has another answer."""
    try:
        with torch.inference_mode():
            return replay(plan, count, lambda _, *call: model.answer(*call), draw, labels, model.device)
    except OtherAnswer as error:
        raise NoPlan(f"a question of yes or no has another answer for other images: {error}") from None


def checked(images: torch.Tensor, shape: tuple[int, ...], nfe: int) -> torch.Tensor:
    """Images that are finite, also in float32, and of this shape. Raises Failed for others."""
    if tuple(images.shape) != shape:
        raise Failed("wrong_output", f"sample() gave images {tuple(images.shape)}, expected {shape}")
    if not torch.isfinite(images.float()).all():
        raise Failed("wrong_output", f"sample() gave values that are not finite at NFE {nfe}")
    return images


def draws_of(seeds: Sequence[int], device: torch.device) -> Callable[[int, Law], torch.Tensor]:
    """Draws for images of these seeds: draw number n of an image depends on its seed and n alone, as draw_noise has it."""

    def draw(number: int, law: Law) -> torch.Tensor:
        shape = (law.shape[0] // len(seeds), *law.shape[1:])
        parts = [_filled(torch.empty(shape, dtype=law.dtype), law, generator_of(seed, number)) for seed in seeds]
        return torch.stack(parts, dim=1).flatten(0, 1).to(device, memory_format=law.format)

    return draw


class CourseDraws:
    """Draws one after the other, as a script makes them that seeds once: on the device from torch's generator, or from NumPy's.

    states: of both generators at the start, as Broker.random_states has them. Raises Failed for states that are none.
    """

    def __init__(self, states: dict[str, torch.Tensor], seed: int, device: torch.device):
        self.device, self.generator = device, torch.Generator(device).manual_seed(seed)
        self.numpy = np.random.RandomState(seed)
        try:
            if device.type == "cpu":  # the model is made on the CPU: the generator of another device has given nothing yet
                self.generator.set_state(states["torch"])
            *words, place = states["numpy"].tolist()
            self.numpy.set_state(("MT19937", np.array(words, dtype=np.uint32), place))
        except (KeyError, ValueError, TypeError, RuntimeError, OverflowError) as error:
            raise Failed("wrong_output", "the state of its random generators has no sense") from error

    def draw(self, _: int, law: Law) -> torch.Tensor:
        if not law.by_numpy:
            empty = torch.empty(law.shape, dtype=law.dtype, device=self.device, memory_format=law.format)
            return _filled(empty, law, self.generator)
        values = (self.numpy.normal if law.law == "normal" else self.numpy.uniform)(law.low, law.high, law.shape)
        return torch.from_numpy(values).to(self.device, law.dtype)


def _filled(empty: torch.Tensor, law: Law, generator: torch.Generator) -> torch.Tensor:
    if law.law == "normal":
        return empty.normal_(law.low, law.high, generator=generator)
    if law.law == "uniform":
        return empty.uniform_(law.low, law.high, generator=generator)
    return empty.random_(int(law.low), int(law.high), generator=generator)
