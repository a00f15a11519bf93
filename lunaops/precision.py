"""Which number format and algorithms the network computes with, and whether they can be trusted here."""

import logging
import os
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lunaops.params import Precision

logger = logging.getLogger(__name__)


def set_tf32(precision: Precision) -> None:
    """Allow or forbid that a GPU shortens the float32 numbers it multiplies; elsewhere nothing changes."""
    allowed = precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def set_determinism(wanted: bool) -> None:
    """Have torch choose algorithms that give the same bits each time, on one device.

    Warnings stay warnings: CUDA's max-pooling counts as undetermined because windows may overlap; ours do not.
    """
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what torch asks for; read at cuBLAS's first use
    torch.use_deterministic_algorithms(wanted, warn_only=True)
    torch.backends.cudnn.benchmark = not wanted


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    """The context in which the network's forward pass is computed."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


def no_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Operations compute in the format of their input; an exported graph gets no trace of it."""
    return torch.autocast(device.type, enabled=False) if torch.is_autocast_enabled(device.type) else nullcontext()


def chosen_precision(wanted: Literal["auto"] | Precision, device: torch.device) -> Precision:
    """`wanted`; "auto" is bf16 where the device multiplies such numbers itself, and quicker than fp32; else fp32.

    These are GPUs of compute capability 8.0 (Ampere) or newer and CPUs with AMX. Elsewhere bf16 is computed in steps.
    """
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp32"
    return "bf16" if device.type == "cpu" and torch.cpu.get_capabilities().get("amx_bf16") else "fp32"


def trusted_precision(model: nn.Module, hu: Tensor, wanted: Precision, tolerance: float) -> Precision:
    """`wanted`, if the logits of the crops `hu` (N, 1, I, R, C) are those in fp32 but for `tolerance` of their size.

    Sizes are Euclidean norms over the batch. Computed as in training, by the batch's own statistics: an untrained model
    without them gives scores of 0 and 1 in any precision. `model` stays as it is. Where they differ by more it is fp32,
    with a warning: low-precision 3-D convolutions are silently wrong on some library versions.
    """
    if wanted == "fp32":
        return wanted
    exact, quick = (_logits(model, hu, precision) for precision in ("fp32", wanted))
    difference = ((quick - exact).norm() / exact.norm()).item()
    if difference <= tolerance:
        logger.info("%s agrees with fp32: logits of %d crops differ by %.2g %%", wanted, len(hu), 100 * difference)
        return wanted
    logger.warning(
        "%s does not agree with fp32 here: logits of %d crops differ by %.2g %%, more than "
        "train.precision_tolerance %g: training in fp32",
        *(wanted, len(hu), 100 * difference, tolerance),
    )
    return "fp32"


def _logits(model: nn.Module, hu: Tensor, precision: Precision) -> Tensor:
    set_tf32(precision)
    with torch.inference_mode(), autocast(precision, hu.device):
        logits: Tensor = deepcopy(model).train()(hu)[0].float()
    return logits
