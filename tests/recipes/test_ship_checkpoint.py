"""recipes/ship_checkpoint.py: what it writes is the model, and what it cannot write is said in a line."""

import pytest
import torch

from custom_model import create_custom_model
from recipes import ship_checkpoint
from src.common.checkpoints import load_model, save_model
from src.methods import METHODS
from src.runs.folder import Run
from src.runs.scores import measured_scores
from tests.helpers import SHAPE, TINY, add_measured, call, fails, tiny_model


@pytest.fixture
def run(tmp_path):
    model = tiny_model()
    save_model(model, tmp_path / "run" / "last.ckpt", {"method": "custom", **TINY}, step=7)
    return tmp_path / "run", model


def test_the_same_model_at_half_the_size(run, tmp_path, monkeypatch, capsys):
    folder, model = run
    add_measured(Run(folder), {"nfe": 4, "fid_clean": 12.5})
    (tmp_path / "shipped").mkdir()
    add_measured(Run(tmp_path / "shipped"), {"nfe": 4, "fid_clean": 99.0})
    assert call(ship_checkpoint, monkeypatch, folder, tmp_path / "shipped", "--method", "rectified_flow") == 0
    assert [(score.nfe, score.metric, score.value) for score in measured_scores(Run(tmp_path / "shipped"))] == [
        (4, "fid_clean", 12.5)
    ]
    names = {path.name for path in (tmp_path / "shipped").iterdir()}
    assert names == {"best_model.pt", "model_config.json", "metrics.jsonl"}
    assert "best_model.pt: " in capsys.readouterr().out
    file = tmp_path / "shipped" / "best_model.pt"
    assert torch.load(file)["step"] == 7
    assert file.stat().st_size < 0.6 * (folder / "last.ckpt").stat().st_size
    shipped = load_model(file, create_custom_model).eval()
    assert type(shipped) is METHODS.get("rectified_flow")
    x, t = torch.randn(2, *SHAPE), torch.tensor([0.2, 0.7])
    torch.testing.assert_close(shipped.network(x, t), model.network(x, t), atol=0.02, rtol=0.02)


def test_what_cannot_be_shipped(run, tmp_path, monkeypatch, capsys):
    folder, model = run
    assert "its method is custom" in fails(ship_checkpoint, monkeypatch, capsys, folder, tmp_path / "shipped")
    model = tiny_model("edm")
    save_model(model, folder / "last.ckpt", {"method": "edm", **TINY})
    monkeypatch.setattr(ship_checkpoint, "LIMIT", 1000)
    assert "has at most 0.001 MB" in fails(ship_checkpoint, monkeypatch, capsys, folder, tmp_path / "shipped")
    with torch.no_grad():
        next(model.network.parameters())[0] = 1e6
    save_model(model, folder / "last.ckpt", {"method": "edm", **TINY})
    assert "that float16 cannot hold" in fails(ship_checkpoint, monkeypatch, capsys, folder, tmp_path / "shipped")
    assert "is where" in fails(ship_checkpoint, monkeypatch, capsys, folder, folder, "--method", "edm")
    assert (folder / "last.ckpt").is_file()
    (folder / "model_config.json").unlink()
    assert "no model_config.json beside it" in fails(ship_checkpoint, monkeypatch, capsys, folder, tmp_path / "shipped")
    assert not (tmp_path / "shipped").exists()
