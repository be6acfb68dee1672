"""What is to be done after a training step, beside the next one."""

from collections.abc import Mapping
from dataclasses import dataclass

from src.training.config import TrainingConfig

EARLY_PREVIEWS = frozenset(
    2**k for k in range(5, 14)
)  # steps 32, 64, ..., 8192: early phases, of which a write-up shows images


@dataclass(frozen=True)
class Due:
    """What is due after a step.

    log: a line of the log. evaluate: the scores on the development split. milestone: the name under which the averaged model is
    kept. save: checkpoint, resume.pt, curves and a preview. preview: a preview alone. After the last step, when everything is
    saved and evaluated anyway, evaluate, save and preview are not due.
    """

    log: bool
    evaluate: bool
    milestone: str | None
    save: bool
    preview: bool

    @property
    def interrupts(self) -> bool:
        """Whether something takes time that is no training, so that speeds are measured anew from there."""
        return bool(self.evaluate or self.milestone or self.save or self.preview)


def due_after(step: int, config: TrainingConfig, milestones: Mapping[int, str], evaluates: bool) -> Due:
    """What is due after step number `step` (from 1). evaluates: whether the run evaluates at all."""
    last = step == config.num_iterations
    return Due(
        log=last or step % config.log_interval == 0,
        evaluate=evaluates and config.eval_interval > 0 and step % config.eval_interval == 0 and not last,
        milestone=milestones.get(step),
        save=step % config.save_interval == 0 and not last,
        preview=step in EARLY_PREVIEWS and step < config.save_interval and not last,
    )
