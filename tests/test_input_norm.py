import pytest
import torch
from torch import Tensor, nn

from lunaops.input_norm import InputNorm


def as_of_one(sums: Tensor) -> None:
    """What the sum over one process leaves."""


def as_of_two(sums: Tensor) -> None:
    """What the sum over two processes of the same samples leaves."""
    sums.mul_(2)


def pair(all_reduce: object) -> tuple[InputNorm, nn.BatchNorm3d]:
    ours, torchs = InputNorm(), nn.BatchNorm3d(1)
    for layer in (ours, torchs):
        nn.init.constant_(layer.weight, 1.5)
        nn.init.constant_(layer.bias, 0.25)
    ours.all_reduce = all_reduce
    return ours, torchs


def test_it_normalises_and_learns_as_torchs_own() -> None:
    ours, torchs = pair(as_of_one)
    for _ in range(2):
        hu = 300 * torch.randn(5, 1, 6, 7, 8) - 600
        for layer in (ours, torchs):
            layer(hu).pow(3).sum().backward()
        torch.testing.assert_close(ours(hu), torchs(hu), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.weight.grad, torchs.weight.grad, rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(ours.bias.grad, torchs.bias.grad, rtol=1e-3, atol=1e-2)
    assert ours.state_dict().keys() == torchs.state_dict().keys()
    for name, buffer in torchs.named_buffers():
        torch.testing.assert_close(dict(ours.named_buffers())[name], buffer, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.eval()(hu), torchs.eval()(hu))


def test_its_statistics_are_those_of_all_processes() -> None:
    ours, torchs = pair(as_of_two)
    hu = 300 * torch.randn(5, 1, 6, 7, 8) - 600
    torch.testing.assert_close(ours(hu), torchs(torch.cat([hu, hu]))[:5], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.running_var, torchs.running_var, rtol=1e-6, atol=0)


@pytest.mark.parametrize("all_reduce", [None, as_of_one])
def test_in_evaluation_it_uses_what_it_has_seen(all_reduce: object) -> None:
    ours, _ = pair(all_reduce)
    ours.eval()(torch.randn(2, 1, 2, 2, 2))
    assert (ours.running_mean.item(), ours.running_var.item(), ours.num_batches_tracked.item()) == (0, 1, 0)
