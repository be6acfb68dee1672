"""Every metric of folders of generated images against the validation images.

    python -m src.evaluation samples/nfe=1 samples/nfe=2 samples/nfe=4 --compare --plot plots

Writes FOLDER/metrics.json for each folder; docs/evaluation.md says what each number means. Features are kept in the cache
by content, so that only what is new is computed.
"""

import argparse
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import scipy
import torch

from src.challenges import Challenge, add_challenge_flag, get_challenge
from src.challenges.shared.images import ImageChallenge, as_rgb, fid_mode
from src.common.classes import LABELS
from src.common.cli import Parser, UserError, number, run_script
from src.common.devices import resolve_device
from src.common.files import save_json, write_whole
from src.evaluation import second_opinion
from src.evaluation.by_class import ClassJudge, read_labelled
from src.evaluation.classifier import ClassifierConfig, cached_classifier
from src.evaluation.clip import Clip, clip_scores
from src.evaluation.confidence import HALVES, random_halves, with_interval
from src.evaluation.features import MODES, cached_features, read_images
from src.evaluation.inception import Inception
from src.evaluation.metrics import MIN_IMAGES, feature_metrics, frechet
from src.evaluation.neighbours import Neighbours, training_neighbours
from src.evaluation.reference import unused_flags
from src.evaluation.tables_and_plots import class_table, comparison, lines, plot_fid, plot_neighbours, short_names
from src.evaluation.weights import load_inception, read_classifier
from src.runs.folder import nfe_of
from src.training.config import TrainingConfig

Found = dict[str, Neighbours]  # "pixels" and "features", where they were asked for


def parse() -> tuple[argparse.Namespace, Challenge]:
    """The flags, and the challenge that their defaults are of. Raises UserError for a challenge without images."""
    first = Parser(add_help=False)
    add_challenge_flag(first)
    challenge = get_challenge(first.parse_known_args()[0].challenge)
    if not isinstance(challenge, ImageChallenge):
        raise UserError(f"--challenge {challenge.name}: its samples are no images; measure_fid.py measures them")
    return make_parser(challenge).parse_args(), challenge


def make_parser(challenge: Challenge | None = None) -> Parser:
    challenge = challenge or get_challenge()
    parser = Parser(
        prog="python -m src.evaluation",
        description="every metric of folders of generated images against the validation images",
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="images to judge (png, jpg, webp)")
    parser.add_argument(
        "--reference_dir",
        default=challenge.reference_dir(),
        help="folder of the validation images; made if absent; without a name, those of --data_root",
    )
    root_help = "the data set, for --nearest and an absent reference folder"
    parser.add_argument("--data_root", default=challenge.default_root, help=root_help)
    add_challenge_flag(parser)
    parser.add_argument("--device", default="cuda", help="falls back to the CPU where there is no such device")
    parser.add_argument("--batch_size", type=number(int, 1), default=64, help="images per call of a network (CPU: at most 8)")
    default_modes = [fid_mode(challenge.metric)] if isinstance(challenge, ImageChallenge) else list(MODES[:1])
    parser.add_argument(
        "--modes", nargs="+", choices=MODES, default=default_modes, help="ways of resizing; each takes its time"
    )
    parser.add_argument("--inception", metavar="FILE", help="weights of the 2015 Inception; found or downloaded if not given")
    parser.add_argument("--halves", type=number(int, 0), default=HALVES, help="random halves for the intervals; 0 for none")
    parser.add_argument("--seed", type=number(int, 0), default=0, help="of random halves, parts and splits")
    parser.add_argument("--second_opinion", action="store_true", help="the Frechet distance on EfficientNet-Lite0, too")
    parser.add_argument("--clip", metavar="MODEL:WEIGHTS", help="the Frechet distance on this CLIP of open_clip, too")
    parser.add_argument("--clip_text", metavar="TEXT", help="the CLIP score of the images and this text, too")
    nearest_help = "each sample's nearest training image, and the gap between training and validation"
    parser.add_argument("--nearest", nargs="+", choices=("pixels", "features"), default=[], help=nearest_help)
    class_help = f"accuracy, FID and recall of each class, of images with a {LABELS}, or in sub-folders named by class"
    parser.add_argument("--by_class", action="store_true", help=class_help)
    parser.add_argument("--compare", action="store_true", help="print the folders side by side")
    parser.add_argument("--plot", type=Path, metavar="DIR", help="draw FID against NFE and the nearest training images here")
    return parser


def main() -> None:
    args, challenge = parse()
    check(args)
    names = class_names(challenge, args.data_root) if args.by_class else ()
    device = resolve_device(args.device)
    read = {folder: read_labelled(folder, names) if args.by_class else (read_images(folder), None) for folder in args.folders}
    folders = {folder: images for folder, (images, _) in read.items()}
    needs_train = bool(args.nearest or args.by_class)
    if unused := unused_flags(args, challenge.reference_dir(), challenge.default_root, needs_train):
        print(unused)
    if args.reference_dir:
        reference = challenge.read_reference(args.data_root, args.reference_dir)
    else:  # a challenge that is scored against something else than its validation images
        reference = challenge.load("val", args.data_root)[0]
    reference = as_rgb(reference)
    train, labels = load_split(challenge, "train", args.data_root) if needs_train else (None, None)
    check_images(args, folders, reference, train)
    real = check_classes(args, challenge, folders, train, labels) if args.by_class else None

    networks = Networks(args, device)
    judge = make_judge(args, challenge, names, (train, labels), real, reference, device) if real else None
    short, results = short_names(args.folders), {}
    for (folder, (images, asked)), name in zip(read.items(), short, strict=True):
        for warning in challenge.warnings(images, reference):
            print(f"warning: {folder}: {warning}")
        result, found = networks.metrics_of(folder, images, reference, train)
        if judge is not None:
            result["by_class"] = networks.by_class(judge, folder, images, asked, reference)
            result["networks"]["classifier"] = judge.network
        save_json(result, folder / "metrics.json")
        print("\n".join([f"{folder}: {len(images)} vs {len(reference)} images", *lines(result)]))
        if judge is not None:
            print("\n".join(class_table(result)))
        if found:
            write_neighbours(folder / "nearest_train.csv", found)
        if args.plot and found:
            plot_neighbours(images, train, found, args.plot / f"nearest_train_{name}.png")
        results[folder] = result
    if args.compare:
        print("\n" + comparison(dict(zip(short, results.values(), strict=True))))
    if args.plot and any(nfe_of(folder.resolve()) is not None for folder in results):
        plot_fid(results, args.plot / "fid_by_nfe.png")


def check(args: argparse.Namespace) -> None:
    """Refuse flags that cannot be followed, before any work."""
    args.modes = list(dict.fromkeys(args.modes))
    if len({folder.resolve() for folder in args.folders}) < len(args.folders):
        raise UserError("a folder is named twice")
    if args.inception and not Path(args.inception).is_file():
        raise UserError(f"--inception {args.inception}: no such file")
    if args.halves == 1:
        raise UserError("--halves 1: a spread needs at least 2; give 0 for no intervals")
    if args.clip_text and not args.clip:
        raise UserError("--clip_text needs a model: --clip MODEL:WEIGHTS")
    if args.plot and not args.nearest and all(nfe_of(folder.resolve()) is None for folder in args.folders):
        raise UserError("--plot has nothing to draw: it needs folders named nfe=K, or --nearest")


def class_names(challenge: Challenge, root: str) -> tuple[str, ...]:
    """The names of the challenge's classes. Raises UserError where it has none."""
    names = challenge.class_names(root)
    if not names:
        raise UserError(f"--by_class: the images of --challenge {challenge.name} have no classes")
    return names


def load_split(challenge: Challenge, split: str, root: str) -> tuple[np.ndarray, np.ndarray | None]:
    """The images of a split, uint8 (N, 3, H, W), and their labels, int64 (N,), or None."""
    images, labels = challenge.load(split, root)
    return as_rgb(images), None if labels is None else np.asarray(labels, dtype=np.int64)


def check_images(
    args: argparse.Namespace, folders: dict[Path, np.ndarray], reference: np.ndarray, train: np.ndarray | None
) -> None:
    """Refuse images that are too few or, for --nearest, do not fit the training images."""
    reference_dir = Path(args.reference_dir or args.data_root)
    for folder, images in {**folders, reference_dir: reference}.items():
        if len(images) < MIN_IMAGES:
            raise UserError(f"{folder} holds {len(images)} images; expected at least {MIN_IMAGES} (measure_fid.py takes two)")
        if "pixels" in args.nearest and images.shape[1:] != train.shape[1:]:
            raise UserError(
                f"{folder}: images {images.shape[1:]}, training images {train.shape[1:]}; leave out --nearest pixels"
            )
    if args.nearest and len(train) < len(reference):
        raise UserError(f"--nearest: {len(train)} training images are fewer than the {len(reference)} of {reference_dir}")


def check_classes(
    args: argparse.Namespace,
    challenge: Challenge,
    folders: dict[Path, np.ndarray],
    train: np.ndarray,
    labels: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
    """The validation images and their labels, for --by_class.

    Raises UserError where they or the training images have no labels, or images of a folder are of another size than these.
    """
    real, real_labels = load_split(challenge, "val", args.data_root)
    for told, split in ((labels, "training"), (real_labels, "validation")):
        if told is None:
            raise UserError(f"--by_class: the {split} images of --data_root {args.data_root} have no labels")
    for folder, images in folders.items():
        if images.shape[1:] != train.shape[1:]:
            found, expected = (f"{each.shape[3]}x{each.shape[2]}" for each in (images, train))
            raise UserError(f"{folder}: images are {found}; the classifier of --by_class is of training images of {expected}")
    return real, real_labels


def make_judge(
    args: argparse.Namespace,
    challenge: Challenge,
    names: tuple[str, ...],
    train: tuple[np.ndarray, np.ndarray],
    real: tuple[np.ndarray, np.ndarray],
    reference: np.ndarray,
    device: torch.device,
) -> ClassJudge:
    """What measures by class, with the classifier of the training images and labels, trained or from the cache."""
    config = ClassifierConfig(flip=challenge.training.get("flip", TrainingConfig().flip))
    classifier = cached_classifier(*train, len(names), config, device, f"classifier of {len(names)} classes")
    known = real[1] if np.array_equal(real[0], reference) else None
    return ClassJudge(classifier, names, *real, known, f"{len(train[0])} training images of {args.data_root}")


class Networks:
    """The feature networks that were asked for, loaded once, and the measurement of a folder with them."""

    def __init__(self, args: argparse.Namespace, device: torch.device):
        self.args = args
        self.inception: Inception = load_inception(args.inception, device)
        classifier = read_classifier(args.inception and Path(args.inception))
        self.classifier = None if classifier is None else classifier.numpy()
        if classifier is None:
            print("Inception Score left out: these weights have no last layer (pytorch-fid's published file has it)")
        self.efficientnet = second_opinion.load(device) if args.second_opinion else None
        self.clip = Clip(args.clip, device) if args.clip else None

    def metrics_of(
        self, folder: Path, images: np.ndarray, reference: np.ndarray, train: np.ndarray | None
    ) -> tuple[dict[str, Any], Found]:
        """What metrics.json says of a folder's images, and their nearest training images."""
        args, start = self.args, time.perf_counter()
        halves = random_halves(len(images), args.halves, args.seed)
        metrics: dict[str, Any] = {}
        for mode in args.modes:
            generated, real = (self.features(part, mode, name) for part, name in ((images, folder), (reference, "reference")))
            metrics[mode] = feature_metrics(generated, real, halves, self.classifier, args.seed)
        networks = {"inception": {"source": self.inception.source, "sha256": self.inception.sha256}}
        if self.efficientnet is not None:
            generated, real = (second_opinion.cached(part, self.efficientnet, args.batch_size) for part in (images, reference))
            metrics["efficientnet"] = {"frechet": frechet(generated, real, halves)}
            networks["efficientnet"] = {"source": "efficientnet-lite0", "sha256": second_opinion.PACKAGE_SHA256}
        if self.clip is not None:
            generated, real = (self.clip.features(part, args.batch_size) for part in (images, reference))
            metrics["clip"] = {"frechet": frechet(generated, real, halves)}
            if args.clip_text:
                scores = clip_scores(generated, self.clip.text(args.clip_text))
                means = np.array([scores.mean(), *(scores[half].mean() for half in halves)])
                metrics["clip"]["score"] = {**with_interval(means, len(images)), "text": args.clip_text}
            networks["clip"] = {"source": self.clip.source, "sha256": self.clip.sha256}
        found = self.neighbours(images, reference, train)
        units = {"pixels": np.sqrt(np.prod(images.shape[1:])), "features": 1.0}
        result = {
            "tool": "python -m src.evaluation",
            "folder": str(folder),
            "reference_dir": str(args.reference_dir or args.data_root),
            "num_generated": len(images),
            "num_reference": len(reference),
            **({"num_train": len(train)} if found else {}),
            "metrics": metrics,
            **({"nearest_train": {kind: each.figures(units[kind]) for kind, each in found.items()}} if found else {}),
            "networks": networks,
            "halves": args.halves,
            "seed": args.seed,
            "versions": {
                "torch": torch.__version__,
                "numpy": np.__version__,
                "scipy": scipy.__version__,
                "pillow": PIL.__version__,
                **({"open_clip": self.clip.version} if self.clip is not None else {}),
            },
            "device": str(next(self.inception.parameters()).device),
            "date": date.today().isoformat(),
            "seconds": round(time.perf_counter() - start, 2),
        }
        return result, found

    def by_class(
        self, judge: ClassJudge, folder: Path, images: np.ndarray, labels: np.ndarray, reference: np.ndarray
    ) -> dict[str, Any]:
        """What metrics.json says by class; the features are those of metrics_of, from the cache."""
        result = {**judge.accuracies(images, labels), "left_out": judge.left_out(labels)}
        for mode in self.args.modes:
            generated, real = (self.features(part, mode, name) for part, name in ((images, folder), (reference, "reference")))
            for name, numbers in judge.distances(generated, real, labels, self.args.halves, self.args.seed).items():
                result["classes"][name][mode] = numbers
        return result

    def neighbours(self, images: np.ndarray, reference: np.ndarray, train: np.ndarray | None) -> Found:
        """The nearest training images, by each of --nearest. Features are those of the first mode."""
        found = {}
        if "pixels" in self.args.nearest:
            found["pixels"] = training_neighbours(*(part.reshape(len(part), -1) for part in (images, train, reference)))
        if "features" in self.args.nearest:
            mode = self.args.modes[0]
            sets = {"generated": images, "training": train, "reference": reference}
            found["features"] = training_neighbours(*(self.features(part, mode, name) for name, part in sets.items()))
        return found

    def features(self, images: np.ndarray, mode: str, name: str | Path) -> np.ndarray:
        """Inception's features, from the cache or with a bar of this name."""
        return cached_features(images, self.inception, mode, self.args.batch_size, f"{name}, {mode}")


def write_neighbours(file: Path, found: Found) -> None:
    """A table: a row per sample, in the order of the files' names; the row of its nearest training image, and the distance."""
    columns = {}
    for kind, each in found.items():
        columns |= {f"{kind}_train_row": each.index, f"{kind}_distance": [f"{value:.6g}" for value in each.distance]}
    rows = [("sample", *columns), *zip(range(len(each.index)), *columns.values(), strict=True)]
    with write_whole(file) as partial:
        partial.write_text("".join(",".join(map(str, row)) + "\n" for row in rows))


if __name__ == "__main__":
    run_script(main)
