"""`Inference`: train, predict, train on, as if nothing had happened."""

import numpy as np
import pytest
import tensorflow as tf

from trainloop import Callback, Every, Inference, Phase


class Phases(Callback):
    def __init__(self):
        self.seen = []

    def on_phase_begin(self, trainer, phase):
        self.seen.append(("begin", phase, trainer.step))

    def on_phase_end(self, trainer, phase, metrics):
        self.seen.append(("end", phase, trainer.step))


def test_hands_over_what_the_model_predicts_at_that_step(make_trainer, pairs, inputs):
    given = []

    def keep(trainer, result):
        given.append((trainer, trainer.step, result, trainer.model(inputs, training=False).numpy()))

    trainer = make_trainer(Inference(pairs, trigger=Every(epochs=2), to=keep))
    trainer.fit(pairs, epochs=4)
    assert [(who, step) for who, step, *_ in given] == [(trainer, 8), (trainer, 16)]
    for _, _, result, expected in given:
        np.testing.assert_allclose(result, expected, atol=1e-6)
    assert not np.array_equal(given[0][2], given[1][2])


def test_training_goes_on_as_if_nothing_had_happened(make_trainer, pairs):
    plain = make_trainer()
    plain.fit(pairs, epochs=2)
    phases = Phases()
    watched = make_trainer(phases, Inference(pairs, trigger=Every(steps=3), to=lambda trainer, result: None))
    watched.fit(pairs, epochs=2)
    for mine, other in zip(watched.model.get_weights(), plain.model.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, other)
    inner = [
        (event, phase, step) for step in (3, 6) for event, phase in (("begin", Phase.PREDICT), ("end", Phase.PREDICT))
    ]
    assert phases.seen == [("begin", Phase.TRAIN, 0), *inner, ("end", Phase.TRAIN, 8)]


def test_passes_the_phase_and_the_samples_on(fake_trainer, pairs):
    calls = []
    trainer = fake_trainer(predict=lambda data, **options: calls.append((data, options)) or "result")
    given = []
    callback = Inference(
        pairs, phase=Phase.MC_PREDICT, samples=7, trigger=Every(steps=1), to=lambda *a: given.append(a)
    )
    callback.on_trigger(trainer)
    assert calls == [(pairs, {"phase": Phase.MC_PREDICT, "samples": 7})]
    assert given == [(trainer, "result")]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"data": np.zeros([4])}, TypeError, "Inference: data= is a ndarray; wrap arrays with"),
        ({"phase": "predict"}, TypeError, "Inference: phase='predict' is not a Phase.*did you mean Phase.PREDICT"),
        ({"phase": Phase.TRAIN}, ValueError, "Inference: phase=Phase.TRAIN does not serve here"),
        ({"trigger": 5}, TypeError, r"Inference: trigger=5 is not a trigger.*Every\(steps=5\)"),
        ({"trigger": None}, TypeError, "Inference: trigger=None would never predict"),
        ({"samples": 5}, ValueError, "Inference: samples=5 with phase=Phase.PREDICT, which draws none"),
        ({"samples": 0, "phase": Phase.MC_PREDICT}, ValueError, "Inference: samples=0 must be a positive"),
        ({"to": "file"}, TypeError, "Inference: to='file' must be a function"),
    ],
)
def test_bad_arguments(pairs, options, error, message):
    with pytest.raises(error, match=message):
        Inference(**{"data": pairs, "trigger": Every(steps=1), "to": print} | options)


def test_takes_a_dataset():
    Inference(tf.data.Dataset.from_tensors(tf.zeros([2, 3])), trigger=Every(steps=1), to=print)
