"""Toon faces: the same pictures for the same numbers, and pictures that differ enough to judge a generator by."""

import numpy as np
import pytest

from src.challenges.toon import drawing as toon
from src.challenges.toon.drawing import draw_face, toon_faces


@pytest.fixture(scope="module")
def faces() -> np.ndarray:
    return toon_faces(500, seed=0)


def test_shape_and_type(faces):
    face = draw_face(0, 0)
    assert face.shape == (64, 64, 3) and face.dtype == np.uint8
    assert faces.shape == (500, 3, 64, 64) and faces.dtype == np.uint8
    assert toon_faces(0, seed=0).shape == (0, 3, 64, 64)
    assert isinstance(toon.VERSION, int)


def test_an_image_depends_on_its_seed_and_index_alone(faces):
    for index in (41, 7, 0):
        np.testing.assert_array_equal(draw_face(0, index).transpose(2, 0, 1), faces[index])
    np.testing.assert_array_equal(toon_faces(5, seed=0, first=20), faces[20:25])


def test_the_global_generator_is_neither_read_nor_moved(faces):
    np.random.seed(1)
    state = np.random.get_state()[1].copy()
    np.testing.assert_array_equal(toon_faces(3, seed=0), faces[:3])
    np.testing.assert_array_equal(np.random.get_state()[1], state)


def test_a_returned_image_can_be_written_to():
    face = draw_face(0, 0)
    face[:] = 0
    assert draw_face(0, 0).any()


def test_seeds_differ(faces):
    assert (toon_faces(20, seed=1) != faces[:20]).any(axis=(1, 2, 3)).all()


def test_no_two_images_are_equal(faces):
    assert len({face.tobytes() for face in faces}) == len(faces)


def test_pixels_vary_over_the_set(faces):
    spread = faces.astype(np.float32).std(axis=0)
    assert spread.mean() > 40
    assert spread.min() > 30


def test_backgrounds_vary_in_every_channel(faces):
    corners = faces[:, :, 0, [0, 63]].astype(np.float32)
    assert (corners.std(axis=0) > 30).all()


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
    assert share[0] < 0.25
    assert share[9] < 0.83


@pytest.mark.parametrize("count, seed, first", [(-1, 0, 0), (1, -1, 0), (1, 0, -1), (0, -1, 0)])
def test_negative_numbers_are_refused(count, seed, first):
    with pytest.raises(ValueError, match="negative"):
        toon_faces(count, seed, first)


@pytest.mark.parametrize("seed, index", [(-1, 0), (0, -1)])
def test_draw_face_refuses_negative_numbers(seed, index):
    with pytest.raises(ValueError, match="negative"):
        draw_face(seed, index)
