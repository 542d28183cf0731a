"""Networks: U-Nets of the DDPM++/NCSN++ and ADM families, and a projected discriminator."""

from .configs import ADMConfig as ADMConfig
from .configs import SongConfig as SongConfig
from .diff_augment import DiffAugment as DiffAugment
from .discriminator import Discriminator as Discriminator
from .dropout import replayed as replayed
from .dropout import shared_dropout as shared_dropout
from .feature_nets import BACKBONES as BACKBONES
from .feature_nets import AnyBackbone as AnyBackbone
from .feature_nets import RandomFeatures as RandomFeatures
from .feature_nets import TeacherEncoder as TeacherEncoder
from .feature_nets import Timm as Timm
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
