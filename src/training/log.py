"""What a run tells: log.jsonl, training curves, preview sheets."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import torch

from src.methods._base import Method
from src.utils import UserError, contact_sheet, image_seeds, to_uint8, write_whole

matplotlib.use("Agg")
import matplotlib.pyplot as plt


class RunLog:
    """log.jsonl of a run: one JSON object a line, with `step` and named figures."""

    def __init__(self, run_dir: Path, keep_until: int = 0):
        """Continue the log of a resumed run, without the lines after step keep_until."""
        self.path = run_dir / "log.jsonl"
        self.rows: list[dict[str, Any]] = []
        if self.path.is_file():
            rows = [json.loads(line) for line in self.path.read_text().splitlines()]
            self.rows = [row for row in rows if row["step"] <= keep_until]
        with write_whole(self.path) as partial:
            partial.write_text("".join(json.dumps(row) + "\n" for row in self.rows))

    def write(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        try:
            with open(self.path, "a") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {error.strerror}") from error

    def plot(self, path: Path) -> None:
        """Draw every loss and the gradient norm against the images seen."""
        losses = sorted({key for row in self.rows for key in row if key.startswith("loss")})
        norms = sorted({key for row in self.rows for key in row if key.startswith("grad_norm")})
        figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
        for axis, keys, title in ((axes[0], losses, "training loss"), (axes[1], norms, "gradient norm before clipping")):
            for key in keys:
                rows = [row for row in self.rows if key in row]
                axis.plot([row["images_seen"] for row in rows], [row[key] for row in rows], label=key)
            axis.set(title=title, xlabel="images seen", yscale="log")
            axis.grid(alpha=0.3)
            if len(keys) > 1:
                axis.legend()
        with write_whole(path) as partial:
            figure.savefig(partial, format="png", dpi=120)
        plt.close(figure)


def save_preview(
    model: Method, image_shape: Sequence[int], path: Path, seed: int, nfe_list: Sequence[int] = (1, 2, 4), count: int = 8
) -> None:
    """A sheet of samples: one row a NFE, the same noise a column. image_shape is (3, H, W)."""
    was_training = model.training
    model.eval()
    rows = []
    for nfe in nfe_list:
        with torch.no_grad():
            samples = model.sample((count, *image_shape), num_inference_timesteps=nfe, seeds=image_seeds(seed, 0, count))
        rows.append(to_uint8(samples).cpu().numpy())
    model.train(was_training)
    with write_whole(path) as partial:
        contact_sheet(rows, [f"NFE {nfe}" for nfe in nfe_list]).save(partial, format="png")
