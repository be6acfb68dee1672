"""The Inception Score: its ends, torch-fidelity's number, and where the last layer is found."""

import numpy as np
import pytest
import torch

from src.common.cli import UserError
from src.evaluation import weights
from src.evaluation.metrics import inception_score
from src.evaluation.weights import read_classifier


def test_its_ends():
    """All classes, each for sure: the number of classes. Always the same, or never sure: 1."""
    sure = np.repeat(np.eye(5), 40, axis=0)
    assert inception_score(sure, 100 * np.eye(5), splits=1) == (pytest.approx(5), 0)
    assert inception_score(sure[:40], 100 * np.eye(5)) == (pytest.approx(1), pytest.approx(0))
    assert inception_score(sure, np.zeros((5, 5)))[0] == pytest.approx(1)
    assert np.isfinite(inception_score(sure, 1e6 * np.eye(5))[0]), "probabilities of 0 spoil nothing"


def test_is_that_of_torch_fidelity():
    theirs = pytest.importorskip(
        "torch_fidelity.metric_isc", reason="torch-fidelity is not installed: pip install torch-fidelity"
    )
    rng = np.random.default_rng(0)
    features, classifier = rng.exponential(size=(200, 64)).astype(np.float32), rng.normal(size=(20, 64)).astype(np.float32)
    order = np.random.default_rng(3).permutation(200)
    logits = torch.from_numpy(features[order].astype(np.float64) @ classifier.T.astype(np.float64))
    expected = theirs.isc_features_to_metric(logits, splits=10, shuffle=False)
    mean, deviation = inception_score(features, classifier, splits=10, seed=3)
    assert mean == pytest.approx(expected["inception_score_mean"], rel=1e-9) and mean > 2
    assert deviation == pytest.approx(expected["inception_score_std"], rel=1e-6)


@pytest.mark.parametrize(("features", "classes", "words"), [((5, 3), (4, 3), "10 splits"), ((20, 3), (4, 2), r"got \(20, 3\)")])
def test_refuses(features, classes, words):
    with pytest.raises(ValueError, match=words):
        inception_score(np.zeros(features), np.zeros(classes))


def test_the_last_layer_of_pytorch_fids_file(tmp_path, monkeypatch):
    layer = torch.arange(1008 * 2048, dtype=torch.float64).reshape(1008, 2048)
    torch.save({"fc.weight": layer, "fc.bias": torch.zeros(1008)}, tmp_path / "full.pt")
    torch.testing.assert_close(read_classifier(tmp_path / "full.pt"), layer.float())
    torch.save({"fc.weight": layer[:1000]}, tmp_path / "another.pt")  # torchvision's network has 1,000 classes
    assert read_classifier(tmp_path / "another.pt") is None
    torch.save({"conv.weight": layer}, tmp_path / "none.pt")
    assert read_classifier(tmp_path / "none.pt") is None

    assert read_classifier() is None, "nothing is in torch hub's cache"
    hub = tmp_path / "torch" / "hub" / "checkpoints" / "pt_inception-2015-12-05-6726825d.pth"
    hub.parent.mkdir(parents=True)
    (tmp_path / "full.pt").rename(hub)
    with pytest.raises(UserError, match="damaged"):
        read_classifier()
    monkeypatch.setattr(weights, "_published_prefix", lambda: weights.file_sha256(hub)[:8])
    torch.testing.assert_close(read_classifier(), layer.float())


def test_the_last_layer_of_a_script(tmp_path, package_file):
    class Scripted(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.output = torch.nn.Linear(2048, 1008)

        def forward(self, x):
            return self.output(x)

    module = Scripted()
    torch.jit.save(torch.jit.script(module), tmp_path / "script.pt")
    torch.testing.assert_close(read_classifier(tmp_path / "script.pt"), module.output.weight.detach())
    assert read_classifier(package_file) is None
