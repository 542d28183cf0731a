"""The table of sampling methods."""

from ..registry import Registry

SAMPLERS = Registry(
    "sampling method",
    {
        "exact": "ctm_fast.sampler.gamma:sample_exact",
        "gamma": "ctm_fast.sampler.gamma:sample_gamma",
        "cm_multistep": "ctm_fast.sampler.multistep:sample_cm_multistep",
        "onestep": "ctm_fast.sampler.multistep:sample_onestep",
        "jumps": "ctm_fast.sampler.jumps:sample_jumps",
        "phased": "ctm_fast.sampler.phased:sample_phased",
        "heun": "ctm_fast.sampler.ode:sample_heun",
        "euler": "ctm_fast.sampler.ode:sample_euler",
        "churn": "ctm_fast.sampler.ode:sample_churn",
    },
)

# The first group calls model.jump, the second model itself, which must then denoise; "phased" calls
# a consistency model itself.
JUMP_METHODS = ("exact", "gamma", "cm_multistep", "onestep", "jumps")
PHASED = "phased"
ODE_METHODS = ("heun", "euler", "churn")
METHODS = (*JUMP_METHODS, *ODE_METHODS, PHASED)

CHURN = ("S_churn", "S_min", "S_max", "S_noise")
OWN = {  # options that the functions of a method take
    "gamma": ("gamma",),
    "jumps": ("landings",),
    "churn": CHURN,
    PHASED: ("eta",),
    "cm_multistep": ("renoise",),
}
