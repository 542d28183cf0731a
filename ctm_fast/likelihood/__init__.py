"""Likelihood: exact by the probability-flow ODE, bounded by the ELBO, and a Gaussian baseline."""

from .bound import elbo
from .dequantise import DEQUANTISATIONS, bits, dequantised
from .divergence import EXACT_DIMS, TRACES, traced
from .flow import Flow, FlowResult, log_likelihood
from .gaussian import GaussianFit
from .per_dim import RESIDUALS, bits_per_dim

__all__ = [
    "DEQUANTISATIONS",
    "EXACT_DIMS",
    "RESIDUALS",
    "TRACES",
    "Flow",
    "FlowResult",
    "GaussianFit",
    "bits",
    "bits_per_dim",
    "dequantised",
    "elbo",
    "log_likelihood",
    "traced",
]
