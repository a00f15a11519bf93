"""Which number format the network computes in, and whether it can be trusted here."""

import logging
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from lunaops.params import Precision

logger = logging.getLogger(__name__)


def set_tf32(precision: Precision) -> None:
    """Allow or forbid that a GPU shortens the float32 numbers it multiplies; elsewhere nothing changes."""
    allowed = precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    """The context in which the network's forward pass is computed."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


def trusted_precision(model: nn.Module, hu: Tensor, wanted: Precision, tolerance: float) -> Precision:
    """`wanted`, if the scores of the crops `hu` (N, 1, I, R, C) differ by at most `tolerance` from those in fp32.

    Else fp32, with a warning: low-precision 3-D convolutions are silently wrong on some library versions.
    """
    if wanted == "fp32":
        return wanted
    exact, quick = (_scores(model, hu, precision) for precision in ("fp32", wanted))
    difference = (exact - quick).abs().max().item()
    if difference <= tolerance:
        logger.info("%s agrees with fp32: scores of %d crops differ by at most %.2g", wanted, len(hu), difference)
        return wanted
    logger.warning(
        "%s does not agree with fp32 here: scores of %d crops differ by up to %.2g, more than "
        "train.precision_tolerance %g: training in fp32",
        *(wanted, len(hu), difference, tolerance),
    )
    return "fp32"


def _scores(model: nn.Module, hu: Tensor, precision: Precision) -> Tensor:
    set_tf32(precision)
    was_training = model.training
    model.eval()
    with torch.inference_mode(), autocast(precision, hu.device):
        scores: Tensor = model(hu)[1].float()
    model.train(was_training)
    return scores
