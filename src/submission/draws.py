"""The noise of a plan: from a seed for each image, as everywhere in the kit, or in the order of the course's script."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from src.common.noise import generator_of
from src.submission.failures import Failed
from src.submission.plan.replay import Law


def draws_of(seeds: Sequence[int], device: torch.device) -> Callable[[int, Law], torch.Tensor]:
    """Draws for images of these seeds: draw number n of an image depends on its seed and n alone, as draw_noise has it."""

    def draw(number: int, law: Law) -> torch.Tensor:
        copies = law.shape[0] // len(seeds)
        shape = (copies, *law.shape[1:])
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
        normal = law.law == "normal"
        values = (self.numpy.normal if normal else self.numpy.uniform)(law.low, law.high, law.shape)
        return torch.from_numpy(values).to(self.device, law.dtype)


def _filled(empty: torch.Tensor, law: Law, generator: torch.Generator) -> torch.Tensor:
    if law.law == "normal":
        return empty.normal_(law.low, law.high, generator=generator)
    if law.law == "uniform":
        return empty.uniform_(law.low, law.high, generator=generator)
    return empty.random_(int(law.low), int(law.high), generator=generator)
