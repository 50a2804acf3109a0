"""The models of tf_keras.applications, with a head for five classes and inputs as small as each takes."""

from __future__ import annotations

import functools

import tf_keras

from tests.corpus.healthy import healthy, rows
from tests.corpus.subject import Subject

# The smallest side that a model takes, where that is not 32.
SIDES = {"InceptionResNetV2": 75, "InceptionV3": 75, "Xception": 71}

# What is random in each: dropout in the head, stochastic depth in the blocks, or nothing.
APPLICATIONS = {
    "ConvNeXtTiny": frozenset(),  # its stochastic depth has rate 0, so the constructor leaves it out
    "DenseNet121": frozenset(),
    "DenseNet169": frozenset(),
    "EfficientNetB0": frozenset({"dropout"}),
    "EfficientNetB1": frozenset({"dropout"}),
    "EfficientNetV2B0": frozenset({"dropout"}),
    "EfficientNetV2S": frozenset({"dropout"}),
    "InceptionResNetV2": frozenset(),
    "InceptionV3": frozenset(),
    "MobileNet": frozenset({"dropout"}),
    "MobileNetV2": frozenset(),
    "MobileNetV3Large": frozenset({"dropout"}),
    "MobileNetV3Small": frozenset({"dropout"}),
    "NASNetMobile": frozenset(),
    "RegNetX002": frozenset(),
    "RegNetY002": frozenset(),
    "ResNet101": frozenset(),
    "ResNet101V2": frozenset(),
    "ResNet50": frozenset(),
    "ResNet50V2": frozenset(),
    "ResNetRS50": frozenset({"dropout"}),
    "VGG16": frozenset(),
    "VGG19": frozenset(),
    "Xception": frozenset(),
}


def application(name: str) -> Subject:
    """Returns a model by the name of its constructor, with logits as outputs."""
    side = SIDES.get(name, 32)
    make = getattr(tf_keras.applications, name)
    model = make(weights=None, classes=5, input_shape=(side, side, 3), classifier_activation=None)
    draws = APPLICATIONS[name]
    return Subject(model, (100.0 * rows(8 if draws else 2, side, side, 3),), draws=draws)


for _name in APPLICATIONS:
    _fits = _name in ("MobileNetV2", "MobileNetV3Small")
    healthy(_name, "application", fits=_fits, is_large=True)(functools.partial(application, _name))


@healthy("ConvNeXt with stochastic depth", "application", eager=True, fits=False)
def convnext() -> Subject:
    """Keras's layer asks for the `len` of a tensor, so it raises a TypeError of its own when it is traced."""
    from tf_keras.src.applications import convnext  # the constructor that takes drop_path_rate is not exported

    model = convnext.ConvNeXt(
        depths=[1, 1, 2, 1],
        projection_dims=[8, 8, 8, 8],
        drop_path_rate=0.5,
        include_preprocessing=False,
        weights=None,
        classes=5,
        input_shape=(32, 32, 3),
        model_name="convnext",
    )
    for layer in model.layers:
        if isinstance(layer, convnext.LayerScale):  # 1e-6 at first, too small for a dropped block to be seen
            layer.gamma.assign(layer.gamma + 1.0)
    return Subject(model, (rows(8, 32, 32, 3),), draws=frozenset({"dropout"}))
