"""Labels on their way from the data to the loss: with their images, some of them dropped, however the batch is divided."""

import itertools

import numpy as np
import pytest
import torch

from src.challenges.shared.unet import ClassUNet
from src.common.cli import UserError
from src.methods import METHODS
from src.training.config import TrainingConfig
from src.training.loop import Trainer
from tests.helpers import TINY, fill_by_rule
from tests.methods.test_labels import labelled_model as tiny_labelled
from tests.training.runs import CPU

COUNT, CLASSES = 60, 6


def images_and_labels():
    """Image i is of one grey, 4 i, and has the label i % CLASSES + 1."""
    greys = 4 * np.arange(COUNT, dtype=np.uint8)
    return np.broadcast_to(greys[:, None, None, None], (COUNT, 3, 16, 16)).copy(), np.arange(COUNT) % CLASSES + 1


def labelled_model(**options):
    model = METHODS.get("rectified_flow").from_options(fill_by_rule(ClassUNet(**TINY, num_classes=CLASSES)), **options)
    return model


def trainer(folder, model=None, **options):
    images, labels = images_and_labels()
    defaults = {"batch_size": 12, "num_iterations": 4, "lr_warmup": 0, "log_interval": 1}
    config = TrainingConfig(**{**defaults, **options})
    return Trainer(model or labelled_model(), images, config, {"method": "rectified_flow"}, folder, CPU, labels=labels)


def recorded(folder, **options):
    """What each loss is given: (grey of each image, its label)."""
    model, pairs = labelled_model(), []
    loss = model.compute_loss

    def recording(data, noise, labels, **kwargs):
        greys = ((data[:, 0, 0, 0] + 1) * 127.5).round().int()
        pairs.append(list(zip(greys.tolist(), labels.tolist(), strict=True)))
        return loss(data, noise, labels=labels, **kwargs)

    model.compute_loss = recording
    trainer(folder, model, **options).run()
    return pairs


def joined(batches):
    return list(itertools.chain.from_iterable(batches))


def test_each_image_has_its_own_label(tmp_path):
    pairs = joined(recorded(tmp_path, label_dropout=0.0, num_iterations=10))
    assert len(pairs) == 120 and all(label == grey // 4 % CLASSES + 1 for grey, label in pairs)


def test_the_share_of_dropped_labels(tmp_path):
    """One tenth by default, in the bounds of 4 standard errors; those that are left are right."""
    pairs = joined(recorded(tmp_path, num_iterations=40))
    share = sum(label == 0 for _, label in pairs) / len(pairs)
    assert abs(share - 0.1) < 4 * (0.1 * 0.9 / len(pairs)) ** 0.5
    assert all(label in (0, grey // 4 % CLASSES + 1) for grey, label in pairs)
    assert all(label == 0 for _, label in joined(recorded(tmp_path / "all", label_dropout=1.0)))


@pytest.mark.slow
def test_which_labels_are_dropped_has_nothing_to_do_with_times_and_noise(tmp_path):
    """Else a model would learn "no class" at some noise levels only. Bounds of 4 standard errors."""
    model, seen = labelled_model(), []
    loss, times = model.compute_loss, model.scheduler.sample_timesteps
    drawn = []
    model.scheduler.sample_timesteps = lambda *args: drawn.append(times(*args)) or drawn[-1]

    def recording(data, noise, labels, **kwargs):
        value = loss(data, noise, labels=labels, **kwargs)
        seen.append(torch.stack([labels == 0, drawn[-1], noise[:, 0, 0, 0], noise.flatten(1).norm(dim=1)], dim=1))
        return value

    model.compute_loss = recording
    trainer(tmp_path, model, num_iterations=150, label_dropout=0.5).run()
    rows = torch.cat(seen)
    correlations = torch.corrcoef(rows.T)[0, 1:]
    assert (correlations.abs() < 4 / len(rows) ** 0.5).all(), correlations


def test_micro_batches_have_the_labels_of_the_whole(tmp_path):
    whole = recorded(tmp_path / "whole")
    for size in (4, 6):
        parts = recorded(tmp_path / str(size), micro_batch=size)
        per_step = 12 // size
        assert [joined(parts[i : i + per_step]) for i in range(0, len(parts), per_step)] == whole


def test_the_loss_is_given_no_labels_without_classes(tmp_path):
    """What a student's own compute_loss(self, data, noise, **kwargs) sees is as it was."""
    model = METHODS.get("custom").from_options(fill_by_rule(ClassUNet(**TINY)))
    loss, keys = model.compute_loss, set()
    model.compute_loss = lambda data, noise, **kwargs: keys.update(kwargs) or loss(data, noise, **kwargs)
    config = TrainingConfig(batch_size=4, num_iterations=2)
    Trainer(model, images_and_labels()[0], config, {"method": "custom"}, tmp_path, CPU).run()
    assert keys == {"step", "total_steps", "group"}


@pytest.mark.parametrize("method", ["rectified_flow", "gdd"])
def test_a_loss_that_loses_the_labels_is_refused(tmp_path, method):
    """As a student's own compute_loss(self, data, noise, **kwargs) does, at the first step; not after a sound one."""
    model = tiny_labelled(method)
    trainer(tmp_path / "sound", model).run()
    loss = model.compute_loss
    model.compute_loss = lambda data, noise, labels, **kwargs: loss(data, noise, **kwargs)
    if method == "gdd":
        model.compute_loss = lambda data, noise, labels, **kwargs: loss(data, noise, labels=labels * 0, **kwargs)
    with pytest.raises(UserError, match="loses the labels: compute_loss is given labels"):
        trainer(tmp_path / "faulty", model).run()


def test_it_learns_what_labels_mean(tmp_path):
    """Two greys of two classes: each is drawn when it is asked for."""
    torch.manual_seed(0)
    labels = np.arange(64) % 2 + 1
    images = np.where(labels[:, None, None, None] == 1, 60, 190).astype(np.uint8) * np.ones((1, 3, 8, 8), np.uint8)
    network = ClassUNet(ch=16, ch_mult=(1,), attn=(), num_res_blocks=1, dropout=0.0, num_classes=2)
    model = METHODS.get("rectified_flow").from_options(network)
    config = TrainingConfig(batch_size=16, num_iterations=120, lr=4e-3, lr_warmup=5, lr_decay=0.5)
    Trainer(model, images, config, {"method": "rectified_flow"}, tmp_path, CPU, labels=labels).run()
    model.eval()
    means = [
        model.sample((16, 3, 8, 8), 8, seeds=range(16), labels=torch.full((16,), label)).mean(dim=(1, 2, 3)) for label in (1, 2)
    ]
    dark, bright = 60 / 127.5 - 1, 190 / 127.5 - 1
    assert (means[0] - dark).abs().max() < 0.25 and (means[1] - bright).abs().max() < 0.25


@pytest.mark.parametrize("classes", [None, [2], [3, 1]])
def test_previews_and_scores_ask_for_each_class(classes):
    from src.common.sampling import generate

    model, asked = labelled_model().eval(), []
    sample = model.sample
    model.sample = lambda *args, labels, **kwargs: asked.extend(labels.tolist()) or sample(*args, labels=labels, **kwargs)
    batches = list(generate(model, (3, 16, 16), 1, 11, 4, 0, torch.float32, first_sample=3, classes=classes))
    in_turn = classes or list(range(1, CLASSES + 1))
    assert asked == [in_turn[i % len(in_turn)] for i in range(3, 14)] and sum(map(len, batches)) == 11
