"""Signatures of step methods, checked when a Trainer is made; and steps that nothing would call."""

import warnings

import pytest
import tf_keras

from trainloop import Callback, Trainer, WeightAveraging


class TakesBatch(Trainer):
    def compute_loss(self, batch):
        return 0.0


class TakesData(Trainer):
    def train_step(self, data):
        return {}


class AsInKeras(Trainer):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None):
        return 0.0


class TakesMore(Trainer):
    def predict_step(self, batch, phase, temperature):
        return batch


@pytest.mark.parametrize(
    ("kind", "written", "method"),
    [
        (TakesBatch, r"compute_loss\(self, batch\)", "compute_loss"),
        (TakesData, r"train_step\(self, data\)", "train_step"),
        (AsInKeras, r"compute_loss\(self, x=None, y=None, y_pred=None, sample_weight=None\)", "compute_loss"),
        (TakesMore, r"predict_step\(self, batch, phase, temperature\)", "predict_step"),
    ],
)
def test_a_step_method_that_cannot_be_called_is_refused_at_once(kind, written, method):
    message = rf"^{kind.__name__}\.{written} is called with a batch and a phase; write {method}\(self, batch, phase\)\."
    with pytest.raises(TypeError, match=message):
        kind(tf_keras.Sequential(), "sgd", loss="mse")


class TakesWhatItGets(Trainer):
    def compute_loss(self, *args, scale=1.0):
        return 0.0

    @staticmethod
    def predict_step(batch, phase):
        return batch


def test_what_can_be_called_is_left_alone():
    TakesWhatItGets(tf_keras.Sequential(), "sgd")


class EvaluatesAsInKeras(Trainer):
    def test_step(self, batch, phase):
        return {}


def test_a_method_under_kerass_name_is_called_by_nothing():
    with pytest.warns(
        UserWarning, match=r"^EvaluatesAsInKeras\.test_step is called by nothing: .* eval_step\(self, batch, phase\)"
    ) as caught:
        EvaluatesAsInKeras(tf_keras.Sequential(), "sgd", loss="mse")
    assert caught[0].filename == __file__


class StepsOfItsOwn(tf_keras.Model):
    def train_step(self, data):
        return {}

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None):
        return 0.0


class Own(Trainer):
    def compute_loss(self, batch, phase):
        return 0.0


def test_the_steps_of_a_model_that_nothing_calls_are_named():
    message = (
        r"^model=: StepsOfItsOwn overrides train_step, compute_loss, which a Trainer does not call; move that code"
    )
    with pytest.warns(UserWarning, match=message) as caught:
        Trainer(StepsOfItsOwn(), "sgd", loss="mse")
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Own(StepsOfItsOwn(), "sgd")  # whoever has written this one knows
        Trainer(StepsOfItsOwn())  # does not train


class AsInKerasToo(Callback):
    def on_epoch_end(self, epoch, logs=None):
        pass


class Misspelt(Callback):
    def on_reports(self, trainer, metrics):
        pass


class NoTrigger(Callback):
    def on_trigger(self, trainer):
        pass


class HelpersOfItsOwn(Callback):
    def on_paper(self):
        pass


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (AsInKerasToo, r"on_epoch_end is called by nothing: .*; write on_trigger\(.*trigger = Every\(epochs=1\)$"),
        (Misspelt, r"on_reports is called by nothing: Callback has no such hook; did you mean on_report\?$"),
        (NoTrigger, "on_trigger is called by nothing, since its trigger is None; give the class a line such"),
    ],
)
def test_a_hook_that_nothing_calls_is_named(kind, message):
    with pytest.warns(UserWarning, match=rf"^{kind.__name__}\.{message}") as caught:
        Trainer(tf_keras.Sequential(), "sgd", loss="mse", callbacks=[kind()])
    assert caught[0].filename == __file__


def test_other_methods_of_a_callback_are_nobodys_business():
    callbacks = [HelpersOfItsOwn(), WeightAveraging(ema=0.5)]
    Trainer(tf_keras.Sequential(), "sgd", loss="mse", callbacks=callbacks)
