"""Points in the plane: the six sets, the network, and every command on them."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import measure_fid
import sampling
import train
from src.challenges import CHALLENGES, Challenge, get_challenge, register
from src.challenges.toy2d import TOY2D, ToyMLP
from src.challenges.toy2d.points import MODE_STD, MODES, POINT_SETS, STD
from src.common.cli import UserError
from src.evaluation import __main__ as suite
from src.evaluation.points import chamfer
from src.submission import __main__ as submission
from tests.helpers import call, fails


@pytest.mark.parametrize("name", POINT_SETS)
def test_points(name):
    draw = POINT_SETS[name]
    points = draw(20000, 3)
    assert points.shape == (20000, 2) and points.dtype == np.float32
    assert np.array_equal(points, draw(20000, 3))
    assert not np.array_equal(points, draw(20000, 4))
    assert abs(points.mean(axis=0)).max() < 0.06  # of 20,000 draws with a standard deviation of about 2: 4 sigma
    assert points.var(axis=0).mean() ** 0.5 == pytest.approx(STD, rel=0.02)
    assert draw(1, 0).shape == (1, 2)


def test_swiss_roll_and_s_curve_are_curves():
    """Without noise, each point is given by its angle alone."""
    roll = POINT_SETS["swiss_roll"](5000, 0).astype(np.float64)
    raw = roll * ((9.75 * np.pi**2 - 4 - (2 / (3 * np.pi)) ** 2) / 2) ** 0.5 / STD + (2, 2 / (3 * np.pi))
    radius = np.linalg.norm(raw, axis=1)
    assert 1.5 * np.pi - 1e-3 < radius.min() and radius.max() < 4.5 * np.pi + 1e-3
    assert np.allclose(raw, radius[:, None] * np.stack([np.cos(radius), np.sin(radius)], axis=1), atol=1e-4)
    curve = POINT_SETS["s_curve"](5000, 0) * (1 + 2 / (3 * np.pi)) ** 0.5 / STD
    centre_y = np.sign(curve[:, 1])
    assert np.allclose(curve[:, 0] ** 2 + (curve[:, 1] - centre_y) ** 2, 1, atol=1e-4)


def test_eight_gaussians_have_eight_equal_modes():
    points = POINT_SETS["eight_gaussians"](8000, 0) * (0.5 + MODE_STD**2) ** 0.5 / STD
    angle = np.arctan2(points[:, 1], points[:, 0])
    counts = np.bincount(np.round(angle / (2 * np.pi / MODES)).astype(int) % MODES)
    assert len(counts) == MODES and counts.min() > 850 and counts.max() < 1150
    assert np.linalg.norm(points, axis=1).std() == pytest.approx(MODE_STD, rel=0.1)


def test_checkerboard_leaves_half_of_the_squares_empty():
    points = POINT_SETS["checkerboard"](8000, 0) * (4 / 3) ** 0.5 / STD
    column, row = np.floor(points).astype(int).clip(-2, 1).T
    assert set((column + row) % 2) == {0}
    assert len(set(zip(column, row, strict=True))) == 8


def test_circle_and_moons():
    ring = POINT_SETS["circle"](8000, 0)
    assert np.linalg.norm(ring, axis=1).std() / np.linalg.norm(ring, axis=1).mean() == pytest.approx(0.03, rel=0.1)
    moons = POINT_SETS["moons"](8000, 0) * ((1.3125 - 1 / np.pi) / 2 + 0.05**2) ** 0.5 / STD + (0.5, 0.25)
    upper = abs(np.linalg.norm(moons, axis=1) - 1) < 0.3
    lower = abs(np.linalg.norm(moons - (1, 0.5), axis=1) - 1) < 0.3
    assert (upper | lower).all() and 0.4 < (moons[:, 1] > 0.25).mean() < 0.6


def test_network_call():
    torch.manual_seed(0)
    network, x, t = ToyMLP(), torch.randn(5, 2), torch.linspace(0, 1000, 5)
    out = network(x, t)
    assert out.shape == (5, 2)
    assert not torch.allclose(out, network(x, t / 2))
    assert torch.allclose(out[2:3], network(x[2:3], t[2:3]), atol=1e-6)
    with pytest.raises(ValueError, match="a condition was given"):
        network(x, t, t)
    out.square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    network = ToyMLP(use_additional_condition=True)
    assert not torch.allclose(network(x, t, t), network(x, t, condition=t / 2))
    with pytest.raises(ValueError, match="needs a condition"):
        network(x, t)


def test_members_are_networks_of_their_own():
    torch.manual_seed(0)
    both, x, t = ToyMLP(members=2), torch.randn(10, 2), torch.linspace(0, 10, 10)
    out = both(x, t)
    for member in range(2):
        one = ToyMLP()
        one.load_state_dict({name: value[member : member + 1] for name, value in both.state_dict().items()})
        rows = slice(5 * member, 5 * member + 5)
        assert torch.allclose(one(x[rows], t[rows]), out[rows], atol=1e-6)
    assert not torch.allclose(both(x.roll(5, 0), t.roll(5)), out.roll(5, 0))
    with pytest.raises(ValueError, match="divided among 2"):
        both(x[:5], t[:5])


@pytest.mark.parametrize("condition", [False, True])
def test_network_jvp_and_float64(condition):
    """The forward-mode derivative in float64 is that of finite differences."""
    torch.manual_seed(0)
    network = ToyMLP(use_additional_condition=condition).double()
    places = [torch.randn(4, 2).double(), torch.rand(4).double()] + [torch.rand(4).double()] * condition
    ways = [torch.randn_like(place) for place in places]
    out, slope = torch.func.jvp(network, tuple(places), tuple(ways))
    assert out.dtype == slope.dtype == torch.float64
    step = 1e-6
    ahead, behind = ([p + s * step * w for p, w in zip(places, ways, strict=True)] for s in (1, -1))
    assert torch.allclose(slope, (network(*ahead) - network(*behind)) / (2 * step), rtol=1e-5, atol=1e-7)


def test_registry():
    assert "toy2d" in CHALLENGES.names() and get_challenge("toy2d") is TOY2D
    assert isinstance(TOY2D, Challenge) and isinstance(TOY2D.network(use_additional_condition=True), ToyMLP)
    with pytest.raises(ValueError, match="unknown challenge 'x'"):
        get_challenge("x")
    with pytest.raises(ValueError, match="registered twice"):
        register(TOY2D)
    assert {mark.below for mark in TOY2D.marks if mark.method == "ddpm"} == {20, 60}
    assert TOY2D.marks[0].passes(59) and not TOY2D.marks[0].passes(60)


# -------------------------------------------------------------------------------------------------- through the scripts


def test_the_plane_is_trained_sampled_and_measured(tmp_path, monkeypatch, capsys):
    flags = ["--challenge", "toy2d", "--data_root", "circle", "--method", "rectified_flow", "--device", "cpu"]
    few = ["--num_iterations", 200, "--dev_images", 200, "--save_dir", tmp_path, "--run_name", "r", "--hidden", 64, 64]
    assert call(train, monkeypatch, *flags, *few) == 0
    training, model = (json.loads((tmp_path / "r" / f"{kind}_config.json").read_text()) for kind in ("training", "model"))
    assert (training["data_root"], training["flip"], training["image_shape"]) == ("circle", False, [2])
    assert (model["challenge"], model["hidden"], model["time_scale"]) == ("toy2d", [64, 64], 10.0)
    rows = [json.loads(line) for line in (tmp_path / "r" / "log.jsonl").read_text().splitlines()]
    assert rows[-1]["chamfer_nfe50"] > 0 and rows[-2]["loss"] < rows[0]["loss"]
    with Image.open(tmp_path / "r" / "previews" / "step_0000200.png") as picture:
        assert picture.width > 3 * picture.height

    samples = ["--ckpt_path", tmp_path / "r" / "last.ckpt", "--save_dir", tmp_path / "s", "--device", "cpu"]
    assert call(sampling, monkeypatch, *samples, "--nfe_list", 50, "--num_samples", 2048) == 0
    points = TOY2D.read(tmp_path / "s" / "nfe=50")
    assert points.shape == (2048, 2)
    TOY2D.check(tmp_path / "s" / "nfe=50", 2048)
    out = tmp_path / "scores.json"
    measured = ["--generated_dir", tmp_path / "s" / "nfe=50", "--output_path", out, "--device", "cpu", "--challenge", "toy2d"]
    assert call(measure_fid, monkeypatch, *measured, "--data_root", "circle") == 0
    scores = json.loads(out.read_text())
    assert scores["chamfer"] == pytest.approx(chamfer(points, POINT_SETS["circle"](2048, 1)))
    assert "fid_score" not in scores and {"sliced_w2", "mmd"} <= scores.keys()
    capsys.readouterr()
    assert call(measure_fid, monkeypatch, *measured) == 0  # against the swiss roll, of which there are marks
    said = capsys.readouterr().out
    assert "ddpm on swiss_roll, NFE 50: chamfer under 60 (the course's exercise, DDIM): not reached" in said


def test_the_plane_is_not_handed_in(tmp_path, monkeypatch, capsys):
    (tmp_path / "last.ckpt").touch()
    monkeypatch.setattr("sys.argv", ["", "pack", str(tmp_path), "--challenge", "toy2d", "--no_writeup"])
    with pytest.raises(UserError, match="challenge toy2d is for practice"):
        submission.main()
    assert "its samples are no images" in fails(suite, monkeypatch, capsys, tmp_path, "--challenge", "toy2d")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "no points"),
        (lambda folder: (folder / "a.npy").write_text("points"), "not arrays of points"),
        (lambda folder: np.save(folder / "a.npy", np.zeros((3, 3))), "expected points (N, 2), got an array (3, 3)"),
    ],
)
def test_a_folder_that_holds_no_points(make, message, tmp_path, monkeypatch, capsys):
    make(tmp_path)
    assert message in fails(measure_fid, monkeypatch, capsys, "--challenge", "toy2d", "--generated_dir", tmp_path)


def test_points_that_are_not_finite_are_refused(tmp_path, monkeypatch, capsys):
    np.save(tmp_path / "a.npy", np.full((4, 2), np.nan))
    assert "not finite" in fails(measure_fid, monkeypatch, capsys, "--challenge", "toy2d", "--generated_dir", tmp_path)


def test_flags_that_are_of_images_are_refused(monkeypatch, capsys):
    line = fails(train, monkeypatch, capsys, "--challenge", "toy2d", "--flip", "--device", "cpu", "--num_iterations", 1)
    assert "--flip mirrors images" in line
    line = fails(train, monkeypatch, capsys, "--challenge", "toy2d", "--data_root", "spiral", "--device", "cpu")
    assert "no set of points 'spiral'; expected one of swiss_roll, moons" in line
