"""The only file that imports diffusers: what the scheduler, model and pipeline are built from."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the mixins' attributes are set at run time, so a checker cannot know them
    BaseOutput: Any
    ConfigMixin: Any
    DiffusionPipeline: Any
    ImagePipelineOutput: Any
    ModelMixin: Any
    SchedulerMixin: Any
    randn_tensor: Any
    register_to_config: Any
else:
    try:
        from diffusers import (
            ConfigMixin,
            DiffusionPipeline,
            ImagePipelineOutput,
            ModelMixin,
            SchedulerMixin,
        )
        from diffusers.configuration_utils import register_to_config
        from diffusers.utils import BaseOutput
        from diffusers.utils.torch_utils import randn_tensor
    except ImportError as error:
        raise ImportError(
            f"this door needs diffusers: pip install 'ctm_fast[diffusers]' ({error})"
        ) from error

__all__ = [
    "BaseOutput",
    "ConfigMixin",
    "DiffusionPipeline",
    "ImagePipelineOutput",
    "ModelMixin",
    "SchedulerMixin",
    "randn_tensor",
    "register_to_config",
]
