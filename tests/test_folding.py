import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from lunaops import folding
from lunaops.folding import folded_blocks
from lunaops.model import LunaBlock, LunaModel


@given(
    size=st.tuples(*[st.integers(4, 11)] * 3),
    channels=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3)),
    num=st.integers(0, 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_folded_blocks_are_the_blocks_forwards_and_backwards(
    size: tuple[int, int, int], channels: tuple[int, int, int], num: int, seed: int
) -> None:
    torch.manual_seed(seed)
    blocks = [LunaBlock(*channels[:2]).double(), LunaBlock(*channels[1:]).double()]
    weights = [weight for block in blocks for weight in block.parameters()]
    x = torch.randn(num, channels[0], *size, dtype=torch.float64, requires_grad=True)
    wanted = blocks[1](blocks[0](x))
    given_back = torch.randn_like(wanted)
    gradients = torch.autograd.grad(wanted, [x, *weights], given_back)
    folded = folded_blocks(blocks, x)
    torch.testing.assert_close(folded, wanted)
    torch.testing.assert_close(torch.autograd.grad(folded, [x, *weights], given_back), gradients)


def test_between_its_convolutions_nothing_is_laid_out_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    conv2d = F.conv2d
    monkeypatch.setattr(F, "conv2d", lambda x, *rest, **options: seen.append(x) or conv2d(x, *rest, **options))
    folded_blocks([LunaBlock(1, 2), LunaBlock(2, 4)], torch.randn(2, 1, 8, 8, 8))
    assert len(seen) == 4
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x in seen)


def test_a_model_that_folds_gives_what_one_gives_that_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    model = LunaModel((16, 32, 48), generator=torch.Generator().manual_seed(0))
    hu = 300 * torch.randn(2, 1, 16, 32, 48)
    results = []
    for pays in (False, True):
        monkeypatch.setattr(folding, "pays", lambda x, channels, pays=pays: pays)
        model.zero_grad()
        logits, _ = model(hu)
        logits.square().sum().backward()
        results.append((logits.detach(), [parameter.grad.clone() for parameter in model.parameters()]))
    torch.testing.assert_close(results[1][0], results[0][0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(results[1][1], results[0][1], rtol=1e-2, atol=1e-2)


def test_a_block_stays_in_the_format_of_autocast() -> None:
    blocks, x = [LunaBlock(1, 2)], torch.randn(2, 1, 8, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        quick = folded_blocks(blocks, x)
    assert quick.dtype == torch.bfloat16
    torch.testing.assert_close(quick.float(), folded_blocks(blocks, x), rtol=0.05, atol=0.05)


def test_a_cpu_does_not_fold() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert not folding.pays(torch.zeros(1, 1, 1, 1, 1), 8)
