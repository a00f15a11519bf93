import pytest
import torch
from torch import Tensor, nn

from lunaops.model import LunaModel
from lunaops.precision import chosen_precision, trusted_precision

CPU = torch.device("cpu")


@pytest.mark.parametrize("wanted", ["fp32", "tf32", "bf16"])
def test_a_named_precision_is_taken_as_named(wanted):
    assert chosen_precision(wanted, CPU) == wanted


@pytest.mark.parametrize(
    ("capabilities", "chosen"), [({"amx_bf16": True}, "bf16"), ({"amx_bf16": False}, "fp32"), ({}, "fp32")]
)
def test_auto_is_bf16_on_a_cpu_that_multiplies_it(monkeypatch, capabilities, chosen):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert chosen_precision("auto", CPU) == chosen


@pytest.mark.parametrize(("capability", "chosen"), [((9, 0), "bf16"), ((8, 0), "bf16"), ((7, 5), "fp32")])
def test_auto_is_bf16_on_gpus_since_ampere(monkeypatch, capability, chosen):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert chosen_precision("auto", torch.device("cuda:1")) == chosen


def test_auto_is_fp32_on_other_devices():
    assert chosen_precision("auto", torch.device("mps")) == "fp32"


class Unsteady(nn.Module):
    """A logit that bf16 changes by half of its size: its 8 bits do not tell 257 from 258."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[1.0]]))

    def forward(self, hu: Tensor) -> tuple[Tensor, Tensor]:
        logits = nn.functional.linear(hu.flatten(1)[:, :1] + 257.0, self.weight) - 255.0
        return logits, logits.sigmoid()


def test_a_precision_that_changes_the_logits_is_refused_with_a_warning(caplog):
    hu = torch.zeros(2, 1, 16, 16, 16)
    assert trusted_precision(Unsteady(), hu, "bf16", 0.05) == "fp32"
    assert "bf16 does not agree with fp32 here: logits of 2 crops differ by 50 %" in caplog.text
    assert trusted_precision(Unsteady(), hu, "bf16", 0.6) == "bf16"
    assert trusted_precision(Unsteady(), hu, "fp32", 1e-9) == "fp32"


def test_a_sound_precision_is_kept_and_the_check_changes_nothing():
    model = LunaModel((16, 16, 16), generator=torch.Generator().manual_seed(0)).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    hu = torch.randint(-1000, 400, (4, 1, 16, 16, 16), generator=torch.Generator().manual_seed(0)).float()
    assert trusted_precision(model, hu, "bf16", 0.05) == "bf16"
    assert not model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_convolution_that_is_a_little_wrong_in_low_precision_shows_in_an_untrained_model(monkeypatch):
    model = LunaModel((16, 16, 16), generator=torch.Generator().manual_seed(0))
    hu = torch.randint(-1000, 400, (4, 1, 16, 16, 16), generator=torch.Generator().manual_seed(0)).float()
    sound = nn.Conv3d.forward

    def wrong(self: nn.Conv3d, x: Tensor) -> Tensor:
        scale = 0.9 if torch.is_autocast_enabled("cpu") else 1.0
        return sound(self, x) * scale

    monkeypatch.setattr(nn.Conv3d, "forward", wrong)
    assert trusted_precision(model, hu, "bf16", 0.05) == "fp32"
