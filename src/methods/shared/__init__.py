"""The door of this folder: what a method's file imports. docs/write_a_method.md says what each is for."""

# ruff: noqa: F401
from src.common.guidance import with_labels
from src.common.options import Options, option
from src.methods.shared.adversarial import AdversarialModel, WithDiscriminator
from src.methods.shared.discriminators import (
    DiscriminatorOptions,
    hinge_discriminator,
    hinge_generator,
    non_saturating_discriminator,
    non_saturating_generator,
)
from src.methods.shared.karras_path import (
    KARRAS_RHO,
    ConsistencyModel,
    ConsistencyOptions,
    Denoiser,
    DenoiserOptions,
    KarrasPathScheduler,
)
from src.methods.shared.method import Method, PathScheduler, register, split_batch
from src.methods.shared.solvers import (
    HUBER_C,
    ORDERS,
    DistanceOptions,
    WithDistance,
    euler_step,
    grid_of_calls,
    heun_step,
    karras_grid,
    pseudo_huber,
    solve,
)
from src.methods.shared.straight_path import TIME_DISTRIBUTIONS, AverageVelocityModel, LinearPathScheduler, VelocityModel
from src.methods.shared.student import Student, TeacherOptions
from src.methods.shared.targets import Draws, follow, frozen_copy, held_fixed
from src.methods.shared.vp_path import DDIMModel, VPPathScheduler
