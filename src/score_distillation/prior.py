"""What score distillation asks of a frozen diffusion model, whichever it is.

Its path is variance-preserving, in discrete times t = 0..T-1 from data to noise (DDPM, Ho et al., arXiv:2006.11239, eq. 4):

    xt = sqrt(alpha_bar_t) x + sqrt(1 - alpha_bar_t) noise

where x are latents (B, C, H, W): those of images for a latent diffusion model, the pixels themselves for others.
"""

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import nn

from src.common.guidance import steer
from src.utils import expand_t

T_RANGE = 0.02, 0.98  # of all times, those at which a prior is asked: below there is nothing to see, above only noise


@dataclass(frozen=True)
class Condition:
    """What is wanted and what is not, as the model takes it: embeddings (1, ...) of texts, or labels (1,)."""

    positive: torch.Tensor
    negative: torch.Tensor


class Prior(ABC):
    """A frozen diffusion model. A subclass says what its network makes of a state and one embedding: network_noise.

    Attributes:
        alpha_bar: of the times 0..T-1, float32 (T,), falling.
        shape: of the latents of one image, (C, H, W).
        device: where latents are.
    """

    alpha_bar: torch.Tensor
    shape: tuple[int, ...]
    device: torch.device

    @abstractmethod
    def encode_condition(self, wanted: str, negative: str) -> Condition:
        """What is wanted and what is not, in words: a text or a class. Raises UserError for what the model does not know."""

    @abstractmethod
    def network_noise(self, xt: torch.Tensor, t: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        """The noise that the network sees in xt (B, C, H, W) at times t, int64 (B,), for embeddings (B, ...): as xt is."""

    @abstractmethod
    def adapted(self, rank: int) -> tuple["Prior", list[nn.Parameter]]:
        """This prior with low-rank adapters (LoRA, Hu et al., arXiv:2106.09685) beside its weights, and their parameters.

        It shares the frozen weights with this one, and predicts the same until its parameters are trained.
        """

    @abstractmethod
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents (B, C, H, W) -> images (B, 3 or 1, H', W'), float32 in [-1, 1]."""

    @property
    def t_range(self) -> tuple[int, int]:
        """The least and the largest time at which the prior is asked, by T_RANGE."""
        low, high = (round(share * len(self.alpha_bar)) for share in T_RANGE)
        return low, min(high, len(self.alpha_bar) - 1)

    def signal_and_noise(self, t: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """sqrt(alpha_bar) and sqrt(1 - alpha_bar) at t (B,), shaped (B, 1, ...) to go with x."""
        alpha_bar = expand_t(self.alpha_bar[t], x)
        return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()

    def add_noise(self, x: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """The state xt of latents x (B, ...) with this noise (B, ...) at times t, int64 (B,)."""
        signal, level = self.signal_and_noise(t, x)
        return signal * x + level * noise

    def predict_data(self, xt: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """The latents (B, ...) that xt (B, ...) at t (B,) is made of if its noise is this: add_noise solved for x."""
        signal, level = self.signal_and_noise(t, xt)
        return (xt - level * noise) / signal

    def predict_noise(
        self, xt: torch.Tensor, t: torch.Tensor, condition: Condition, guidance_scale: float = 1.0
    ) -> torch.Tensor:
        """The noise seen in xt (B, ...) at times t, int64 (B,), guided by w = guidance_scale, of any sign: as xt is.

            noise(negative) + w (noise(positive) - noise(negative))

        w = 1 is the positive condition alone, in one call of the network where other scales make two; w = 0 is the negative
        one, which is what the formula says, and not what src.common.guidance takes 0 for. Source: Ho and Salimans,
        arXiv:2207.12598.
        """
        positive, negative = (each.expand(len(xt), *each.shape[1:]) for each in (condition.positive, condition.negative))
        if guidance_scale == 1:
            return self.network_noise(xt, t, positive)
        both = self.network_noise(torch.cat([xt, xt]), torch.cat([t, t]), torch.cat([positive, negative]))
        return steer(*both.chunk(2), guidance_scale)

    def draw_state(self, x: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """A state of each of the latents x (B, ...) at a time of its own: xt, t, and the noise that was added.

        t is drawn evenly from t_range, the noise is standard normal, both by the generator, which is one of the CPU.
        """
        low, high = self.t_range
        t = torch.randint(low, high + 1, (len(x),), generator=generator).to(x.device)
        noise = draw_like(x, generator)
        return self.add_noise(x, noise, t), t, noise


def draw_like(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Standard normal noise of the shape, type and device of x, the same on every device: the generator is one of the CPU."""
    return torch.randn(x.shape, generator=generator).to(x)


def shared_copy(module: nn.Module) -> nn.Module:
    """A copy of a module's structure that has the same parameters and buffers: what is put into it leaves the module alone."""
    own = [*module.parameters(), *module.buffers()]
    return copy.deepcopy(module, {id(tensor): tensor for tensor in own})
