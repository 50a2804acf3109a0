"""`load_weights`: what of another run's weights fits into a model, and what does not."""

import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from tf_keras import layers

from trainloop import AtEnd, Checkpointing, Trainer, WeightAveraging, data, load_weights
from trainloop.manifest import CheckpointDamaged

X = np.random.default_rng(0).normal(size=[16, 4]).astype("float32")
Y = X.sum(axis=1, keepdims=True)


def net(*heads: layers.Layer) -> tf_keras.Model:
    base = tf_keras.Sequential([layers.Dense(6), layers.BatchNormalization()], name="base")
    return tf_keras.Sequential([tf_keras.Input([4]), base, *heads])


def train(workdir: pathlib.Path, model: Any, *callbacks: Any, **options: Any) -> Trainer:
    trainer = Trainer(
        model,
        **{"optimizer": "adam", "loss": "mse", "workdir": workdir, "default_callbacks": False, "run_eagerly": True}
        | options,
        callbacks=[*callbacks, Checkpointing(AtEnd())],
    )
    trainer.restore_or_initialize()
    trainer.fit(data.from_arrays((X, Y), batch_size=8), steps=trainer.step + 2)
    return trainer


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trainer]:
    """A run that has been trained twice, so that it has two checkpoints; Keras has made up other names in it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        workdir = tmp_path_factory.mktemp("other")
        train(workdir, net(layers.Dense(1, name="head")))
        yield train(workdir, net(layers.Dense(1, name="head")))


def values(model: Any) -> list[np.ndarray]:
    return [variable.numpy() for variable in model.variables]


def are_equal(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_the_weights_are_taken_and_nothing_else(other: Trainer, tmp_path: pathlib.Path) -> None:
    mine = Trainer(net(layers.Dense(1)), "adam", loss="mse", workdir=tmp_path / "mine")
    loaded = load_weights(mine.model, other.workdir)
    assert are_equal(values(mine.model), values(other.model))
    assert (len(loaded.taken), loaded.left, loaded.unused, loaded.averaged) == (8, (), (), False)
    assert mine.step == 0
    assert mine.restore_or_initialize() == 0
    assert str(loaded) == f"8 weights taken from {other.checkpoints.path(4)}"


@pytest.mark.parametrize("place", ["a step", "a directory"])
def test_a_checkpoint_may_be_named(other: Trainer, place: str) -> None:
    model = net(layers.Dense(1))
    if place == "a step":
        load_weights(model, str(other.workdir), 2)
    else:
        load_weights(model, other.checkpoints.path(2))
    saved = tf.train.load_variable(
        str(other.checkpoints.path(2) / "state"), "model/layer_with_weights-1/kernel/.ATTRIBUTES/VARIABLE_VALUE"
    )
    np.testing.assert_array_equal(model.layers[1].kernel, saved)
    assert not are_equal(values(model), values(other.model))


def test_another_head_is_refused_by_name_and_nothing_changes(other: Trainer) -> None:
    model = net(layers.Dense(3, name="classes"))
    before = values(model)
    message = (
        f"load_weights: {other.checkpoints.path(4)} does not fit model=: layer_with_weights-1/kernel (classes/kernel), "
        "shape (6, 3): saved with the shape (6, 1)"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}.* take what fits with strict=False$"):
        load_weights(model, other.workdir)
    assert are_equal(values(model), before)


def test_what_fits_can_be_taken_alone(other: Trainer) -> None:
    model = net(layers.Dense(3, name="classes"))
    head = values(model.layers[-1])
    loaded = load_weights(model, other.workdir, strict=False)
    assert are_equal(values(model.layers[0]), values(other.model.layers[0]))
    assert are_equal(values(model.layers[-1]), head)
    assert len(loaded.taken) == 6
    assert [each.split(" ")[0] for each in loaded.left] == ["layer_with_weights-1/kernel", "layer_with_weights-1/bias"]
    assert loaded.unused == (
        "layer_with_weights-1/kernel, shape (6, 1)",
        "layer_with_weights-1/bias, shape (1,)",
    )
    assert "  left as it was: layer_with_weights-1/kernel (classes/kernel), shape (6, 3): saved" in str(loaded)
    assert "  saved and not used: layer_with_weights-1/bias, shape (1,)" in str(loaded)


def test_a_layer_that_was_put_between_names_what_is_near(other: Trainer) -> None:
    model = net(layers.Dense(5, name="between"), layers.Dense(1, name="head"))
    loaded = load_weights(model, other.workdir, strict=False)
    assert (
        "layer_with_weights-2/bias (head/bias), shape (1,): nothing was saved there; the nearest of that shape "
        "that was saved is layer_with_weights-1/bias"
    ) in loaded.left


@pytest.mark.parametrize(
    ("model", "options", "error", "message"),
    [
        (lambda: tf_keras.Sequential([layers.Dense(1)]), {}, ValueError, "model= has no weights yet; call it"),
        (lambda: net(layers.Dense(1)), {"which": 3}, FileNotFoundError, "there is no checkpoint 3; .* holds 2, 4"),
        (
            lambda: net(layers.Dense(1)),
            {"which": "best"},
            ValueError,
            "no checkpoint holds a value of 'eval/loss', so none",
        ),
        (lambda: net(layers.Dense(1)), {"which": "newest"}, ValueError, "'newest' is unknown; it must be 'latest'"),
        (lambda: net(layers.Dense(1)), {"averaged": True}, ValueError, "averaged=True, and .* holds no average"),
        (
            lambda: tf_keras.Sequential([tf_keras.Input([3]), layers.Dense(2)]),
            {"strict": False},
            ValueError,
            r".* does not fit model=: layer_with_weights-0/kernel \(dense\w*/kernel\), .* and 5 more\. Nothing fits$",
        ),
    ],
)
def test_what_cannot_be_loaded_is_said(
    other: Trainer, model: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^load_weights: ({message})"):
        load_weights(model(), other.workdir, **options)


def test_a_source_without_checkpoints_is_said(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"^load_weights: source='.*none' does not exist; give the workdir"):
        load_weights(net(), tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="holds no checkpoints"):
        load_weights(net(), tmp_path)
    with pytest.raises(TypeError, match=r"^model='net' is a str"):
        load_weights("net", tmp_path)


def test_a_damaged_checkpoint_is_refused(tmp_path: pathlib.Path) -> None:
    trainer = train(tmp_path, net(layers.Dense(1)))
    directory = trainer.checkpoints.path(2)
    (part,) = directory.glob("state.data-*")
    content = bytearray(part.read_bytes())
    content[7] ^= 1
    part.write_bytes(content)
    model = net(layers.Dense(1))
    before = values(model)
    with pytest.raises(CheckpointDamaged, match=r"state\.data-.* holds other bytes than were written"):
        load_weights(model, directory)
    assert are_equal(values(model), before)


def test_averaged_weights_are_taken_where_there_are_some(tmp_path: pathlib.Path) -> None:
    """They are what the run was evaluated with, and their order need not be that of another model."""
    averaging = WeightAveraging(ema=0.5, bn_data=data.from_arrays((X, Y), batch_size=8))
    trainer = train(tmp_path, net(layers.Dense(1)), averaging)
    raw = values(trainer.model)
    averages = [average.numpy() for average in averaging.tracked["averages"]]
    for head, averaged in [(1, None), (1, False), (3, True)]:
        model = net(layers.Dense(head))
        loaded = load_weights(model, tmp_path, strict=head == 1, averaged=averaged)
        assert loaded.averaged == (averaged is not False)
        number = len(model.trainable_variables) - (2 if head == 3 else 0)
        found = values(model)
        if averaged is False:
            assert are_equal(found, raw)
            continue
        for variable, average in list(zip(model.trainable_variables, averages, strict=True))[:number]:
            np.testing.assert_array_equal(variable, average)
        statistics = [own.numpy() for own in averaging.tracked["statistics"]]
        assert are_equal(values(model.layers[0].layers[1])[2:], statistics)
        assert not are_equal(statistics, [v.numpy() for v in trainer.model.layers[0].layers[1].variables[2:]])
    assert "averaged weights taken from" in str(loaded)


def test_models_by_name(tmp_path: pathlib.Path) -> None:
    models = {"net": net(layers.Dense(1)), "teacher": net(layers.Dense(1))}

    class Taught(Trainer):
        def compute_loss(self, batch: Any, phase: Any) -> Any:
            outputs = phase.call(self.model["net"], batch[0])
            return self.loss(batch[1], outputs), outputs

    trainer = Taught(models, {"net": "sgd"}, loss="mse", workdir=tmp_path, default_callbacks=False, callbacks=[])
    trainer.callbacks.append(Checkpointing(AtEnd()))
    trainer.run_eagerly = True
    trainer.fit(data.from_arrays((X, Y), batch_size=8), steps=1)
    mine = {"teacher": net(layers.Dense(1))}
    loaded = load_weights(mine, tmp_path, strict=False)
    assert are_equal(values(mine["teacher"]), values(models["teacher"]))
    assert len(loaded.unused) == 8
    assert all(each.startswith("net/") for each in loaded.unused)
