"""Sampling: `Sampler` is the front door, the functions take k-diffusion's arguments."""

from .gamma import sample_exact, sample_gamma
from .jumps import sample_jumps
from .langevin import Langevin
from .methods import SAMPLERS
from .multistep import sample_cm_multistep, sample_onestep
from .ode import sample_churn, sample_euler, sample_heun
from .phased import sample_phased
from .rejection import RejectionSampler, Selection
from .sampler import Sampler
from .seeding import image_seeds, noise_for
from .step_tables import sampling_sigmas, two_step

__all__ = [
    "SAMPLERS",
    "Langevin",
    "RejectionSampler",
    "Sampler",
    "Selection",
    "image_seeds",
    "noise_for",
    "sample_churn",
    "sample_cm_multistep",
    "sample_euler",
    "sample_exact",
    "sample_gamma",
    "sample_heun",
    "sample_jumps",
    "sample_onestep",
    "sample_phased",
    "sampling_sigmas",
    "two_step",
]
