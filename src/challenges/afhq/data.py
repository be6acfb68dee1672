"""Animal faces by class, AFHQ: its folders, at any size, and its published address.

AFHQ is of Choi et al. (StarGAN v2, arXiv:1912.01865): 512x512 photographs in train/CLASS and val/CLASS.
"""

from pathlib import Path

import numpy as np

from src.common.cli import UserError
from src.common.images import say_left_out
from src.datasets.images import cached_pictures, resized
from src.datasets.labelled import find_files

CLASSES = ("cat", "dog", "wild")
SIZE = 64
DEFAULT_ROOT = "./data/datasets/afhq"
URL = "https://www.dropbox.com/s/t9l9o3vsx2jai3z/afhq.zip?dl=1"  # the authors'


def load_animals(split: str, root: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """The images of a split ("train" or "val"), uint8 (N, 3, 64, 64), and their labels 1, 2, 3, int64 (N,).

    root has the folders train and val, and in each one for every class. The default root is downloaded if it is absent. Images
    are resized, whatever their shape, and kept in the cache.

    Raises UserError where root is absent or has other classes, or an image is unreadable.
    """
    if Path(root) == Path(DEFAULT_ROOT) and not Path(root).exists():
        download(Path(root))
    if not Path(root).is_dir():
        raise UserError(f"no folder {root}: expected train/ and val/, in each {', '.join(CLASSES)} (--data_root)")
    files = find_files(split, root)
    if files.classes != CLASSES:
        raise UserError(
            f"{root}: expected the folders train and val, in each {', '.join(CLASSES)}; the classes there are "
            f"{', '.join(files.classes) or 'none'} (--data_root)"
        )
    say_left_out(files.root, files.left_out)
    return cached_pictures(["afhq", SIZE], files.root, files.names, lambda picture, _: resized(picture, SIZE)), files.labels


def download(root: Path) -> None:
    """Download and unpack AFHQ, so that root has its folders train and val. Raises UserError where that fails."""
    from torchvision.datasets.utils import download_and_extract_archive  # torchvision takes seconds to import

    print(f"downloading AFHQ from {URL} ...")
    try:
        download_and_extract_archive(URL, str(root.parent), filename="afhq.zip", remove_finished=True)
    except Exception as error:  # urllib, ssl, zipfile and torchvision raise unrelated types
        raise UserError(
            f"no data at {root}, and the download failed ({type(error).__name__}: {str(error)[:150]}); give a folder with "
            "train/ and val/, each of a folder for every class, by --data_root"
        ) from error
    if not (root / "train").is_dir():
        raise UserError(f"what {URL} gave has no folder {root.name}/train")
