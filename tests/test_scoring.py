import numpy as np
import torch
from test_training import CPU, data, model_of

from lunaops.dataset import Batches
from lunaops.sampling import TableSampler
from lunaops.scoring import NOTHING, Scored, score_batches


def scored_of(model: torch.nn.Module) -> Scored:
    batches = Batches(data("val"), TableSampler(12, batch_size=5), num_workers=0, pin=False)
    return score_batches(model, batches, CPU)


def test_validation_changes_nothing() -> None:
    model = model_of()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    scored_of(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_scores_are_of_the_class_nodule_and_in_the_order_of_the_table() -> None:
    model = model_of().eval()
    model.head_linear.weight.data *= 1e-3  # scores that are not all 0 or 1
    scored = scored_of(model)
    with torch.inference_mode():
        wanted = model(data("val").__getitems__(range(12)).hu.float())[1][:, 1]
    assert scored.row.tolist() == list(range(12))
    np.testing.assert_allclose(scored.score, wanted, atol=1e-5)
    np.testing.assert_allclose(
        scored.loss, -np.log(np.where(scored.is_positive == 1, scored.score, 1 - scored.score)), rtol=1e-3
    )


def test_passes_follow_one_another() -> None:
    one = scored_of(model_of())
    two = NOTHING.followed_by(one).followed_by(one)
    assert two.row.tolist() == [*range(12), *range(12)]
    assert two.score.dtype == np.float32
