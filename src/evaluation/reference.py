"""Which data set the images of a reference folder are of: noted beside a folder that is made, and checked where one is there.

A file FOLDER.json beside the folder, not in it, as other programs read every file that the folder holds.
"""

import argparse
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from src.common.cli import UserError
from src.common.files import load_json, save_json


def write_origin(folder: str | Path, root: str | Path, images: np.ndarray) -> None:
    """Note that a folder of these images, uint8 (N, 3, H, W), was made from the data at root."""
    save_json({"data_root": str(root), "num_images": len(images), "sha256": _hash(images)}, f"{folder}.json")


def read_origin(folder: str | Path, images: np.ndarray) -> str:
    """The data that a folder of these images was made from; empty where that is not noted, or is not of these images."""
    file = Path(f"{folder}.json")
    origin: Any = load_json(file) if file.is_file() else None
    fits = isinstance(origin, dict) and "data_root" in origin and origin.get("sha256") == _hash(images)
    return str(origin["data_root"]) if fits else ""


def check_origin(
    folder: str | Path, images: np.ndarray, root: str, default_root: str, load: Callable[[str], np.ndarray]
) -> str:
    """What is to be said of a reference folder of these images, uint8 (N, 3, H, W), that was there before; often nothing.

    root: where the data are said to be; those at the default root are not read. load: root -> its validation images. Raises
    UserError where there are no data at root, or the folder was made from others.
    """
    origin = read_origin(folder, images)
    if root == default_root:
        return f"the reference images {folder} were made from {origin}" if origin not in ("", root) else ""
    if np.array_equal(load(root), images):
        return ""
    advice = f"remove {folder} to have it made from {root}, or name another --reference_dir"
    if origin:
        raise UserError(f"{folder} was made from {origin}, whose images are not those of --data_root {root}: {advice}")
    return f"warning: {folder} holds other images than the validation images of --data_root {root}: {advice}"


def unused_flags(args: argparse.Namespace, default_dir: str, default_root: str, needs_root: bool = False) -> str:
    """What is to be said of flags that name a reference or data where others are taken, before these are read; often nothing.

    args: reference_dir and data_root, with these defaults, and maybe stats. needs_root: the data are read for something else.
    """
    given = {"--reference_dir": args.reference_dir != default_dir, "--data_root": args.data_root != default_root}
    taken = ""
    if getattr(args, "stats", None):
        taken = f"--stats {args.stats}"
    elif given["--reference_dir"] and args.reference_dir and Path(args.reference_dir).exists():
        given["--reference_dir"], taken = False, f"--reference_dir {args.reference_dir}"
    given["--data_root"] &= not needs_root
    unused = " and ".join(flag for flag, is_given in given.items() if is_given)
    return f"not used: {unused}, as {taken} is measured against" if unused and taken else ""


def _hash(images: np.ndarray) -> str:
    digest = hashlib.sha256(f"{images.shape}\n".encode())
    digest.update(np.ascontiguousarray(images))
    return digest.hexdigest()
