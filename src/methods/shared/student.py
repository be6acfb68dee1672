"""What all methods share that learn from a trained model, their teacher."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from src.common.checkpoints import take_weights
from src.common.guidance import guided_denoised
from src.common.options import Options, option
from src.methods.shared.method import METHODS, Method


@dataclass
class TeacherOptions(Options):
    teacher_guidance: float = option(0.0, "guidance scale of a teacher with classes; 0 and 1 mean none", minimum=0)


class Student(Method):
    """A method that learns from a teacher, which train.py's --teacher names and set_teacher receives."""

    takes_teacher = needs_teacher = True

    def set_teacher(self, teacher: Method) -> None:
        """Learn from this model, which is frozen, is saved with the run and never handed in.

        Raises ValueError where the teacher's method gives no denoised data to solve its flow with, or its classes are others.
        """
        if type(teacher).denoised is Method.denoised:
            able = ", ".join(name for name, cls in METHODS.items() if cls.denoised is not Method.denoised)
            name = type(teacher).__name__
            raise ValueError(f"a model of method {name} cannot teach: its flow has no solver; teachers are {able}")
        if teacher.num_classes != self.num_classes:
            theirs, ours = teacher.num_classes or "no", self.num_classes or "none"
            both = "both are trained with --class_conditional, or neither"
            raise ValueError(f"a model of {theirs} classes cannot teach one of {ours}: {both}")
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
        """What set_teacher was given; ValueError if there is none."""
        if "teacher" not in self.train_only:
            raise ValueError(f"{type(self).__name__} learns from a teacher: name its run with --teacher")
        return self.train_only["teacher"]

    def taught(self, labels: Tensor | None, scale: float = 0.0) -> Callable[[Tensor, Tensor], Tensor]:
        """The teacher's denoised data for these labels (B,), with guidance of this scale, as a function of x and sigma."""
        return partial(guided_denoised, self.teacher, labels=labels, scale=scale)
