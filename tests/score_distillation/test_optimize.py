"""The loop: its learning rate and clipping, and that an interrupted run ends where an uninterrupted one does."""

import pytest
import torch

from src.common.cli import UserError
from src.score_distillation.command import LOSSES
from src.score_distillation.optimize import OptimizeOptions, clip_each, learning_rate, optimize
from tests.score_distillation.mixture import Mixture


class Stop(Exception):
    pass


def make_loss(loss_type="sds", **options):
    torch.manual_seed(0)
    prior = Mixture([(1.0, 0.0), (-1.0, 0.0)], 0.3, {"right": [0]})
    return LOSSES[loss_type](prior, prior.encode_condition("right"), LOSSES[loss_type].Config(**options))


def test_learning_rate():
    """Linear to step 100, then a cosine whose end lies at 1.5 times the steps."""
    options = OptimizeOptions(steps=500, lr=0.01)
    assert learning_rate(1, options) == pytest.approx(1e-4)
    assert learning_rate(100, options) == pytest.approx(0.01)
    assert learning_rate(425, options) == pytest.approx(0.005)  # half of the way from 100 to 750
    assert learning_rate(500, options) > 0.003
    assert learning_rate(5, OptimizeOptions(steps=5)) == pytest.approx(5e-4)


def test_each_image_is_clipped_for_itself():
    gradient = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    torch.testing.assert_close(clip_each(gradient, 1.0), torch.tensor([[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]]))


@pytest.mark.parametrize("loss_type", LOSSES)
def test_a_continued_run_ends_where_an_uninterrupted_one_does(loss_type, tmp_path, capsys):
    options = OptimizeOptions(steps=40, log_step=10, particles=3)
    whole = optimize(make_loss(loss_type), options)

    def stop(step, value, x):
        if step == 30:
            raise Stop

    with pytest.raises(Stop):
        optimize(make_loss(loss_type), options, tmp_path / "state", stop)
    reported = []
    again = optimize(make_loss(loss_type), options, tmp_path / "state", lambda step, value, x: reported.append(step))
    assert "continued after step 30" in capsys.readouterr().out
    assert reported == [40]
    assert torch.equal(again, whole)


def test_seeds_differ():
    one, other = (optimize(make_loss(), OptimizeOptions(steps=2, seed=seed)) for seed in (1, 2))
    assert not torch.equal(one, other)


def test_a_gradient_that_is_not_finite_is_told():
    loss = make_loss()
    loss.gradient = lambda x, *rest: x * torch.nan
    with pytest.raises(UserError, match="the gradient is not finite in step 25"):
        optimize(loss, OptimizeOptions(steps=30))
