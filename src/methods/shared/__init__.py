"""What several methods have in common, under the names that a method's file imports."""

from src.methods.shared.adversarial import WithDiscriminator
from src.methods.shared.calls import Draws, held_fixed
from src.methods.shared.consistency_model import ConsistencyModel, ConsistencyOptions, ConsistencyPathScheduler
from src.methods.shared.karras_path import Denoiser, DenoiserOptions, KarrasPathScheduler, karras_grid
from src.methods.shared.method import Method, register, split_batch, uniform_grid
from src.methods.shared.solvers import euler_step, heun_step, solve
from src.methods.shared.straight_path import AverageVelocityModel, LinearPathScheduler, VelocityModel
from src.methods.shared.student import Student, TeacherOptions
from src.methods.shared.target import follow, frozen_copy
from src.methods.shared.vp_path import DDIMModel, VPPathScheduler

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
