import dataclasses
import json

import pytest

from edge.errors import EdgeError
from train.config import NETWORKS, ModelConfig, TrainConfig
from train.data.sampler import numbers_by_class
from train.networks.network import build
from train.recipes import RECIPES


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_survive_json(name):
    assert TrainConfig.from_dict(json.loads(json.dumps(RECIPES[name].to_dict()))) == RECIPES[name]


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_are_known(name):
    build(ModelConfig(name), 2)


@pytest.mark.parametrize(
    "values",
    [{"network": "s5"}, {"sizes_px": ()}, {"sizes_px": (16,)}, {"epochs": 0}, {"batch_size": 1}, {"lr": 0.0},
     {"power": 1.1}, {"ema_decay": 1.0}, {"resize": "pad"}, {"seed": -1}, {"lr": float("nan")}, {"noise_std": (0.1,)},
     {"class_weights": ("a:0",)}, {"class_weights": ("a",)}, {"margin_type": "arcface"}, {"distill_head": True},
     {"sampler": "balance"}, {"targets": ("a:1",)}],
)
def test_values_out_of_range(values):
    name = "targets" if values == {"sampler": "balance"} else next(iter(values))
    with pytest.raises(ValueError, match=f"^{name}: got .*, expected"):
        TrainConfig().changed(**values)


def test_unknown_and_missing_fields():
    values = TrainConfig().to_dict()
    with pytest.raises(ValueError, match="config: got .*, expected"):
        TrainConfig.from_dict({**values, "more": {}})
    with pytest.raises(ValueError, match="config optim: got .*, expected"):
        TrainConfig.from_dict({**values, "optim": {}})
    with pytest.raises(ValueError, match="no such field"):
        TrainConfig().changed(learning_rate=1.0)


def test_models_with_fields_of_earlier_versions_are_read_where_these_did_nothing():
    values = TrainConfig().to_dict()
    assert TrainConfig.from_dict({**values, "optim": {**values["optim"], "swa_start": 1.0}}) == TrainConfig()
    with pytest.raises(ValueError, match="config optim: got swa_start 0.5, expected 1.0: others are of an earlier"):
        TrainConfig.from_dict({**values, "optim": {**values["optim"], "swa_start": 0.5}})


def test_every_field_says_what_it_is_and_has_one_name():
    sections = [getattr(TrainConfig(), section.name) for section in dataclasses.fields(TrainConfig)]
    names = [field.name for section in sections for field in dataclasses.fields(section)]
    assert len(names) == len(set(names)) == len(TrainConfig().flat())
    assert all(field.metadata["help"] for section in sections for field in dataclasses.fields(section))


def test_numbers_by_class():
    assert numbers_by_class(("a:1", "b:c:2.5"), ["a", "b:c"], name="x") == {"a": 1, "b:c": 2.5}
    with pytest.raises(EdgeError, match="x: got numbers for a, expected one for each of the data's a, b"):
        numbers_by_class(("a:1",), ["a", "b"], name="x")
