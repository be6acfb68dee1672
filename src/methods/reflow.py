"""Improving the Training of Rectified Flows (Lee, Lin, Fanti, NeurIPS 2024, arXiv:2405.20320): reflow, 2-RF++

Reflow itself is of Flow Straight and Fast (Liu et al., ICLR 2023, arXiv:2209.03003).
"""

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from src.common.guidance import with_labels
from src.common.options import option
from src.methods.shared.method import register
from src.methods.shared.solvers import HUBER_C, pseudo_huber
from src.methods.shared.straight_path import TIME_DISTRIBUTIONS, VelocityModel

LOSSES = ("huber", "l2")


@register("reflow")
class ReFlow(VelocityModel):
    """Rectified flow once more, on pairs: each image with the noise from which a teacher's flow made it.

    The lines of such pairs hardly cross, so the velocity that is learned is nearly constant along each of them, and one Euler
    step goes nearly as far as many. `python -m src.datasets.pairs` makes the pairs, train.py's --pairs reads them, and
    --init_from starts from the rectified flow that taught. Pairs made by a reflowed model rectify once more (the paper finds
    once to be enough). 2-RF++ looks more often at both ends of the path (u_shaped) and measures errors by the pseudo-Huber
    distance; its LPIPS term, its real data and its start from an EDM network are left out.

    It gives no `denoised`: its noise and data are not independent, so what it expects of the data at xt is not what
    x = data + sigma noise asks for. It can make pairs, but is no teacher of other students.
    """

    takes_labels = needs_pairs = True
    cost = 1.0

    @dataclass
    class Config(VelocityModel.Config):
        time_distribution: str = option("u_shaped", "how training times are drawn", choices=TIME_DISTRIBUTIONS)
        loss: str = option("huber", "huber: pseudo-Huber; l2: mean squared error", choices=LOSSES)
        huber_c: float = option(-1.0, f"pseudo-Huber constant; below 0: {HUBER_C} times the values of an image")

    def compute_loss(self, data: Tensor, noise: Tensor, labels: Tensor | None = None, **kwargs: Any) -> Tensor:
        """The distance of the velocity from data - noise (eq. 1 of Liu et al.): a pair's data and noise (B, ...) -> scalar.

        The pseudo-Huber distance sqrt(|error|^2 + c^2) - c is divided by the root of the number of values, so that it has the
        unit of the velocity, as its root mean square has.
        """
        t = self.scheduler.sample_timesteps(data.shape[0], data.device)
        xt = self.scheduler.forward_process(data, noise, t)
        error = self.predict(xt, t, **with_labels(labels)).float() - self.scheduler.get_target(data, noise, t)
        losses = error.square().flatten(1).mean(dim=1)
        if self.config.loss == "huber":
            size = data[0].numel()
            c = self.config.huber_c if self.config.huber_c >= 0 else HUBER_C * size
            losses = pseudo_huber(losses, c / math.sqrt(size))
        return self.report_losses(t, losses)
