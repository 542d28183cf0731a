"""What every registered gradient op shares: it has no gradient of its own, and says so."""

from typing import Any

import torch


def no_second_derivative(library: torch.library.Library, name: str, op: str) -> None:
    """Makes a backward pass through ctm_fast::<name>, the gradient of `op`, a clear error.

    Without this, torch would return a gradient of a gradient without this op's share.
    """

    def refuse(ctx: Any, *gradients: Any) -> None:
        raise RuntimeError(
            f"{op}: compiled backends have first derivatives only; for a gradient of a gradient "
            "call it inside use_backend('reference')"
        )

    def save_nothing(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    torch.library.register_autograd(
        f"ctm_fast::{name}", refuse, setup_context=save_nothing, lib=library
    )
