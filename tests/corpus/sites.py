"""The places in healthy models where mutations are planted."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal

import tf_keras
from tf_keras import layers

from tests.corpus.models import HEALTHY
from tests.corpus.models.regularised import DropPath
from tests.corpus.subject import Subject
from trainloop.layer_paths import layer_paths

Mutate = Callable[[Any], Any]  # takes the layer, returns what stands in its place
Kind = Literal["dropout", "noise", "augmentation", "batch_norm", "recurrent", "attention"]


@dataclasses.dataclass(frozen=True)
class Site:
    """A layer of a healthy model.

    Attributes:
      host: The name of the healthy model.
      path: The layer's path in it.
      kind: What the layer is.
      is_large: Whether the model is a large one.
    """

    host: str
    path: str
    kind: Kind
    is_large: bool = False

    def __str__(self) -> str:
        return f"{self.path} of {self.host}"

    @property
    def is_container(self) -> bool:
        """Whether the layer stands in a functional or Sequential model, and no attribute holds it."""
        return HEALTHY[self.host].kind in ("application", "container", "recurrent", "regularised")

    def plant(self, mutate: Mutate) -> Subject:
        """Returns the host with something else in the layer's place, and every other random layer silenced."""
        subject = HEALTHY[self.host].build()
        if self.is_container:
            return self.of(subject, _rebuilt(subject.entry, self.path, mutate))
        *parents, last = self.path.split("/")
        holder = functools.reduce(_child, parents, subject.entry)
        layer = _child(holder, last)
        _silence(subject, layer)
        if isinstance(holder, dict):
            holder[last] = mutate(layer)
        else:
            setattr(holder, last, mutate(layer))
        return self.of(subject, subject.entry)

    def of(self, host: Subject, model: Any) -> Subject:
        """Returns the host as it is with another model, in which nothing but the layer draws."""
        draws = _DRAWS[self.kind]
        return dataclasses.replace(host, entry=model, models=(model,), trained=(model,), draws=draws)


_DRAWS: dict[Kind, frozenset[str]] = {
    "dropout": frozenset({"dropout"}),
    "recurrent": frozenset({"dropout"}),
    "attention": frozenset({"dropout"}),
    "noise": frozenset({"noise"}),
    "augmentation": frozenset({"augmentation"}),
    "batch_norm": frozenset(),
}

DROPOUT_SITES = (
    Site("Forwarding", "drop", "dropout"),
    Site("Silent", "drop", "dropout"),
    Site("Blocks", "blocks/1/drop", "dropout"),
    Site("Blocks", "heads/drop", "dropout"),
    Site("Deep", "inner/inner/inner/drop", "dropout"),
    Site("transformer", "encoders/0/drop_dense", "dropout"),
    Site("functional", "drop", "dropout"),
    Site("Sequential, built late", "drop", "dropout"),
    Site("MobileNetV3Small", "dropout", "dropout", is_large=True),
    Site("EfficientNetB0", "block4b_drop", "dropout", is_large=True),
    Site("ResNetRS50", "top_dropout", "dropout", is_large=True),
)
NORM_SITES = (
    Site("Forwarding", "norm", "batch_norm"),
    Site("Silent", "norm", "batch_norm"),
    Site("Blocks", "blocks/0/norm", "batch_norm"),
    Site("functional", "norm", "batch_norm"),
    Site("MobileNetV2", "bn_Conv1", "batch_norm", is_large=True),
    Site("ResNet50", "conv2_block1_1_bn", "batch_norm", is_large=True),
    Site("DenseNet121", "conv3_block2_0_bn", "batch_norm", is_large=True),
    Site("EfficientNetB0", "block3a_bn", "batch_norm", is_large=True),
)
OTHER_SITES = (
    Site("RandomFlip", "random_flip", "augmentation"),
    Site("RandomRotation", "random_rotation", "augmentation"),
    Site("GaussianNoise", "gaussian_noise", "noise"),
    Site("AlphaDropout", "alpha_dropout", "dropout"),
    Site("SpatialDropout2D", "spatial_dropout2d", "dropout"),
    Site("stochastic depth", "drop_path", "dropout"),
    Site("LSTM with dropout", "lstm", "recurrent"),
    Site("GRU with recurrent dropout", "gru", "recurrent"),
    Site("transformer", "encoders/1/attend", "attention"),
)
SITES = (*DROPOUT_SITES, *NORM_SITES, *OTHER_SITES)


def _child(holder: Any, name: str) -> Any:
    if name.isdigit():
        return holder[int(name)]
    return holder[name] if isinstance(holder, dict) else getattr(holder, name)


def _rebuilt(model: Any, path: str, mutate: Mutate) -> Any:
    """Returns a copy of a functional or Sequential model, made layer by layer."""
    chosen = layer_paths(model)[path]

    def copy(layer: Any) -> Any:
        made = layer.__class__.from_config(layer.get_config())
        _set_rate(made, 0.5 if layer is chosen else 0.0)
        if layer is chosen:
            return mutate(made)
        return made

    return tf_keras.models.clone_model(model, clone_function=copy)


def _silence(subject: Subject, kept: Any) -> None:
    """Takes the rate of every dropout but one, so that what that one does is seen in the outputs."""
    for layer in subject.layers():
        if layer is not kept:
            _set_rate(layer, 0.0)


def _set_rate(layer: Any, rate: float) -> None:
    if isinstance(layer, (layers.Dropout, DropPath)):
        layer.rate = rate
    if isinstance(layer, layers.MultiHeadAttention):
        layer._dropout = rate  # it makes its dropout layer when it is built
