"""Training: one loop for every objective, for one process and for many."""

from .accumulation import OutOfMemory as OutOfMemory
from .alarms import Alarmed as Alarmed
from .config import TrainConfig as TrainConfig
from .distributed import World as World
from .ema import EMA as EMA
from .ema import HalfLife as HalfLife
from .ema import Rate as Rate
from .health import NonFiniteLoss as NonFiniteLoss
from .trainer import Summary as Summary
from .trainer import Trainer as Trainer
