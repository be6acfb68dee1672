"""Progressive Distillation for Fast Sampling of Diffusion Models (Salimans and Ho, ICLR 2022, arXiv:2202.00512)."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from src.common.guidance import with_labels
from src.common.options import option
from src.methods.shared.method import Method, register, split_batch
from src.methods.shared.student import Student, TeacherOptions
from src.methods.shared.targets import follow, frozen_copy
from src.methods.shared.vp_path import DDIMModel
from src.utils import expand_t

PREDICTIONS, WEIGHTINGS = ("v", "x0"), ("truncated_snr", "snr_plus_1")
TAG = 2.0  # the embedding's unit of time: its fastest waves turn by so many radians
SIGMA_MAX = 80.0  # the noisiest level that teachers in general have learned; beyond it there is no signal to speak of
AVERAGE = 0.05  # half-life of the weights that teach the next round, as a share of the steps of this one


class Rounds(nn.Module):
    """What lasts from one round to the next: the network that teaches, the one that will, and how many rounds are done."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.teacher = frozen_copy(network)
        self.average = frozen_copy(network)
        self.done = 0

    def get_extra_state(self) -> int:
        return self.done

    def set_extra_state(self, state: int) -> None:
        self.done = state


@register("progressive")
class ProgressiveDistillation(Student, DDIMModel):
    """Halve the number of DDIM steps again and again: one step of the student goes as far as two of its teacher.

    A run consists of rounds, to start_steps / 2, start_steps / 4, ..., 1 steps. The first round's teacher is --teacher, any
    model that gives denoised data; that of a later round is an average of the student's weights at the end of the round before.
    The student goes on from its own weights. Those of the DDPM family with v or x0 start from the teacher's.

    One network serves NFE 4, 2 and 1 (serve_steps and below), although all of them begin at t = 1 and must differ there: the
    network gets their times with a shift of their own, of TAG units of the embedding for each halving below serve_steps,
    less than a hundredth of the path. So it needs no second input, and starts as its teacher. In the rounds below serve_steps a
    share of the batch repeats what the round's teacher already knows at more steps. With serve_steps 1 it is the paper's
    method, whose last network makes single steps alone. Checkpoints nfe4, nfe2 and nfe1 are kept at the ends of their rounds.
    Memory: beside the student, its teacher and two more networks.
    """

    few_calls = True
    cost = 1.8

    @dataclass
    class Config(TeacherOptions, DDIMModel.Config):
        prediction: str = option("v", "what the network learns to predict", choices=PREDICTIONS)
        start_steps: int = option(32, "steps of the first round's teacher, a power of 2", minimum=2)
        serve_steps: int = option(4, "the final model is good for so many steps and fewer, a power of 2", minimum=1)
        repeat_share: float = option(0.25, "share of the batch that repeats larger numbers of steps", minimum=0, below=1)
        last_rounds: float = option(2.0, "how many times longer the rounds to 2 and 1 steps are", above=0)
        weighting: str = option("truncated_snr", "of errors of the data: max(SNR, 1) or SNR + 1", choices=WEIGHTINGS)

        def validate(self) -> None:
            super().validate()
            if self.eta != 0:
                raise ValueError(f"progressive distillation is of DDIM: expected eta 0, got {self.eta:g}")
            for name, least in (("start_steps", 2), ("serve_steps", 1)):
                value = getattr(self, name)
                if value & (value - 1):
                    raise ValueError(f"expected {name} a power of 2 of at least {least}, got {value}")

    def _setup(self, **kwargs: Any) -> None:
        super()._setup(**kwargs)
        steps, total = self.config.start_steps, self.scheduler.num_train_timesteps
        if steps > total:
            raise ValueError(f"expected start_steps of at most num_train_timesteps {total}, got {steps}")

    def set_teacher(self, teacher: Method) -> None:
        super().set_teacher(teacher)
        self.train_only["rounds"] = Rounds(self.network)

    def round_ends(self, total_steps: int) -> dict[int, int]:
        """{steps of the student: the training step after which its round is over}, in the order of the rounds."""
        students = [2**power for power in range(int(math.log2(self.config.start_steps)) - 1, -1, -1)]
        lengths = [self.config.last_rounds if steps <= 2 else 1.0 for steps in students]
        return {steps: round(total_steps * sum(lengths[: i + 1]) / sum(lengths)) for i, steps in enumerate(students)}

    def milestones(self, total_steps: int) -> dict[int, str]:
        return {end: f"nfe{steps}" for steps, end in self.round_ends(total_steps).items() if steps <= 4}

    @torch.no_grad()
    def on_step_end(self, step: int, total_steps: int) -> None:
        """Take the weights into the round's average; at the end of a round let the average teach.

        Where a continued run was made longer, no round is made twice: the one it was in goes on until its new end.
        """
        rounds, ends = self.train_only["rounds"], [0, *self.round_ends(total_steps).values()]
        keep = 0.5 ** (1 / (AVERAGE * max(step - ends[rounds.done], 1)))
        follow(rounds.average, self.network, keep)
        while rounds.done < len(ends) - 2 and step >= ends[rounds.done + 1]:
            rounds.done += 1
            rounds.teacher.load_state_dict(rounds.average.state_dict())

    def compute_loss(self, data: Tensor, noise: Tensor, labels: Tensor | None = None, **kwargs: Any) -> Tensor:
        """Weighted squared error of the data (algorithm 2): data and noise (B, ...) -> scalar."""
        batch, device, config = data.shape[0], data.device, self.config
        new = config.start_steps // 2 ** (1 + self.train_only["rounds"].done)
        larger = int(math.log2(max(config.serve_steps / new, 1)))  # how many larger numbers of steps are served
        repeated, halved = (rows.to(device) for rows in split_batch(batch, config.repeat_share if larger else 0.0))
        steps, pick = torch.full((batch,), new, device=device), torch.rand(batch, device=device)
        steps[repeated] *= 2 ** (1 + pick[repeated] * larger).long().clamp(max=larger)
        place = torch.rand(batch, device=device)
        index = ((place * steps).long() + 1).clamp(max=steps)  # t is time number 1 to `steps` of their grid
        t = self.grid_time(index, steps)

        xt = self.scheduler.forward_process(data, noise, t)
        target = torch.empty_like(xt)
        if len(repeated):
            target[repeated] = self.teacher_data(xt[repeated], t[repeated], steps[repeated], **with_labels(labels, repeated))
        if len(halved):
            target[halved] = self.target(xt[halved], index[halved], steps[halved], **with_labels(labels, halved))
        pred = self.predict(xt, t, steps, **with_labels(labels)).to(xt.dtype)
        errors = (self.scheduler.data_and_noise(xt, pred, t)[0] - target).square().flatten(1).mean(dim=1)
        a, s = self.scheduler.signal_and_noise(t, t)
        snr = (a / s).square()
        losses = errors * (snr.clamp(min=1) if config.weighting == "truncated_snr" else snr + 1)
        return self.report_losses(t, losses)

    @torch.no_grad()
    def target(self, xt: Tensor, index: Tensor, steps: Tensor, labels: Tensor | None = None) -> Tensor:
        """The data (B, ...) for which one of `steps` (B,) steps lands where two half steps of the teacher land.

        They begin at xt (B, ...), at time number index (B,) of the grid.
        """
        t, middle, end = (self.grid_time(2 * index - half, 2 * steps) for half in range(3))
        z = self.ddim(xt, self.teacher_data(xt, t, 2 * steps, **with_labels(labels)), t, middle)
        z = self.ddim(z, self.teacher_data(z, middle, 2 * steps, **with_labels(labels)), middle, end)
        (a, s), (a_end, s_end) = self.scheduler.signal_and_noise(t, xt), self.scheduler.signal_and_noise(end, xt)
        return (z - s_end / s * xt) / (a_end - s_end / s * a)

    def ddim(self, xt: Tensor, data: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
        """One DDIM step from xt (B, ...) at t (B,) to t_next, where the data are taken to be these."""
        (a, s), (a_next, s_next) = self.scheduler.signal_and_noise(t, xt), self.scheduler.signal_and_noise(t_next, xt)
        return a_next * data + s_next / s * (xt - a * data)

    @torch.no_grad()
    def teacher_data(self, xt: Tensor, t: Tensor, steps: Tensor, labels: Tensor | None = None) -> Tensor:
        """The data (B, ...) that the round's teacher, a sampler of `steps` (B,) steps, names at xt, t and labels (B,).

        The first round's teacher may be guided; a later one has learned from it what guidance does.
        """
        if self.train_only["rounds"].done:
            network = self.train_only["rounds"].teacher
            pred = self.predict(xt, t, steps, network=network, **with_labels(labels)).to(xt.dtype)
            return self.scheduler.data_and_noise(xt, pred, t)[0]
        a, s = self.scheduler.signal_and_noise(t, t)
        sigma = (s / a).clamp(max=SIGMA_MAX)
        denoised = self.taught(labels, self.config.teacher_guidance)
        return denoised(xt * expand_t(sigma / s, xt), sigma).to(xt.dtype)

    def predict(
        self, xt: Tensor, t: Tensor, steps: Tensor | None = None, network: nn.Module | None = None, **kwargs: Any
    ) -> Tensor:
        """The network's v or x0 (B, ...) at xt (B, ...) and t (B,) in [0, 1], of a sampler of `steps` (B,) steps.

        Without steps, of serve_steps. network: another than the model's own.
        """
        timestep = t * self.config.time_scale
        if steps is not None:
            timestep = timestep - TAG * (self.config.serve_steps / steps).clamp(min=1).log2()
        return (self.network if network is None else network)(xt, timestep, **kwargs)

    def sample(self, shape: tuple[int, ...], num_inference_timesteps: int = 20, *args: Any, **kwargs: Any) -> Any:
        """DDIM steps, one network call each, as DDIMModel.sample. Trained for powers of two up to serve_steps."""
        steps = torch.full((shape[0],), num_inference_timesteps, device=self.device)
        return super().sample(shape, num_inference_timesteps, *args, steps=steps, **kwargs)
