import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from src.common.files import PROJECT_ROOT
from src.common.flops import flops_counted
from src.module import ResBlock, TimeEmbedding, group_norm
from src.network import UNet
from tests.foreign import COURSE
from tests.helpers import TINY, fill_by_rule

DATA = Path(__file__).parent / "data"
CASES = {"unconditional": (False, 544, 58_753_283), "conditional": (True, 552, 59_934_979)}


def inputs(conditional):
    x = torch.from_numpy(np.random.Generator(np.random.PCG64(0)).standard_normal((2, 3, 64, 64))).float()
    return (x, torch.tensor([0.25, 700.0])) + ((torch.tensor([0.5, 3.0]),) if conditional else ())


def stand_in():
    """The network of the stand-in for the course's own files."""
    sys.modules["course"] = package = ModuleType("course")
    package.__path__ = [str(COURSE / "src")]
    return importlib.import_module("course.network").UNet


LARGE = [(case, "ours") for case in CASES] + [("conditional", "stand_in")]


@pytest.fixture(
    scope="module", params=[*LARGE, pytest.param(("unconditional", "stand_in"), marks=pytest.mark.slow)], ids="-".join
)
def full(request):
    case, whose = request.param
    network = UNet if whose == "ours" else stand_in()
    return case, fill_by_rule(network(use_additional_condition=CASES[case][0])).eval()


def test_parameter_names_and_shapes(full):
    case, network = full
    expected = json.loads((DATA / "unet_state_dict.json").read_text())[case]
    assert {name: list(value.shape) for name, value in network.state_dict().items()} == expected
    assert len(expected) == CASES[case][1]
    assert sum(parameter.numel() for parameter in network.parameters()) == CASES[case][2]


def test_golden_outputs(full):
    case, network = full
    expected = json.loads((DATA / "unet_golden.json").read_text())[case]
    with torch.no_grad():
        output = network(*inputs(CASES[case][0]))
    assert abs(output.mean().item() - expected["mean"]) < 2e-4
    assert abs(output.std().item() - expected["std"]) < 2e-4
    values = output.flatten()[expected["flat_indices"]]
    torch.testing.assert_close(values, torch.tensor(expected["values"]), atol=2e-4, rtol=0)


def test_cost_of_a_forward_pass():
    with torch.device("meta"):
        network = UNet()
        x, t = torch.empty(1, 3, 64, 64), torch.empty(1)
    with flops_counted() as counter:
        network(x, t)
    assert counter.get_total_flops() == pytest.approx(89.4e9, rel=2e-3)


@pytest.mark.slow
def test_counting_does_not_import_the_compiler():
    code = "import sys, torch\nfrom src.common.flops import flops_counted\nones = torch.ones(2, 2)\n"
    code += "with flops_counted() as counter: ones @ ones\n"
    code += "assert counter.get_total_flops() == 16 and 'torch._dynamo' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PROJECT_ROOT)


@pytest.fixture
def small():
    network = fill_by_rule(UNet(**TINY, use_additional_condition=True)).eval()
    torch.manual_seed(0)
    return network, (torch.randn(2, 3, 16, 16), torch.tensor([1.0, 300.0]), torch.tensor([0.0, 2.0]))


def test_float64_agrees_with_float32(small):
    network, args = small
    output = network(*args)
    double = network.double()(*(a.double() for a in args))
    assert double.dtype == torch.float64
    torch.testing.assert_close(output.double(), double, atol=1e-4, rtol=1e-4)


def test_channels_last_agrees(small):
    network, args = small
    output = network(*args)
    torch.testing.assert_close(network.to(memory_format=torch.channels_last)(*args), output, atol=1e-4, rtol=1e-4)


def test_autocast_is_near_and_its_time_embedding_exact(small):
    network, args = small
    output = network(*args)
    with torch.autocast("cpu", torch.bfloat16):
        cast = network(*args)
        sinusoid = network.time_embedding.timestep_embedding(args[1], 256)
    assert cast.dtype == torch.bfloat16
    assert (cast - output).abs().mean() < 0.05 * output.abs().mean()
    assert sinusoid.dtype == torch.float32
    torch.testing.assert_close(
        sinusoid, network.time_embedding.timestep_embedding(args[1].double(), 256).float(), atol=5e-5, rtol=0
    )


def test_sinusoid_is_cosine_then_sine_of_falling_frequencies():
    sinusoid = TimeEmbedding.timestep_embedding(torch.tensor([2.0]).double(), 256)[0]
    frequencies = 10000.0 ** (-torch.arange(128).double() / 128)
    torch.testing.assert_close(sinusoid, torch.cat([(2 * frequencies).cos(), (2 * frequencies).sin()]))


@pytest.mark.slow
def test_compiled_agrees(small):
    network, args = small
    output = network(*args)
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(*args), output, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_compiled_by_inductor_agrees(small):
    network, args = small
    output = network(*args)
    torch.testing.assert_close(torch.compile(network)(*args), output, atol=1e-4, rtol=1e-4)


def test_jvp_equals_a_central_difference(small):
    network, args = small
    network.double()
    x, t, c = (a.double() for a in args)
    tangents = (torch.randn_like(x), torch.ones_like(t), torch.full_like(c, -1.0))
    output, derivative = torch.func.jvp(network, (x, t, c), tangents)
    h = 1e-5
    ahead, behind = (network(x + s * h * tangents[0], t + s * h * tangents[1], c + s * h * tangents[2]) for s in (1, -1))
    torch.testing.assert_close(output, network(x, t, c))
    torch.testing.assert_close(derivative, (ahead - behind) / (2 * h), atol=1e-6, rtol=1e-5)


def test_time_and_condition_reach_every_level_of_a_narrow_network():
    for channels in (8, 12, 32, 48, 96, 128, 256, 384, 512):
        norm = group_norm(channels)
        assert channels // norm.num_groups >= 4
    assert group_norm(128).num_groups == group_norm(512).num_groups == 32


def test_a_fresh_network_predicts_nearly_nothing():
    torch.manual_seed(0)
    network = UNet(**TINY).eval()
    assert network(torch.randn(2, 3, 16, 16), torch.rand(2)).abs().max() < 1e-3


@pytest.mark.parametrize(
    ("options", "args", "message"),
    [
        ({"use_additional_condition": True}, (16, None), "needs a condition"),
        ({}, (15, None), "multiples of 2"),
    ],
)
def test_wrong_calls_raise(options, args, message):
    network = UNet(**TINY, **options)
    with pytest.raises(ValueError, match=message):
        network(torch.zeros(1, 3, args[0], args[0]), torch.zeros(1), args[1])


def test_wrong_levels_raise():
    with pytest.raises(ValueError, match="attn"):
        UNet(ch=8, ch_mult=(1, 2), attn=(2,))
    with pytest.raises(ValueError, match="no level"):
        UNet(ch=8, ch_mult=())


def test_times_of_every_form():
    """One time per image, or one for all: as a number, whole or not, or as a tensor of no or one dimension."""
    network = fill_by_rule(UNet(**TINY)).eval()
    x = torch.randn(3, 3, 16, 16)
    expected = network(x, torch.full((3,), 5.0))
    for time in (5, 5.0, torch.tensor(5.0), torch.tensor(5), torch.tensor([5.0]), torch.tensor([5, 5, 5])):
        assert torch.equal(network(x, time), expected)
    with pytest.raises(ValueError, match="one per image of 3, got 2"):
        network(x, torch.zeros(2))
    assert network.time_embedding(torch.tensor(5.0)).shape == (1, 32)


def test_a_condition_that_the_network_has_no_use_for_is_ignored_with_a_warning():
    network = fill_by_rule(UNet(**TINY)).eval()
    x, t = torch.randn(1, 3, 16, 16), torch.zeros(1)
    with pytest.warns(UserWarning, match="a condition is ignored"):
        assert torch.equal(network(x, t, torch.ones(1)), network(x, t))


def test_outputs_can_be_viewed_whatever_the_layout():
    network = fill_by_rule(UNet(**TINY)).eval().to(memory_format=torch.channels_last)
    assert network(torch.randn(2, 3, 16, 16), torch.zeros(2)).view(2, -1).shape == (2, 768)


def test_blocks_are_drawn_anew():
    block = ResBlock(in_ch=8, out_ch=16, tdim=32, dropout=0.1, attn=True)
    for parameter in block.parameters():
        torch.nn.init.constant_(parameter, 7.0)
    block.initialize()
    assert block.block1[2].weight.std() > 0.05 and block.block2[3].weight.abs().max() < 1e-4
    assert block.block1[2].bias.abs().max() == 0 and (block.block1[0].weight == 7).all(), "norms are left"
