"""Model files and the atomic, checksummed files under them."""

from .files import DamagedCheckpoint as DamagedCheckpoint
from .native import header as header
from .native import load as load
from .native import save as save
