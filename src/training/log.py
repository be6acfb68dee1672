"""What a run tells: log.jsonl, training curves, TensorBoard."""

import json
import math
import re
from pathlib import Path
from typing import Any

import matplotlib

from src.common.cli import UserError
from src.common.files import load_json_lines, write_whole
from src.runs import LOG, trained_seconds

matplotlib.use("Agg")
import matplotlib.pyplot as plt

PANELS = {  # title -> what the keys of its curves have in common
    "training loss": re.compile("loss"),
    "gradient norm before clipping": re.compile("grad_norm"),
    "FID on the development split": re.compile("fid_nfe"),
    "score on the development split": re.compile("(?!fid).*_nfe"),
}


class RunLog:
    """log.jsonl of a run: one JSON object a line, with `step`, `images_seen` and named figures.

    Args:
        keep_until: continue the log of a resumed run, without the lines after this step.
        tensorboard: write the figures for TensorBoard too, into the run's folder.
    """

    def __init__(self, run_dir: Path, keep_until: int = 0, tensorboard: bool = False):
        self.path = run_dir / LOG
        self.rows = [row for row in load_json_lines(self.path) if row.get("step", math.inf) <= keep_until]
        with write_whole(self.path) as partial:
            partial.write_text("".join(json.dumps(row) + "\n" for row in self.rows))
        self.tensorboard = _summary_writer(run_dir, keep_until) if tensorboard else None

    def write(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        try:
            with open(self.path, "a") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {error.strerror}") from error
        if self.tensorboard:
            for key, value in row.items():
                if isinstance(value, (int, float)):
                    self.tensorboard.add_scalar(key, value, row["step"])
            self.tensorboard.flush()

    def seconds(self) -> float:
        """The time that the run had trained for at the last line."""
        return trained_seconds(self.rows) or 0.0

    def plot(self, path: Path) -> None:
        """Draw losses, gradient norms and development FIDs against the images seen."""
        names = sorted({key for row in self.rows for key in row} - {"loss_by_time"})
        keys = {title: [name for name in names if pattern.match(name)] for title, pattern in PANELS.items()}
        keys = {title: names for title, names in keys.items() if names}
        figure, axes = plt.subplots(1, len(keys), figsize=(5 * len(keys), 4), layout="constrained", squeeze=False)
        for axis, (title, names) in zip(axes[0], keys.items(), strict=True):
            for name in names:
                half_lives = list(dict.fromkeys(row.get("ema_half_life") for row in self.rows if name in row))
                for half_life in half_lives:
                    rows = [row for row in self.rows if name in row and row.get("ema_half_life") == half_life]
                    label = name if half_life is None else f"{name}, EMA {half_life:g}"
                    marker = "." if len(rows) < 20 else None
                    axis.plot([row["images_seen"] for row in rows], [row[name] for row in rows], label=label, marker=marker)
            axis.set(title=title, xlabel="images seen", yscale="log")
            axis.grid(alpha=0.3)
            if len(axis.lines) > 1:
                axis.legend(fontsize="small")
        with write_whole(path) as partial:
            figure.savefig(partial, format="png", dpi=120)
        plt.close(figure)


def _summary_writer(run_dir: Path, keep_until: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError("--tensorboard needs a package that is not installed: pip install tensorboard") from error
    return SummaryWriter(run_dir, purge_step=keep_until + 1)
