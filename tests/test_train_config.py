import dataclasses

import pytest

from train.config import RECIPES, TrainConfig
from train.mobileone import MobileOne


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_survive_json(name):
    import json

    assert TrainConfig.from_dict(json.loads(json.dumps(RECIPES[name].to_dict()))) == RECIPES[name]


@pytest.mark.parametrize("variant", ["s0", "s4"])
def test_variants_are_known_to_the_network(variant):
    MobileOne(TrainConfig(variant=variant).variant, num_classes=2)


@pytest.mark.parametrize(
    "values",
    [{"variant": "s5"}, {"sizes_px": ()}, {"sizes_px": (16,)}, {"epochs": 0}, {"batch_size": 1}, {"lr": 0.0},
     {"class_power": 1.1}, {"ema_decay": 1.0}, {"resize": "pad"}, {"seed": -1}, {"lr": float("nan")}],
)
def test_values_out_of_range(values):
    with pytest.raises(ValueError, match=f"{next(iter(values))}: got .*, expected"):
        TrainConfig(**values)


def test_unknown_and_missing_fields():
    values = TrainConfig().to_dict()
    with pytest.raises(ValueError, match="config: got"):
        TrainConfig.from_dict({**values, "momentum": 0.9})
    del values["lr"]
    with pytest.raises(ValueError, match="config: got"):
        TrainConfig.from_dict(values)


def test_every_field_says_what_it_is():
    assert all(field.metadata["help"] for field in dataclasses.fields(TrainConfig))
