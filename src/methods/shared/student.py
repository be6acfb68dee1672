"""What all methods share that learn from a trained model, their teacher."""

from dataclasses import dataclass, field
from functools import partial

import torch

from src.common.checkpoints import take_weights
from src.common.guidance import guided_denoised
from src.common.options import Options
from src.methods.shared.method import METHODS, Method
from src.methods.shared.solvers import Denoised


@dataclass
class TeacherOptions(Options):
    """Of a student that may learn from a guided teacher; a Config lists this class before its scheduler's Config."""

    teacher_guidance: float = field(
        default=0.0,
        metadata={"help": "guidance scale of the teacher, where it has classes; 0 and 1: none; more goes beyond", "minimum": 0},
    )


class Student(Method):
    """A method that learns from a teacher, which train.py's --teacher names and set_teacher receives."""

    takes_teacher = needs_teacher = True

    def set_teacher(self, teacher: Method) -> None:
        """Learn from this model, which is frozen, is saved with the run and never handed in.

        Raises ValueError where the teacher's method gives no denoised data to solve its flow with, or its classes are others.
        """
        if type(teacher).denoised is Method.denoised:
            raise ValueError(
                f"a model of method {type(teacher).__name__} cannot teach: its flow has no solver; teachers are "
                f"{', '.join(name for name, cls in METHODS.items() if cls.denoised is not Method.denoised)}"
            )
        if teacher.num_classes != self.num_classes:
            raise ValueError(
                f"a model of {teacher.num_classes or 'no'} classes cannot teach one of {self.num_classes or 'none'}: both are "
                "trained with --class_conditional, or neither"
            )
        self.train_only["teacher"] = teacher.eval().requires_grad_(False)

    def start_from(self, teacher: Method) -> bool:
        """Take the teacher's weights over if its network's output means what this one's does; whether it does.

        Raises ValueError where the two networks differ in more than the additional condition.
        """
        same = self.parameterization is not None and self.parameterization == teacher.parameterization
        if same:
            take_weights(self.network, teacher.network.state_dict())
        return same

    @property
    def teacher(self) -> Method:
        """What set_teacher was given, or a module that a subclass keeps under this name; ValueError if there is neither."""
        kept = self._modules.get("teacher", self.train_only.get("teacher"))
        if kept is None:
            raise ValueError(f"{type(self).__name__} learns from a teacher: name its run with --teacher")
        return kept

    def taught(self, labels: torch.Tensor | None, scale: float = 0.0) -> Denoised:
        """The teacher's denoised data for these labels (B,), with guidance of this scale, as a function of x and sigma."""
        return partial(guided_denoised, self.teacher, labels=labels, scale=scale)
