"""Fine-tuning: training starts from a model on disk, and may leave the first blocks as they are."""

import logging
from pathlib import Path

from lunaops.errors import InputError
from lunaops.model import LunaModel, read_model, read_task
from lunaops.task import Task

logger = logging.getLogger(__name__)


def init_from(model: LunaModel, folder: Path, task: Task) -> None:
    """Give `model` the weights of the one in `folder`, in place; the log says which.

    The blocks fit crops of any size. The head fits only where the four poolings leave the same slices, rows and
    columns, and the classes are the `task`'s; elsewhere it stays as it was made. Raises InputError where the folder
    holds no model, or one with another number of channels.
    """
    start = read_model(folder)
    if start.channels != model.channels:
        raise InputError(
            f"{folder}: its first block has {start.channels} channels, model.channels is {model.channels}: "
            f"set model.channels to {start.channels}, or train.init_from to another model"
        )
    fits = start.pooled_size_irc == model.pooled_size_irc
    its_task = read_task(folder)
    keeps_head = fits and its_task == task.name
    weights = {name: w for name, w in start.state_dict().items() if keeps_head or not name.startswith("head_linear.")}
    model.load_state_dict(model.state_dict() | weights, strict=True)
    sizes = f"crops of {start.crop_size_irc}, these are {model.crop_size_irc}"
    why = sizes if not fits else f"model.task {its_task}, this is {task.name}"
    head = "and its head" if keeps_head else f"but a fresh head: it was made for {why}"
    logger.info("starts from %s: its blocks, %s", folder, head)


def freeze(model: LunaModel, trainable_blocks: int | None) -> None:
    """Leave only the head and the last `trainable_blocks` of the four blocks trainable; None or 4: everything.

    A frozen model's input normalisation is frozen too, its running statistics included: LunaModel.train() leaves it in
    eval mode, so that the frozen blocks go on to compute what they were trained for. What is frozen has
    requires_grad False; the optimiser is to get the rest.
    """
    if trainable_blocks is None or trainable_blocks == len(model.blocks):
        return
    assert 0 <= trainable_blocks < len(model.blocks)
    for module in (model.tail_batchnorm, *model.blocks[: len(model.blocks) - trainable_blocks]):
        module.requires_grad_(False)
    model.train(model.training)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    logger.info("trains the head and the last %d blocks: %d parameters", trainable_blocks, trained)
