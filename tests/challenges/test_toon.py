"""Toon faces: the same pictures for the same numbers, and pictures that differ enough to measure a generator by."""

import numpy as np
import pytest

from src.challenges import get_challenge, toon
from src.challenges.toon import drawing
from src.challenges.toon.drawing import draw_face, toon_faces


@pytest.fixture(scope="module")
def faces() -> np.ndarray:
    return toon_faces(500, seed=0)


def test_an_image_depends_on_its_seed_and_index_alone(faces):
    assert faces.shape == (500, 3, 64, 64) and faces.dtype == np.uint8
    np.random.seed(1)
    state = np.random.get_state()[1].copy()
    for index in (41, 7, 0):
        face = draw_face(0, index)
        assert np.array_equal(face.transpose(2, 0, 1), faces[index])
        face[:] = 0  # it may be written to
    assert np.array_equal(np.random.get_state()[1], state), "the global generator was moved"
    assert (toon_faces(20, seed=1) != faces[:20]).any(axis=(1, 2, 3)).all()


def test_pictures_vary(faces):
    assert len({face.tobytes() for face in faces}) == len(faces)
    spread = faces.astype(np.float32).std(axis=0)
    assert spread.mean() > 40 and spread.min() > 30
    assert (faces[:, :, 0, [0, 63]].astype(np.float32).std(axis=0) > 30).all(), "of the backgrounds, in every channel"


def test_eyes_and_mouth_stand_out_from_the_skin(faces):
    """Within most heads, the rows of the eyes and of the mouth have strong contrasts."""
    grey = faces.astype(np.float32).mean(axis=1)
    for rows in (slice(28, 40), slice(42, 54)):
        contrast = np.ptp(grey[:, rows, 22:42], axis=(1, 2))
        assert (contrast > 60).mean() > 0.93


def test_simple_stand_ins_are_poor(faces):
    """Neither the mean face nor a few principal components reproduce the set."""
    small = faces.reshape(500, 3, 8, 8, 8, 8).mean(axis=(3, 5)).reshape(500, -1)
    strength = np.linalg.eigvalsh(np.cov(small.T))[::-1]
    share = np.cumsum(strength) / strength.sum()
    assert share[0] < 0.25 and share[9] < 0.83


@pytest.mark.parametrize(("function", "numbers"), [(toon_faces, (-1, 0)), (toon_faces, (1, -1)), (draw_face, (0, -1))])
def test_negative_numbers_are_refused(function, numbers):
    with pytest.raises(ValueError, match="negative"):
        function(*numbers)


def test_splits_are_drawn_once(tmp_path, monkeypatch):
    monkeypatch.setenv("CHALLENGE_CACHE", str(tmp_path))
    monkeypatch.setitem(toon.SPLITS, 64, {"train": (6, 1), "val": (4, 2)})
    load = get_challenge("toon").load
    (train, labels), (val, _) = load("train", ""), load("val", "")
    assert train.shape == (6, 3, 64, 64) and labels is None
    assert np.array_equal(val, toon_faces(4, 2))
    monkeypatch.setattr(drawing, "toon_faces", lambda *args: pytest.fail("drawn again"))
    assert np.array_equal(load("train", "")[0], train)


def test_small_faces_are_means_of_squares_of_the_large(tmp_path, monkeypatch):
    monkeypatch.setenv("CHALLENGE_CACHE", str(tmp_path))
    monkeypatch.setitem(toon.SPLITS, 32, {"train": (3, 1), "val": (5, 2)})
    small, large = get_challenge("toon32").load("val", "")[0], toon_faces(5, 2).astype(np.float64)
    assert small.shape == (5, 3, 32, 32) and small.dtype == np.uint8
    means = (large[:, :, ::2, ::2] + large[:, :, 1::2, ::2] + large[:, :, ::2, 1::2] + large[:, :, 1::2, 1::2]) / 4
    assert np.abs(small - means).max() <= 0.5
