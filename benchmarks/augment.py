"""Augmentation of a batch on this CPU: a plain implementation against ours, in turns.

    python -m benchmarks.augment

Plain: crop by crop, as the book has it: affine_grid and a 3-D grid_sample in float32, and noise of the crop's own.
Ours: the whole batch at once. Prints the median milliseconds for a batch of 32 crops of 32 x 48 x 48, and the share of
a training step on the same batch: processor time of one thread, which other work on the machine disturbs least.
"""

import math
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from lunaops.augment import apply_augmentation, draw_augmentation
from lunaops.device import place_model
from lunaops.memory import keep_freed_memory
from lunaops.model import LunaModel
from lunaops.params import AugmentParams

SHAPE = (32, 1, 32, 48, 48)
SPACING_IRC = torch.tensor([1.25, 0.7, 0.7]).repeat(SHAPE[0], 1)
ROUNDS = 5
OFF = AugmentParams(flip=False, offset_mm=0, scale=0, rotate_degrees=0, noise_hu=0)
FLIP = OFF.model_copy(update={"flip": True})
MOVED = FLIP.model_copy(update={"offset_mm": 2.0, "scale": 0.2, "rotate_degrees": 180.0})
NOISY = MOVED.model_copy(update={"noise_hu": 25.0})


def plain(crops: Tensor, params: AugmentParams) -> Tensor:
    """The book's getCtAugmentedCandidate for each crop, then what collating does."""
    if params == OFF:
        return torch.stack([crop.float() for crop in crops])
    done = []
    for crop in crops:
        transform = torch.eye(4)
        for axis in range(3):
            if params.flip and torch.rand(()) < 0.5:
                transform[axis, axis] *= -1
            transform[axis, axis] *= 1 + params.scale * (2 * torch.rand(()) - 1)
            transform[axis, 3] = 0.1 * (2 * torch.rand(()) - 1) if params.offset_mm else 0.0
        if params.rotate_degrees:
            angle = float(torch.rand(())) * 2 * math.pi
            sin, cos = math.sin(angle), math.cos(angle)
            transform @= torch.tensor([[cos, -sin, 0, 0], [sin, cos, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
        hu = crop[None].float()
        grid = F.affine_grid(transform[None, :3], list(hu.shape), align_corners=False)
        moved = F.grid_sample(hu, grid, padding_mode="border", align_corners=False)
        done.append(moved[0] + params.noise_hu * torch.randn(moved.shape[1:]) if params.noise_hu else moved[0])
    return torch.stack(done)


def ours(crops: Tensor, params: AugmentParams) -> Tensor:
    """As training does it."""
    drawn = draw_augmentation(len(crops), params, torch.Generator().manual_seed(0))
    return apply_augmentation(crops, drawn, SPACING_IRC, pad_hu=-1000).float()


def training_step() -> Callable[[], object]:
    """Forward, backward and SGD step of the model on such a batch."""
    model = LunaModel(generator=torch.Generator().manual_seed(0))
    place_model(model, torch.device("cpu"))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    hu = torch.randint(-1000, 1000, SHAPE).float()
    labels = torch.randint(0, 2, SHAPE[:1])

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(hu)[0], labels).backward()
        optimizer.step()

    return step


def main() -> None:
    """Print a row for each choice of parameters."""
    keep_freed_memory()
    torch.set_num_threads(1)
    crops = torch.randint(-1000, 1000, SHAPE, dtype=torch.int16)
    choices = {
        "off: to float32 only": OFF,
        "flip (the default)": FLIP,
        "flip, offset, scale, rotation": MOVED,
        "+ noise": NOISY,
    }
    sides: dict[tuple[str, str], Callable[[], object]] = {("step", ""): training_step()}
    for name, params in choices.items():
        sides["ours", name] = partial(ours, crops, params)
        sides["plain", name] = partial(plain, crops, params)
    times: dict[tuple[str, str], list[float]] = {side: [] for side in sides}
    for _ in range(ROUNDS):
        for side, call in sides.items():
            started = time.thread_time()
            call()
            times[side].append(time.thread_time() - started)
    ms = {side: 1000 * statistics.median(values) for side, values in times.items()}
    step = ms["step", ""]
    print(f"A training step: {step:.0f} ms\n")
    print("| augment | plain ms | ours ms | times plain | ours, share of a step |\n|---|---|---|---|---|")
    for name in choices:
        mine, its = ms["ours", name], ms["plain", name]
        print(f"| {name} | {its:.0f} | {mine:.0f} | {its / mine:.1f} | {100 * mine / step:.0f} % |")


if __name__ == "__main__":
    main()
