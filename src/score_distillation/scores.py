"""How well images show what was asked for: by CLIP for texts, by a classifier of the same data for classes."""

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from src.challenges.shared.images import ImageChallenge, as_rgb
from src.common.cli import UserError
from src.common.files import load_json, save_json
from src.evaluation.classifier import Classifier, ClassifierConfig, accuracy, cached_classifier, predict
from src.evaluation.clip import Clip, clip_scores
from src.score_distillation.outputs import EVAL

CLIP = "ViT-L-14:openai"
MARKS = {"full marks": 0.28, "second mark": 0.26, "third mark": 0.24}  # the course's, of the mean cosine by CLIP


class Judge(Protocol):
    """Scores images, uint8 (N, 3, H, W), of what was asked for: float64 (N,), more is better."""

    marks: dict[str, float]

    def __call__(self, images: np.ndarray, wanted: str) -> np.ndarray: ...


class ClipJudge:
    """The cosine of the embeddings of image and text (Hessel et al., arXiv:2104.08718), 0 where it is below.

    Args:
        given: MODEL:WEIGHTS of open_clip, such as ViT-B-32:openai.

    Raises UserError where open_clip is not installed, or has no such model.
    """

    marks = MARKS

    def __init__(self, given: str, device: torch.device):
        self.clip = Clip(given, device)

    def __call__(self, images: np.ndarray, wanted: str) -> np.ndarray:
        return clip_scores(self.clip.features(images), self.clip.text(wanted)) / 100


class ClassifierJudge:
    """1 where a classifier of the data reads the class that was asked for, else 0.

    Args:
        classifier: of these classes.
        classes: the names of the classes 1, 2 ...
    """

    marks: dict[str, float] = {}  # noqa: RUF012 - no course has marks of it

    def __init__(self, classifier: Classifier, classes: list[str]):
        self.classifier, self.classes = classifier, classes

    @classmethod
    def of_data(
        cls, challenge: ImageChallenge, root: str | Path, classes: list[str], device: torch.device
    ) -> "ClassifierJudge":
        """The one that learns from the training images of a challenge, or is in the cache; its accuracy is printed.

        Raises UserError where the data have no labels, or are of other classes.
        """
        if list(challenge.class_names(root)) != classes:
            raise UserError(f"the data at {root} are of other classes than the checkpoint, which knows {', '.join(classes)}")
        images, labels = challenge.load("train", root)
        others, other_labels = challenge.load("val", root)
        if labels is None or other_labels is None:
            raise UserError(f"the images at {root} have no labels, which the classifier learns from (--data_root)")
        config = ClassifierConfig(flip=challenge.training.get("flip", True))
        title = f"classifier of {len(classes)} classes"
        classifier = cached_classifier(as_rgb(images), labels, len(classes), config, device, title)
        found = accuracy(classifier, as_rgb(others), other_labels)
        print(f"the classifier reads {found:.2%} of {len(others):,} real images right that it has not learned from")
        return cls(classifier, classes)

    def __call__(self, images: np.ndarray, wanted: str) -> np.ndarray:
        return (predict(self.classifier, images) == 1 + self.classes.index(wanted)).astype(np.float64)


def save_scores(scores: dict[str, float], folder: Path) -> float:
    """Write eval.json as the course has it, {file: score, ..., "score": mean}; the mean."""
    mean = float(np.mean(list(scores.values())))
    save_json({**scores, "score": mean}, folder / EVAL)
    return mean


def read_prompts(file: Path) -> list[str]:
    """The texts of a JSON file {name: {"prompt": text}}, in order. Raises UserError where it is absent or something else."""
    told: Any = load_json(file)
    entries = list(told.values()) if isinstance(told, dict) else []
    prompts = [entry.get("prompt") if isinstance(entry, dict) else None for entry in entries]
    if not prompts or not all(isinstance(prompt, str) and prompt.strip() for prompt in prompts):
        raise UserError(f'{file}: expected {{name: {{"prompt": text}}, ...}}')
    return prompts


def describe_marks(score: float, marks: dict[str, float]) -> str:
    """Which of the marks a score reaches, in words; empty where there are none."""
    return "; ".join(f"{name}: {bound:g}, {'' if score >= bound else 'not '}reached" for name, bound in marks.items())
