"""Calls that a loss makes beside the one that learns."""

import pytest
import torch
import torch.nn.functional as F

from src.methods.shared import Draws, held_fixed


@pytest.fixture
def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.Dropout(0.5), torch.nn.Linear(64, 8)).train()


def test_a_target_comes_first_and_every_weight_learns(network):
    """Under autocast, too, which else gives the later call the weights that it has cast without gradients."""
    x = torch.randn(4, 8)
    for target_first in (True, False):
        with torch.autocast("cpu", torch.bfloat16):
            if target_first:
                with held_fixed(network):
                    target = network(x)
            output = network(x)
            if not target_first:
                with held_fixed(network):
                    target = network(x)
        assert not target.requires_grad and target.dtype == torch.bfloat16
        network.zero_grad()
        F.mse_loss(output.float(), target.float()).backward()
        assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in network.parameters())


def test_the_target_has_no_dropout_unless_it_is_asked_for(network):
    x = torch.randn(4, 8)
    with held_fixed(network):
        assert torch.equal(network(x), network(x)) and network(x).dtype == torch.float32
    assert network.training and network[1].training
    with held_fixed(network, dropout=True):
        assert not torch.equal(network(x), network(x)) and not network(x).requires_grad
    with pytest.raises(KeyError), held_fixed(network):
        raise KeyError
    assert network[1].training
    with held_fixed(network.eval()):
        pass
    assert not network.training


def test_the_same_dropout_twice(network):
    x = torch.randn(4, 8)
    draws = Draws("cpu")
    first = network(x)
    assert not torch.equal(network(x), first)
    draws.again()
    assert torch.equal(network(x), first)
