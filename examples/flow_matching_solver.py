"""facebookresearch/flow_matching: two changed lines.

from ctm_fast.integrations.flow_matching import FlowSolver       # new
...
solver = FlowSolver(velocity_model)                              # instead of ODESolver
images = solver.sample(x_init=x_0, step_size=0.05, method="midpoint", label=label)

python examples/flow_matching_solver.py
"""

import torch

from ctm_fast.integrations.flow_matching import FlowSolver


# Velocity of the straight flow from N(0, 1) at t = 0 to N(mean, 0.1^2) at t = 1.
def velocity_model(x, t, mean):
    spread = ((1 - t) ** 2 + (0.1 * t) ** 2).sqrt()
    rate = (0.01 * t - (1 - t)) / spread**2
    return mean + rate * (x - t * mean)


# An average velocity (MeanFlow) goes the same way in one call: u = (x_r - x_t)/(r - t).
def average_velocity(x, t, r, mean):
    spread_t, spread_r = (((1 - s) ** 2 + (0.1 * s) ** 2).sqrt() for s in (t, r))
    return (r * mean + spread_r / spread_t * (x - t * mean) - x) / (r - t)


x_init = torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(0))

images = FlowSolver(velocity_model).sample(x_init, step_size=0.05, method="midpoint", mean=0.5)
print(f"20 steps: {tuple(images.shape)}, mean {images.mean():.2f}, spread {images.std():.2f}")

images = FlowSolver(average_velocity, kind="average_velocity").sample(x_init, mean=0.5)
print(f"1 jump: {tuple(images.shape)}, mean {images.mean():.2f}, spread {images.std():.2f}")
