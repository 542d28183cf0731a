"""Networks: U-Nets of the DDPM++/NCSN++ and ADM families, with and without a destination."""

from .configs import ADMConfig as ADMConfig
from .configs import SongConfig as SongConfig
from .dropout import replayed as replayed
from .dropout import shared_dropout as shared_dropout
from .presets import PRESETS as PRESETS
from .presets import build as build
from .presets import config_from_json as config_from_json
from .presets import config_to_json as config_to_json
from .presets import net_from_config as net_from_config
from .presets import net_from_json as net_from_json
from .surgery import consistency_from as consistency_from
from .surgery import student_from as student_from
from .unet import UNet as UNet
from .unet_adm import ADMUNet as ADMUNet
from .unet_edm import SongUNet as SongUNet
