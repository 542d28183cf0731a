"""Real images by name, folder or archive, and the order in which training reads them."""

from .cifar import CIFAR as CIFAR
from .dataset import ArrayDataset as ArrayDataset
from .dataset import Flipped as Flipped
from .dataset import ImageDataset as ImageDataset
from .digits import Digits as Digits
from .edm_zip import EDMZip as EDMZip
from .image_folder import ImageFolder as ImageFolder
from .npz import Npz as Npz
from .opening import DATASETS as DATASETS
from .opening import open as open
from .order import batch_indices as batch_indices
from .parquet import Parquet as Parquet
from .photo_patches import PhotoPatches as PhotoPatches
from .surveying import survey as survey
