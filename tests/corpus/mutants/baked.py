"""A value of `training` baked into the graph of a functional model, where it survives copies and files."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import tf_keras
from tf_keras import layers

from tests.corpus.healthy import HEALTHY, rows
from tests.corpus.models.containers import DROPS, ROWS, WIDTH, functional_model, saved_and_loaded
from tests.corpus.mutation import OFF, ON, Mutant, plant, planting
from tests.corpus.sites import Site
from tests.corpus.subject import Subject
from trainloop.layer_paths import layer_paths


def baked(model: Any, path: str, value: bool) -> Any:
    """Returns a functional model with `training=` added to the call of one of its layers, others' dropout silenced."""
    config = model.get_config()
    name = layer_paths(model)[path].name
    for layer in config["layers"]:
        if layer["name"] == name:
            for node in layer["inbound_nodes"]:
                for argument in node:
                    argument[3]["training"] = value
        if layer["config"].get("rate"):
            layer["config"]["rate"] = 0.5 if layer["name"] == name else 0.0
    return type(model).from_config(config)


SITES = (
    Site("functional", "drop", "dropout"),
    Site("functional", "norm", "batch_norm"),
    Site("AlphaDropout", "alpha_dropout", "dropout"),
    Site("GaussianNoise", "gaussian_noise", "noise"),
    Site("nested three deep", "middle", "dropout"),
    Site("MobileNetV3Small", "dropout", "dropout", is_large=True),
    Site("EfficientNetB0", "block6c_drop", "dropout", is_large=True),
    Site("EfficientNetV2B0", "block2b_expand_bn", "batch_norm", is_large=True),
    Site("MobileNetV2", "Conv_1_bn", "batch_norm", is_large=True),
    Site("InceptionV3", "batch_normalization_17", "batch_norm", is_large=True),
    Site("Xception", "block3_sepconv1_bn", "batch_norm", is_large=True),
    Site("NASNetMobile", "stem_bn1", "batch_norm", is_large=True),
    Site("RegNetX002", "regnetx002_Stage_1_XBlock_0_conv_1x1_1_bn", "batch_norm", is_large=True),
)


def _copied(model: Any) -> Any:
    return type(model).from_config(model.get_config())


ROUND_TRIPS: dict[str, Callable[[Any], Any]] = {
    "clone_model": tf_keras.models.clone_model,
    "from_config": _copied,
    ".keras": functools.partial(saved_and_loaded, suffix=".keras"),
    ".h5": functools.partial(saved_and_loaded, suffix=".h5"),
    "SavedModel": functools.partial(saved_and_loaded, suffix=""),
}


def _build(site: Site, value: bool, then: Callable[[Any], Any] | None = None) -> Subject:
    subject = HEALTHY[site.host].build()
    model = baked(subject.entry, site.path, value)
    return site.of(subject, model if then is None else then(model))


for _value in (False, True):
    _exposed = ON if _value else OFF
    for _site in SITES:
        plant(
            Mutant(
                f"training={_value} baked into a functional graph",
                str(_site),
                functools.partial(_build, _site, _value),
                _site.path,
                _exposed,
                contradicts=True,
                is_large=_site.is_large,
            )
        )
    for _site in SITES[:2]:
        for _name, _then in ROUND_TRIPS.items():
            plant(
                Mutant(
                    f"training={_value} baked, then {_name}",
                    str(_site),
                    functools.partial(_build, _site, _value, _then),
                    _site.path,
                    _exposed,
                    contradicts=True,
                )
            )


@planting("a sub-model baked with training=False", "functional in functional", "tower", OFF, contradicts=True)
def submodel() -> Subject:
    tower, inputs = functional_model(), layers.Input([WIDTH])
    tower._name = "tower"
    model = tf_keras.Model(inputs, layers.Dense(2)(tower(inputs, training=False)))
    return Subject(model, (rows(ROWS, WIDTH),), draws=DROPS)


@planting(
    "a sub-model baked with training=False", "MobileNetV2 under a head", "mobilenetv2_1.00_32", OFF, contradicts=True
)
def application() -> Subject:
    base = tf_keras.applications.MobileNetV2(weights=None, include_top=False, input_shape=(32, 32, 3), pooling="avg")
    inputs = layers.Input([32, 32, 3])
    model = tf_keras.Model(inputs, layers.Dense(2)(base(inputs, training=False)))
    return Subject(model, (rows(2, 32, 32, 3),))
