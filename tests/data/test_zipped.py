"""`data.zip`: parts side by side, each addressed by step."""

import contextlib
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from trainloop import StepResult, Trainer, data
from trainloop.data import ZippedData

FEW, MANY = np.arange(5), np.arange(100, 130)


def zipped(**options: Any) -> ZippedData:
    return data.zip(
        labelled=data.from_arrays(FEW, batch_size=2, **options),
        unlabelled=data.from_source(MANY, batch_size=5, **options),
    )


def taken(source: ZippedData, batches: int, epoch: int = 0, batch: int = 0) -> list[dict[str, list[int]]]:
    found = source.endless(1, epoch, batch).take(batches)
    return [{name: rows.numpy().tolist() for name, rows in each.items()} for each in found]


def test_an_epoch_is_that_of_the_part_with_the_most_batches_and_the_others_begin_anew() -> None:
    assert zipped().steps_per_epoch == 6
    batches = taken(zipped(), 12)
    assert [len(batch["labelled"]) for batch in batches] == [2, 2, 1] * 4
    unlabelled, labelled = ([row for batch in batches for row in batch[n]] for n in ("unlabelled", "labelled"))
    assert [sorted(unlabelled[i : i + 30]) for i in (0, 30)] == [MANY.tolist()] * 2
    assert [sorted(labelled[i : i + 5]) for i in range(0, 20, 5)] == [FEW.tolist()] * 4
    assert len({tuple(labelled[i : i + 5]) for i in range(0, 20, 5)}) == 4


@pytest.mark.parametrize(("epoch", "batch"), [(0, 1), (0, 4), (1, 0), (1, 5)])
def test_a_position_is_where_skipping_would_have_led(epoch: int, batch: int) -> None:
    skipped = epoch * 6 + batch
    assert taken(zipped(), 4, epoch, batch) == taken(zipped(), skipped + 4)[skipped:]


def test_parts_of_the_same_rows_come_in_orders_of_their_own_whatever_order_they_are_given_in() -> None:
    part = data.from_arrays(np.arange(50), batch_size=50)
    [both] = taken(data.zip(a=part, b=part), 1)
    assert both["a"] != both["b"]
    assert taken(data.zip(b=part, a=part), 1) == [both]
    own = data.from_arrays(np.arange(50), batch_size=50, seed=3)
    [same] = taken(data.zip(a=own, b=own), 1)
    assert same["a"] == same["b"]


def test_each_part_is_augmented_with_a_key_of_its_own() -> None:
    [batch] = taken(zipped(augment_fn=lambda rows, key: key), 1)
    assert batch["labelled"] != batch["unlabelled"]
    assert batch["labelled"][1] == batch["unlabelled"][1] == 0


def test_parts_that_fit_are_seen_once_and_others_refused() -> None:
    part = data.from_arrays(FEW, batch_size=2)
    assert [batch["a"].numpy().tolist() for batch in data.zip(a=part, b=part).once] == [[0, 1], [2, 3], [4]]
    trainer = Trainer(tf_keras.Sequential([tf_keras.layers.Dense(1)]), loss="mse", default_callbacks=False)
    with pytest.raises(ValueError, match=r"^zip: .* numbers of batches \(labelled 3, unlabelled 6\), .* with one part"):
        trainer.evaluate(zipped())


def test_a_position_means_the_same_where_all_parts_have_the_same_shapes() -> None:
    assert data.is_same(zipped(), zipped(shuffle=False))
    assert not data.is_same(zipped(), data.zip(labelled=zipped().parts["labelled"]))


@pytest.mark.parametrize(
    ("parts", "error", "message"),
    [
        ({}, ValueError, r"there is no part; give parts by keyword: data.zip\(labelled=a, unlabelled=b\)"),
        ({"a": FEW}, TypeError, r"a= is a ndarray; a part must be trainloop.data.from_arrays\(...\) or from_source"),
        ({"a": zipped()}, TypeError, "a= is a ZippedData; give its parts to one zip"),
        ({"a": tf.data.Dataset.range(3)}, TypeError, "a= is a .*; a part must be addressed by step, .*; zip datasets"),
    ],
)  # fmt: skip
def test_what_is_no_part_is_refused(parts: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^zip: {message}"):
        data.zip(**parts)


class TwoMeans(Trainer):
    def compute_loss(self, batch: Any, phase: Any) -> Any:
        means = {name: tf.reduce_mean(tf.cast(batch[name], tf.float32)) for name in ("few", "many")}
        return StepResult(loss=means["few"] * tf.reduce_sum(self.model(tf.ones([1, 1]))), scalars=means)


@pytest.mark.parametrize(("replicas", "microbatches"), [(1, 2), (2, 1)])
def test_replicas_and_microbatches_cut_each_part_by_its_own_rows(
    two_replicas: Any, replicas: int, microbatches: int
) -> None:
    found = []
    for scope, slices in ((contextlib.nullcontext(), 1), (two_replicas.scope(), microbatches)):
        both = data.zip(
            few=data.from_arrays(np.arange(4), batch_size=2), many=data.from_arrays(np.arange(20), batch_size=10)
        )
        with scope if replicas == 2 else contextlib.nullcontext():
            model = tf_keras.Sequential([tf_keras.layers.Dense(1, input_shape=(1,))])
        history = TwoMeans(model, "sgd", microbatches=slices, default_callbacks=False, seed=3).fit(both, steps=1)
        found.append([history["few"], history["many"]])
    np.testing.assert_allclose(found[0], found[1], rtol=1e-6)
