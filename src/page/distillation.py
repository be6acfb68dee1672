"""Score distillation as the page has it: its own command, started as a process, and the moments that it leaves."""

import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from src.common.cli import UserError
from src.common.commands import last_line
from src.common.distilled import STEP, file_stem
from src.common.files import PROJECT_ROOT, load_json_lines
from src.common.images import read_picture
from src.page.sources import Loaded
from src.runs.folder import LOG

STEPS, LR, PARTICLES = 200, 0.03, 4  # by default: fewer steps, and longer ones, than the command's, since somebody waits
GUIDANCE_SCALE = 7.5  # the command's default
MOMENTS = 20  # that are shown on the way
PAUSE = 0.2  # seconds between two looks at what the process has left
OF_CHECKPOINTS = {"sds": {}, "vsd": {"lora_lr": 0.01}, "sdi": {"inversion_eta": 1}}  # flags that suit a checkpoint of this kit
Flags = Mapping[str, Any]  # of the command, by name
Tell = Callable[[int, float, np.ndarray], None]  # takes a step, its loss, and the images so far


@dataclass
class Distilled:
    """Images, uint8 (particles, 3, H, W), of each moment, and its step and loss."""

    images: list[np.ndarray]
    steps: list[int]
    losses: list[float]


def words(loaded: Loaded, flags: Flags) -> list[str]:
    """The command that makes the images, by the words after "python". flags: class and loss_type among them."""
    all_flags = {"prior": loaded.checkpoint, **flags, **OF_CHECKPOINTS[flags["loss_type"]], "device": loaded.model.device}
    return ["-m", "src.score_distillation", *(str(word) for name, value in all_flags.items() for word in (f"--{name}", value))]


def command(loaded: Loaded, flags: Flags) -> str:
    """The command as it is typed."""
    return shlex.join(["python", *words(loaded, flags)])


def distil(loaded: Loaded, flags: Flags, tell: Tell) -> Distilled:
    """The images of every moment, which the command leaves. Raises UserError with its last line where it fails."""
    found = Distilled([], [], [])
    with tempfile.TemporaryDirectory() as folder:
        own, errors = Path(folder) / flags["loss_type"] / file_stem(flags["class"]), Path(folder) / "errors.txt"
        argv = [sys.executable, *words(loaded, flags), "--prior", str(loaded.checkpoint.resolve()), "--save_dir", folder]
        with errors.open("w") as output:
            process = subprocess.Popen(argv, cwd=PROJECT_ROOT, stdout=subprocess.DEVNULL, stderr=output)
        try:
            ended = False
            while not ended:
                ended = process.poll() is not None
                for row in load_json_lines(own / LOG)[len(found.steps) :]:
                    picture = np.asarray(read_picture(own / STEP.format(step=row["step"]), "an image on the way"))
                    found.images.append(np.stack(np.split(picture.transpose(2, 0, 1), flags["particles"], axis=2)))
                    found.steps.append(row["step"])
                    found.losses.append(row["loss"])
                    tell(row["step"], row["loss"], found.images[-1])
                time.sleep(0 if ended else PAUSE)
        finally:
            process.kill()
            process.wait()
        if process.returncode:
            raise UserError(last_line(errors.read_text()))
    return found
