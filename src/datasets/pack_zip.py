"""Pack a folder of images, or of class folders, into a zip file in EDM's format, which --challenge labelled reads.

    python -m src.datasets.pack_zip photographs flowers-64x64.zip --resolution 64

Images become squares of their middle, resized by Lanczos' filter, as EDM's dataset_tool.py has it with --transform=center-crop,
and are stored as PNG files without compression. All become RGB; turns that a camera notes in EXIF are not made. The bytes of
the zip file follow from the images, their names and the release of Pillow alone.
"""

import argparse
import io
import json
import textwrap
import zipfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from src.common.cli import Parser, UserError, number, run_script
from src.common.files import check_output, write_whole
from src.common.images import Remarks, say_left_out
from src.datasets.images import read_pictures
from src.datasets.labelled import LARGEST, METADATA, SMALLEST, LabelledFiles, find_files, has_splits

BEGINNING = (1980, 1, 1, 0, 0, 0)  # of time in zip files: the date of all entries
PERMISSIONS = 0o644 << 16
UNIX = 3


def square(picture: Image.Image, resolution: int | None) -> Image.Image:
    """The middle of a picture as a square, resized to resolution x resolution pixels; None: as large as it is."""
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    middle = picture.crop((left, top, left + side, top + side))
    return middle if resolution is None else middle.resize((resolution, resolution), Image.Resampling.LANCZOS)


def entry_name(number: int) -> str:
    """The name of image `number` (from 0) in the zip file: NNNNN/imgNNNNNNNN.png, with the first five digits as its folder."""
    digits = f"{number:08d}"
    return f"{digits[:5]}/img{digits}.png"


def pack(files: LabelledFiles, path: Path, resolution: int | None, labels: bool) -> tuple[int, int]:
    """Write the images, and with `labels` their classes from 0, into a zip file, whole or not at all.

    Returns the side of all of them in pixels, and how many were smaller before. What is lost of the pictures is printed.

    Raises UserError where an image is unreadable, or their middles without a resolution are not of one size of 16 to 128.
    """
    remarks = Remarks(files.root)

    def convert(picture: Image.Image, name: str) -> tuple[str, int, int, bytes]:
        made, png = square(picture, resolution), io.BytesIO()
        if not SMALLEST <= made.width <= LARGEST:
            raise UserError(
                f"{files.root}: the middle of {name} is {made.width}x{made.height}, expected {SMALLEST} to {LARGEST} pixels: "
                "give --resolution"
            )
        made.save(png, format="png", compress_level=0, optimize=False)
        return name, min(picture.size), made.width, png.getvalue()

    def add(name: str, data: bytes) -> None:
        info = zipfile.ZipInfo(name, BEGINNING)  # its header does not say when and where it was made
        info.create_system, info.external_attr = UNIX, PERMISSIONS
        archive.writestr(info, data, zipfile.ZIP_STORED)

    first, side, enlarged = "", 0, 0
    with write_whole(path) as partial, zipfile.ZipFile(partial, "w") as archive:
        for i, (name, before, after, data) in enumerate(read_pictures(files.root, files.names, convert, remarks, "packing")):
            first, side = (first, side) if i else (name, after)
            if after != side:
                raise UserError(
                    f"{files.root}: several sizes: the middle of {first} is {side}x{side}, of {name} {after}x{after}; "
                    "give --resolution"
                )
            enlarged += before < after
            add(entry_name(i), data)
        classes = [[entry_name(i), int(label) - 1] for i, label in enumerate(files.labels)] if labels else None
        add(METADATA, json.dumps({"labels": classes}).encode())
    remarks.say()
    return side, enlarged


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(prog="python -m src.datasets.pack_zip", description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, metavar="SOURCE", help="folder of images, or of class folders, or such a zip file")
    parser.add_argument("out", type=Path, metavar="OUT.zip", help="where to")
    size_help = f"height and width in pixels, at most {LARGEST}; None: as they are, all of one size"
    parser.add_argument("--resolution", type=number(int, SMALLEST), help=size_help)
    labels_help = "write the classes, or none; None: those that SOURCE has"
    parser.add_argument("--labels", action=argparse.BooleanOptionalAction, help=labels_help)
    parser.add_argument("--overwrite", action="store_true", help="replace OUT.zip if it exists")
    args = parser.parse_args(argv)
    if args.out.suffix.lower() != ".zip":
        raise UserError(f"{args.out}: expected a name that ends in .zip, by which EDM's programs know such a file")
    if args.out.exists() and not args.overwrite:
        raise UserError(f"{args.out} exists: name another file, or add --overwrite")
    if args.resolution is not None and args.resolution > LARGEST:
        raise UserError(f"--resolution {args.resolution}: expected at most {LARGEST}")
    check_output(args.out)
    if not args.source.exists():
        raise UserError(f"no folder or zip file {args.source}")
    if args.source.is_dir() and has_splits(args.source):
        raise UserError(f"{args.source} is divided into splits: pack one of them, such as {args.source / 'train'}")
    files = find_files("train", args.source)
    if args.labels and files.labels is None:
        raise UserError(f"--labels: {args.source} has no classes")
    say_left_out(files.root, files.left_out)
    labels = files.labels is not None if args.labels is None else args.labels
    side, enlarged = pack(files, args.out, args.resolution, labels)
    if enlarged:
        print(f"warning: {enlarged:,} images were smaller than {side}x{side}, and are blurred")
    names = ", ".join(f"{i} {name}" if name != str(i) else name for i, name in enumerate(files.classes))
    classes = textwrap.shorten(f"{len(files.classes)} classes: {names}", 400, placeholder=" ...") if labels else "no labels"
    print(f"{args.out}: {len(files.names):,} images of {side}x{side}, {classes}")


if __name__ == "__main__":
    run_script(main)
