"""Attention: values and gradients against float64, the three layouts, memory order, wrong use."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from ctm_fast.kernels import BackendError, attention, use_backend
from ctm_fast.kernels import attention as op
from ctm_fast.kernels._attention_triton import LAYOUTS, WIDEST, fits, memory_format
from ctm_fast.models.key_layouts import LAYOUTS as CHECKPOINTS
from tests.tolerance import assert_accurate

file = __import__("importlib").import_module("ctm_fast.kernels.attention")
