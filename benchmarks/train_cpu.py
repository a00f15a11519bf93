"""A training step on this CPU: the plain loop against ours, in turns.

    python -m benchmarks.train_cpu

Plain: contiguous fp32 as the book has it. Ours: channels-last weights and crops, ReLU after pooling, malloc told to
keep freed memory, and bf16, which is what train.precision auto takes where the CPU has AMX. Prints crops per second of
each, the median of the rounds, and the ratio.
"""

import statistics
import subprocess
import sys

STEP = """
import sys, time
import torch
from lunaops.device import place_model
from lunaops.memory import keep_freed_memory
from lunaops.model import LunaModel
from lunaops.precision import autocast, chosen_precision

cpu = torch.device("cpu")
channels_last, pool_first, keep, bf16 = (flag == "1" for flag in sys.argv[1:5])
precision = "bf16" if bf16 else "fp32"
if keep:
    keep_freed_memory()
model = LunaModel(generator=torch.Generator().manual_seed(0))
if not pool_first:
    for block in (model.block1, model.block2, model.block3, model.block4):
        block.forward = lambda x, b=block: b.maxpool(torch.relu(b.conv2(torch.relu(b.conv1(x)))))
hu = torch.randint(-1000, 1000, (32, 1, 32, 48, 48)).float()
if channels_last:
    place_model(model, cpu)
    hu = hu.contiguous(memory_format=torch.channels_last_3d)
labels = torch.randint(0, 2, (32,))
optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
for step in range(6):
    if step == 2:
        started = time.perf_counter()
    optimizer.zero_grad()
    with autocast(precision, cpu):
        logits = model(hu)[0]
    torch.nn.functional.cross_entropy(logits.float(), labels).backward()
    optimizer.step()
print(4 * 32 / (time.perf_counter() - started), chosen_precision("auto", cpu))
"""
VARIANTS = {
    "plain": "0000",
    "+ channels last": "1000",
    "+ ReLU after pooling": "1100",
    "+ freed memory kept": "1110",
    "+ bf16": "1111",
}
ROUNDS = 3


def main() -> None:
    """Run the variants in turns, each in a process of its own."""
    rates: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for _ in range(ROUNDS):
        for name, flags in VARIANTS.items():
            done = subprocess.run([sys.executable, "-c", STEP, *flags], capture_output=True, text=True, check=True)
            rate, chosen = done.stdout.split()
            rates[name].append(float(rate))
    plain = statistics.median(rates["plain"])
    print(f"train.precision auto is {chosen} here\n")
    print("| training step | crops/s | times plain |\n|---|---|---|")
    for name, values in rates.items():
        print(f"| {name} | {statistics.median(values):.0f} | {statistics.median(values) / plain:.1f} |")


if __name__ == "__main__":
    main()
