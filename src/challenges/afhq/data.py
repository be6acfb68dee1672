"""Animal faces by class, AFHQ: its folders, at any size, and its published address.

AFHQ is of Choi et al. (StarGAN v2, arXiv:1912.01865): 512x512 photographs in train/CLASS and val/CLASS.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from src.common.cli import UserError
from src.common.images import Remarks
from src.datasets.images import cached_pictures, decode_image, read_files
from src.datasets.labelled import find_files

URL = "https://www.dropbox.com/s/t9l9o3vsx2jai3z/afhq.zip?dl=1"  # the authors'


def load_animals(
    split: str, root: str | Path, classes: Sequence[str], size: int, default_root: str
) -> tuple[np.ndarray, np.ndarray]:
    """The images of a split ("train" or "val"), uint8 (N, 3, size, size), and their labels 1 .. C, int64 (N,).

    root has the folders train and val, and in each one for every class. The default root is downloaded if it is absent. Images
    are resized by torchvision, whatever their shape, and kept in the cache.

    Raises UserError where root is absent or has other classes, or an image is unreadable.
    """
    if Path(root) == Path(default_root) and not Path(root).exists():
        download(Path(root))
    if not Path(root).is_dir():
        raise UserError(f"no folder {root}: expected train/ and val/, in each {', '.join(classes)} (--data_root)")
    files = find_files(split, root)
    if files.classes != tuple(classes):
        raise UserError(
            f"{root}: expected the folders train and val, in each {', '.join(classes)}; the classes there are "
            f"{', '.join(files.classes) or 'none'} (--data_root)"
        )
    files.say_left_out()

    def read(remarks: Remarks) -> np.ndarray:
        decode = lambda data, name: decode_image(data, name, size, remarks)  # noqa: E731
        return np.stack(list(read_files(files.root, files.names, decode)))

    return cached_pictures(["afhq", size, files.content], files.root, read), files.labels


def download(root: Path) -> None:
    """Download and unpack AFHQ, so that root has its folders train and val. Raises UserError where that fails."""
    from torchvision.datasets.utils import download_and_extract_archive  # here, as torchvision takes seconds to import

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
