"""Every kind of picture that Pillow writes, as the kit, torchvision, pytorch-fid and clean-fid read it: docs/pictures.md."""

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import numpy as np
import PIL
import pytest
from PIL import Image, ImageCms

from src.common.cli import UserError
from src.common.files import PROJECT_ROOT
from src.common.images import PICTURES, Remarks, list_pictures, read_picture

PAGE = (PROJECT_ROOT / "docs" / "pictures.md").read_text()
SIZE = 16
MODES = "1 L LA La P PA RGB RGBA RGBa RGBX CMYK YCbCr LAB HSV I I;16 I;16B F".split()  # noqa: SIM905 - as the page has them
FORMATS = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP", "bmp": "BMP", "tif": "TIFF", "ppm": "PPM"}
ABSENT = "-"  # Pillow does not write it


def rgba() -> np.ndarray:
    """A smooth picture with transparent parts: uint8 (SIZE, SIZE, 4)."""
    x, y = np.meshgrid(np.linspace(0, 255, SIZE), np.linspace(0, 255, SIZE))
    return np.stack([x, y, 255 - x, (x + y) / 2], axis=-1).round().astype(np.uint8)


def of_mode(mode: str) -> Image.Image:
    """That picture in a mode of Pillow; its red channel in those of one channel of more than 8 bits."""
    whole, red = Image.fromarray(rgba()), rgba()[..., 0]
    if mode in ("LA", "RGBA", "RGBa"):
        return whole.convert(mode)
    if mode == "La":
        return whole.convert("LA").convert("La")
    if mode == "PA":
        made = whole.convert("RGB").convert("P").convert("PA")
        made.putalpha(whole.getchannel("A"))
        return made
    if mode == "LAB":
        return Image.frombytes(mode, whole.size, whole.convert("RGB").tobytes())
    if mode == "I":
        return Image.fromarray(red.astype(np.int32) * 257)
    if mode.startswith("I;16"):
        values = (red.astype(np.uint16) * 257).astype(">u2" if mode == "I;16B" else "<u2")
        return Image.frombytes(mode, whole.size, values.tobytes())
    if mode == "F":
        return Image.fromarray(red.astype(np.float32))
    return whole.convert("RGB").convert(mode)


def written(picture: Image.Image, kind: str, **options: object) -> bytes | None:
    """A file of a picture; None where Pillow does not write it."""
    file = io.BytesIO()
    try:
        picture.save(file, kind, **options)
    except (OSError, ValueError, KeyError):
        return None
    return file.getvalue()


# ------------------------------------------------------------------------------------------------------- other readers


def by_torchvision(path: Path) -> np.ndarray:
    from torchvision.datasets.folder import pil_loader

    return np.asarray(pil_loader(str(path)))


def by_pytorch_fid(path: Path) -> np.ndarray:
    from pytorch_fid.fid_score import ImagePathDataset

    return np.asarray(ImagePathDataset([path])[0])


def by_clean_fid(path: Path) -> np.ndarray:
    from cleanfid.utils import ResizeDataset

    data = ResizeDataset([str(path)], "clean")
    data.fn_resize = lambda pixels: pixels  # what it has read, before it is resized
    return np.asarray(data[0]).transpose(1, 2, 0).round().astype(np.uint8)


OTHERS: dict[str, Callable[[Path], np.ndarray]] = {
    "torchvision": by_torchvision,
    "pytorch_fid": by_pytorch_fid,
    "cleanfid": by_clean_fid,
}


def by_others(path: Path) -> np.ndarray | None:
    """What all other readers that are installed make of a file, which is one thing; None where it is an error."""
    found: list[np.ndarray | None] = []
    for package, read in OTHERS.items():
        try:
            __import__(package)
        except ImportError:
            continue
        try:
            found.append(read(path))
        except (OSError, ValueError, SyntaxError):
            found.append(None)
    for each in found:
        assert (each is None) == (found[0] is None) and (each is None or np.array_equal(each, found[0])), path.name
    return found[0]


def outcome(path: Path) -> tuple[str, str]:
    """What the kit does with a file in comparison with the others, and what it says has been lost."""
    remarks, others = Remarks(path.parent), by_others(path)
    try:
        ours = np.asarray(read_picture(path, str(path), remarks))
    except UserError:
        return "refused; " + ("an error" if others is None else "clipped" if (others == 255).mean() > 0.8 else "read"), ""
    said = "; ".join(sorted(remarks.counts))
    if others is None:
        return "read; an error", said
    if np.array_equal(ours, others):
        return "same", said
    expected = np.repeat(rgba()[..., :1], 3, axis=2)
    assert np.array_equal(ours, expected) and (others == 255).mean() > 0.8, path.name
    return "scaled; clipped", said


# -------------------------------------------------------------------------------------------------------------- modes


MARKS = {
    "16 bits are scaled to 8": "b",
    "transparency is dropped and hidden colours show": "t",
    "CMYK is converted without its colour profile": "c",
}
ENDS = {"same": "", "scaled; clipped": "*", "refused; clipped": "x", "refused; read": "x"}


def mode_cell(mode: str, ending: str, folder: Path) -> str:
    """What Pillow opens a picture of this mode as, written in this format, and the marks of what happens to it."""
    data = written(of_mode(mode), FORMATS[ending])
    if data is None:
        return ABSENT
    path = folder / f"{mode.replace(';', '')}.{ending}"
    path.write_bytes(data)
    found, said = outcome(path)
    if found == "refused; an error":  # Pillow cannot open what it has written
        return ABSENT
    marks = "".join(MARKS[each] for each in said.split("; ") if each) + ENDS[found]
    with Image.open(path) as image:
        return " ".join(filter(None, (image.mode, marks)))


def rows_of(header: str) -> list[list[str]]:
    """The rows of the page's table whose first line begins so, as their cells."""
    _, _, rest = PAGE.partition(f"| {header} |")
    lines = rest.partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_every_mode_is_read_as_the_page_says(mode, tmp_path):
    documented = next(row for row in rows_of("mode") if row[0] == f"`{mode}`")
    for ending, expected in zip(FORMATS, documented[1:], strict=True):
        measured = mode_cell(mode, ending, tmp_path)
        if ABSENT in (measured, expected) and f"Pillow {PIL.__version__}" not in PAGE:
            continue  # releases differ in what they write
        assert measured == expected, ending


# ------------------------------------------------------------------------------------------------------- special files


def png_of_16_bits(channels: int) -> bytes:
    """A PNG file of 16 bits a channel, which Pillow does not write but in grey: 2 channels are grey and transparency."""
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    pixels = rgba()[..., [0, 3] if channels == 2 else slice(channels)].astype(np.uint16) * 257
    raw = b"".join(b"\0" + line.astype(">u2").tobytes() for line in pixels)

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", SIZE, SIZE, 16, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


def tiff_of_16_bits() -> bytes:
    """A TIFF file of RGB with 16 bits a channel."""
    data = (rgba()[..., :3].astype(np.uint16) * 257).astype("<u2").tobytes()
    tags = [(256, 3, 1, SIZE), (257, 3, 1, SIZE), (258, 3, 3, 8 + len(data) + 114), (259, 3, 1, 1), (262, 3, 1, 2)]
    tags += [(273, 4, 1, 8), (277, 3, 1, 3), (278, 3, 1, SIZE), (279, 4, 1, len(data))]
    table = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    assert len(table) == 114
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + table + struct.pack("<3H", 16, 16, 16)


def netpbm_of_16_bits(channels: int) -> bytes:
    pixels = (rgba()[..., :channels].astype(np.uint16) * 257).astype(">u2")
    return b"P%d %d %d 65535\n" % (6 if channels == 3 else 5, SIZE, SIZE) + pixels.tobytes()


def turned(kind: str) -> bytes | None:
    exif = Image.Exif()
    exif[0x0112] = 6
    return written(of_mode("RGB").crop((0, 0, SIZE, SIZE // 2)), kind, exif=exif)


def animated(kind: str) -> bytes | None:
    return written(of_mode("RGB"), kind, save_all=True, append_images=[Image.new("RGB", (SIZE, SIZE), "red")])


def with_profile(name: str) -> bytes | None:
    return written(of_mode("RGB"), "PNG", icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile(name)).tobytes())


def with_transparency(mode: str, key: object) -> bytes | None:
    return written(of_mode(mode), "PNG", transparency=key)


def special_files() -> Iterator[tuple[str, str, bytes | None]]:
    """What it is, an ending, and the file."""
    yield "PNG, grey of 16 bits", "png", png_of_16_bits(1)
    yield "PNG, grey of 16 bits with transparency", "png", png_of_16_bits(2)
    yield "PNG, RGB of 16 bits", "png", png_of_16_bits(3)
    yield "PNG, RGBA of 16 bits", "png", png_of_16_bits(4)
    yield "TIFF, RGB of 16 bits", "tif", tiff_of_16_bits()
    yield "PGM of 16 bits", "pgm", netpbm_of_16_bits(1)
    yield "PPM of 16 bits", "ppm", netpbm_of_16_bits(3)
    yield "PNG, palette with a transparent colour", "png", with_transparency("P", of_mode("P").getpixel((0, 0)))
    yield "PNG, RGB with a transparent colour", "png", with_transparency("RGB", (0, 0, 255))
    yield "PNG, RGBA, all opaque", "png", written(of_mode("RGB").convert("RGBA"), "PNG")
    yield "JPEG turned by EXIF", "jpg", turned("JPEG")
    yield "PNG turned by EXIF", "png", turned("PNG")
    yield "WebP turned by EXIF", "webp", turned("WEBP")
    yield "TIFF turned by EXIF", "tif", turned("TIFF")
    yield "PNG with damaged EXIF", "png", written(of_mode("RGB"), "PNG", exif=b"Exif\0\0no EXIF at all")
    yield "PNG with the colour profile sRGB", "png", with_profile("sRGB")
    yield "PNG with another colour profile", "png", with_profile("XYZ")
    yield "PNG, animated", "png", animated("PNG")
    yield "WebP, animated", "webp", animated("WEBP")
    yield "TIFF of several pages", "tif", animated("TIFF")
    yield "MPO, two JPEG pictures in one, called .jpg", "jpg", animated("MPO")
    yield "GIF, animated, called .png", "png", animated("GIF")
    yield "AVIF, called .png", "png", written(of_mode("RGB"), "AVIF")
    yield "an empty file", "png", b""
    yield "a file that was cut off", "bmp", written(of_mode("RGB"), "BMP")[:400]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_special_file_is_read_as_the_page_says(tmp_path):
    documented = {row[0]: row for row in rows_of("file")}
    files = list(special_files())
    assert list(documented) == [what for what, _, _ in files]
    for what, ending, data in files:
        if data is None:  # a Pillow without AVIF
            continue
        (tmp_path / f"x.{ending}").write_bytes(data)
        found, lost = outcome(tmp_path / f"x.{ending}")
        ours, _, others = found.partition("; ")
        assert [what, ours, others or ours, lost or ABSENT] == documented[what]


# ------------------------------------------------------------------------------------------------------ which files


def listed_by_torchvision(folder: Path) -> set[str]:
    from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

    return {path for path, _ in make_dataset(folder.parent, {folder.name: 0}, IMG_EXTENSIONS, allow_empty=True)}


def listed_by_pytorch_fid(folder: Path) -> set[str]:
    from pytorch_fid import fid_score

    nothing = [None] * 4  # network, batch size, features and device
    return listed_by(
        fid_score, "calculate_activation_statistics", lambda: fid_score.compute_statistics_of_path(str(folder), *nothing)
    )


def listed_by_clean_fid(folder: Path) -> set[str]:
    fid = pytest.importorskip("cleanfid.fid", reason="clean-fid is not installed: pip install clean-fid")
    return listed_by(fid, "get_files_features", lambda: fid.get_folder_features(str(folder), None, verbose=False))


def listed_by(module: object, name: str, call: Callable[[], object]) -> set[str]:
    """The files that a package hands to its function of this name."""
    with patch.object(module, name, return_value=(None, None)) as take:
        call()
    return set(map(str, take.call_args.args[0]))


def listed_by_us(folder: Path) -> set[str]:
    return {str(folder / name) for name in list_pictures(folder)[0]}


LISTS = (listed_by_us, listed_by_torchvision, listed_by_pytorch_fid, listed_by_clean_fid)
OTHER_ENDINGS = "endings of all other formats that Pillow writes: `.gif .avif .ico .tga .jp2` ..."
WAYS = {
    "`.png .jpg .jpeg .webp .bmp .tif .tiff .ppm .pgm`": "a.png a.jpg a.jpeg a.webp a.bmp a.tif a.tiff a.ppm a.pgm",
    "`.PNG .JPG .JPEG`": "A.PNG A.JPG A.JPEG",
    "the others in capitals, or in part: `.BMP .Png`": "A.WEBP A.BMP A.TIF A.TIFF A.PPM A.PGM A.Png A.Jpg",
    OTHER_ENDINGS: "",
    "hidden: `._a.png .a.png`": "._a.png .a.png",
    "in a folder in the folder": "in/a.png",
    "a link to a picture": "link.png",
    "a link to nothing": "broken.png",
    "what systems leave behind: `.DS_Store Thumbs.db desktop.ini`": ".DS_Store Thumbs.db desktop.ini",
    "files that are no pictures: `notes.txt`": "notes.txt",
}


def list_row(way: str, folder: Path) -> list[str]:
    """Who takes the files of this kind for pictures."""
    names = WAYS[way].split()
    if way == OTHER_ENDINGS:
        Image.init()
        writes = [ending for ending, kind in Image.registered_extensions().items() if kind in Image.SAVE]
        names = [f"a{ending}" for ending in writes if ending not in PICTURES]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if name in ("link.png", "broken.png"):
            (folder / name).symlink_to(folder.parent / ("there.png" if name == "link.png" else "nowhere.png"))
        else:
            (folder / name).write_bytes(b"x")
    (folder.parent / "there.png").write_bytes(b"x")
    cells = []
    for reader in LISTS:
        taken = reader(folder) & {str(folder / name) for name in names}
        assert len(taken) in (0, len(names)), (reader.__name__, taken)
        cells.append("yes" if taken else "no")
    return [way, *cells]


@pytest.mark.parametrize("way", WAYS)
def test_which_files_are_read_is_what_the_page_says(way, tmp_path):
    (tmp_path / "d").mkdir()
    documented = next(row for row in rows_of("files") if row[0] == way)
    assert list_row(way, tmp_path / "d") == [way, *(cell.split(",")[0] for cell in documented[1:])]
