"""What several methods have in common, under the names that a method's file imports."""

from src.methods._adversarial import WithDiscriminator
from src.methods._base import Method, register, split_batch, uniform_grid
from src.methods._consistency import ConsistencyModel, ConsistencyOptions, ConsistencyPathScheduler
from src.methods._karras_path import Denoiser, DenoiserOptions, KarrasPathScheduler, karras_grid
from src.methods._solvers import euler_step, heun_step, solve
from src.methods._straight_path import AverageVelocityModel, LinearPathScheduler, VelocityModel
from src.methods._student import Student, TeacherOptions
from src.methods._target import follow, frozen_copy
from src.methods._vp_path import DDIMModel, VPPathScheduler
from src.methods.shared.calls import Draws, held_fixed

__all__ = [
    "AverageVelocityModel",
    "ConsistencyModel",
    "ConsistencyOptions",
    "ConsistencyPathScheduler",
    "DDIMModel",
    "Denoiser",
    "DenoiserOptions",
    "Draws",
    "KarrasPathScheduler",
    "LinearPathScheduler",
    "Method",
    "Student",
    "TeacherOptions",
    "VPPathScheduler",
    "VelocityModel",
    "WithDiscriminator",
    "euler_step",
    "follow",
    "frozen_copy",
    "held_fixed",
    "heun_step",
    "karras_grid",
    "register",
    "solve",
    "split_batch",
    "uniform_grid",
]
