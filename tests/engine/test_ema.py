import torch
from torch import nn

from resdet.engine.ema import EMA


def test_averages_follow_the_recurrence_buffers_included():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    ema = EMA(model, 0.9)
    expected = {k: v.clone().double() for k, v in model.state_dict().items()}
    for step in range(30):
        model(torch.randn(8, 3))
        with torch.no_grad():
            model[0].weight.add_(0.1)
        ema.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            expected[name] = decay * expected[name] + (1 - decay) * value.double()
    for name in ("0.weight", "0.bias", "1.running_mean", "1.running_var"):
        average = ema.averages[name].double()
        torch.testing.assert_close(average, expected[name], rtol=1e-5, atol=1e-6)
    assert ema.averages["1.num_batches_tracked"] == 30


def test_the_model_gets_its_own_weights_back_exactly():
    model = nn.Linear(2, 2)
    ema = EMA(model, 0.5)
    with torch.no_grad():
        model.weight.fill_(1 / 3)
    own = {k: v.clone() for k, v in model.state_dict().items()}
    averages = {k: v.clone() for k, v in ema.averages.items()}
    with ema.in_model():
        assert torch.equal(model.weight, averages["weight"])
    for name, value in model.state_dict().items():
        assert torch.equal(value, own[name])
        assert torch.equal(ema.averages[name], averages[name])


def test_loaded_averages_go_on():
    model = nn.Linear(2, 2)
    first, second = EMA(model, 0.5), EMA(model, 0.5)
    with torch.no_grad():
        model.weight.fill_(2.0)
    first.update(5)
    second.load({k: v.clone() for k, v in first.averages.items()})
    first.update(6)
    second.update(6)
    assert torch.equal(first.averages["weight"], second.averages["weight"])
