"""What a training run will cost, before it is started."""

from .calls import Calls, calls_of
from .flops import network_flops, parameters
from .memory import Memory, Networks, memory_of
from .plan import Plan
from .rates import Rate, rates
from .work import step_flops

__all__ = [
    "Calls", "Memory", "Networks", "Plan", "Rate", "calls_of", "memory_of", "network_flops",
    "parameters", "rates", "step_flops",
]  # fmt: skip
