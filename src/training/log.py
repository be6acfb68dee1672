"""What a run tells while it trains: log.jsonl, TensorBoard."""

import json
import math
from pathlib import Path
from typing import Any

from src.common.cli import UserError
from src.common.files import append_json_line, load_json_lines, write_whole
from src.runs.folder import LOG, trained_seconds


class RunLog:
    """log.jsonl of a run: one JSON object a line, with `step`, `images_seen` and named figures.

    Args:
        keep_until: continue the log of a resumed run, without the lines after this step.
        tensorboard: write the figures for TensorBoard too, into the run's folder.
    """

    def __init__(self, run_dir: Path, keep_until: int = 0, tensorboard: bool = False):
        self.path = run_dir / LOG
        self.rows = [row for row in load_json_lines(self.path) if row.get("step", math.inf) <= keep_until]
        self.write_all(run_dir)
        self.tensorboard = _summary_writer(run_dir, keep_until) if tensorboard else None

    def write_all(self, run_dir: Path) -> None:
        """Write the whole log anew, into the run's folder or another. Raises CannotWrite where the disk refuses."""
        with write_whole(run_dir / LOG) as partial:
            partial.write_text("".join(json.dumps(row) + "\n" for row in self.rows))

    def write(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        append_json_line(row, self.path)
        if self.tensorboard:
            for key, value in row.items():
                if isinstance(value, (int, float)):
                    self.tensorboard.add_scalar(key, value, row["step"])
            self.tensorboard.flush()

    def seconds(self) -> float:
        """The time that the run had trained for at the last line."""
        return trained_seconds(self.rows) or 0.0


def _summary_writer(run_dir: Path, keep_until: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError("--tensorboard needs a package that is not installed: pip install tensorboard") from error
    return SummaryWriter(run_dir, purge_step=keep_until + 1)
