"""Model files: reading every format that is known, writing ours, and what lies under both."""

from .files import DamagedCheckpoint as DamagedCheckpoint
from .hub import from_pretrained as from_pretrained
from .hub import hub_class as hub_class
from .hub import push_to_hub as push_to_hub
from .hub import save_pretrained as save_pretrained
from .loading import FORMATS as FORMATS
from .loading import load as load
from .loading import opened as opened
from .native import header as header
from .native import save as save
