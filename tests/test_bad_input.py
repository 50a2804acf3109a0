"""What bad input gets: an error that names the argument as it was typed, before anything is written."""

import inspect
import itertools
import pathlib
import re
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from trainloop import Callback, Every, NonFiniteLossError, Phase, StepResult, Trainer, Workdir, WorkdirLocked, data

KERAS_3 = tf.keras
X = np.random.default_rng(0).normal(size=[20, 4]).astype("float32")
Y = X.sum(axis=1, keepdims=True)


def dense(units: int = 1, inputs: int | None = 4) -> tf_keras.Model:
    shape = {} if inputs is None else {"input_shape": (inputs,)}
    return tf_keras.Sequential([tf_keras.layers.Dense(units, **shape)])


def arrays() -> data.ArrayData:
    return data.from_arrays((X, Y), batch_size=8)


def batches(rows: int = 20, *, length_known: bool = True) -> tf.data.Dataset:
    """The same in three batches, as a dataset that knows its length or one that does not."""
    dataset = tf.data.Dataset.from_tensor_slices((X, Y)).take(rows).batch(8)
    return dataset if length_known else dataset.filter(lambda x, y: True)


@pytest.fixture
def workdir(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "run"


def make(
    workdir: pathlib.Path, model: Any = None, optimizer: Any = "sgd", kind: type[Trainer] = Trainer, **options: Any
):
    return kind(dense() if model is None else model, optimizer, **{"loss": "mse", "workdir": workdir} | options)


class Hook(Callback):
    """A callback, to be given wrongly."""


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (lambda: {"model": KERAS_3.Sequential()}, TypeError, r"model=Sequential is a model of Keras 3 .*with tf_keras"),
        (lambda: {"model": KERAS_3.Sequential}, TypeError, r"model=Sequential is a model of Keras 3"),
        (
            lambda: {"model": {"a": KERAS_3.Sequential()}, "optimizer": {"a": "sgd"}},
            TypeError,
            r"model\['a'\]=Sequential is a model of Keras 3",
        ),
        (lambda: {"model": tf_keras.Sequential}, TypeError, r"model=Sequential is a class; give an instance"),
        (lambda: {"model": 3}, TypeError, r"model=3 is a int; it must be a tf_keras model or layer, or a tf.Module"),
        (lambda: {"model": {}}, ValueError, r"model=\{\} is empty; give a model, or a dict of at least one"),
        (lambda: {"model": {1: dense()}}, TypeError, r"model=\{1: \.\.\.\}: keys must be strings"),
        (
            lambda: {"optimizer": KERAS_3.optimizers.Adam()},
            TypeError,
            r"optimizer=Adam is of Keras 3 .*; use tf_keras.optimizers.Adam\(",
        ),
        (lambda: {"optimizer": tf_keras.optimizers.Adam}, TypeError, r"optimizer=Adam is a class; give an instance"),
        (
            lambda: {"optimizer": "adamm"},
            ValueError,
            r"optimizer='adamm' is unknown to tf_keras.optimizers.get \(did you mean 'adam'\?\)",
        ),
        (
            lambda: {"optimizer": tf_keras.optimizers.legacy.Adam()},
            TypeError,
            r"optimizer=Adam is a legacy optimizer; use tf_keras.optimizers.Adam",
        ),
        (
            lambda: {"model": {"a": dense()}, "optimizer": {"a": KERAS_3.optimizers.SGD()}},
            TypeError,
            r"optimizer\['a'\]=SGD is of Keras 3",
        ),
        (
            lambda: {"model": {"a": dense(), "b": dense()}, "optimizer": {"c": "sgd"}},
            ValueError,
            r"optimizer\['c'\] has no model: the keys of model= are 'a', 'b'",
        ),
        (
            lambda: {"model": {"a": dense()}, "optimizer": "sgd"},
            TypeError,
            r"optimizer='sgd' is not a dict, but model= is; give a dict with the keys .*: 'a'",
        ),
        (lambda: {"optimizer": {"a": "sgd"}}, TypeError, r"optimizer= is a dict, but model= is not; give both"),
        (
            lambda: {"metrics": [KERAS_3.metrics.AUC()]},
            TypeError,
            r"metrics=AUC is of Keras 3 .*; use tf_keras.metrics.AUC",
        ),
        (lambda: {"metrics": [KERAS_3.metrics.AUC]}, TypeError, r"metrics=AUC is of Keras 3"),
        (
            lambda: {"unweighted_metrics": [KERAS_3.metrics.binary_accuracy]},
            TypeError,
            r"unweighted_metrics=binary_accuracy is of Keras 3 .*; use tf_keras.metrics.binary_accuracy",
        ),
        (lambda: {"metrics": [tf_keras.metrics.AUC]}, TypeError, r"metrics=AUC is a class; give an instance: AUC\("),
        (
            lambda: {"metrics": ["acuracy"]},
            ValueError,
            r"metrics='acuracy' is not a metric of tf-keras \(did you mean 'accuracy'\?\); give a name",
        ),
        (lambda: {"metrics": ["qqqqqq"]}, ValueError, r"metrics='qqqqqq' is not a metric of tf-keras; give a name"),
        (lambda: {"metrics": [7]}, TypeError, r"metrics=7 must be a name, a function \(targets, outputs\) or a"),
        (
            lambda: {"loss": KERAS_3.losses.MeanSquaredError()},
            TypeError,
            r"loss=MeanSquaredError is of Keras 3 .*; use tf_keras.losses.MeanSquaredError",
        ),
        (lambda: {"loss": tf_keras.losses.Huber}, TypeError, r"loss=Huber is a class; give an instance: Huber\("),
        (lambda: {"loss": "mses"}, ValueError, r"loss='mses' is not a loss of tf-keras \(did you mean 'mse'\?\)"),
        (
            lambda: {"loss": tf_keras.losses.Huber(reduction="sum")},
            ValueError,
            r"loss=Huber\(reduction='sum'\): a loss is the mean .* leave reduction at its default",
        ),
        (
            lambda: {"loss": None},
            ValueError,
            r"loss=None, and neither compute_loss nor train_step is overridden.*Give loss=\.\.\., or override",
        ),
        (
            lambda: {"callbacks": [KERAS_3.callbacks.CSVLogger("log.csv")]},
            TypeError,
            r"callbacks\[0\]=CSVLogger is of Keras 3 .*; use tf_keras.callbacks.CSVLogger",
        ),
        (lambda: {"callbacks": [Hook(), Hook]}, TypeError, r"callbacks\[1\]=Hook is a class; give an instance: Hook\("),
        (
            lambda: {"callbacks": [tf_keras.callbacks.CSVLogger]},
            TypeError,
            r"callbacks\[0\]=CSVLogger is a class; give an instance: CSVLogger\(",
        ),
        (lambda: {"callbacks": Hook()}, TypeError, r"callbacks=<.*Hook.*> is a single callback; give a list"),
        (lambda: {"callbacks": None}, TypeError, r"callbacks=None is a NoneType; give a list"),
        (lambda: {"callbacks": [print]}, TypeError, r"callbacks\[0\]=.*print.* is no callback; it must be a"),
        (lambda: {"report_every": 5}, TypeError, r"report_every=5 is not a trigger; .*; write Every\(steps=5\)"),
        (lambda: {"callback": []}, TypeError, r"Trainer has no argument callback=; did you mean callbacks=\?"),
        (lambda: {"eval_every": 3}, TypeError, r"Trainer has no argument eval_every=; it is fit's: trainer\.fit\("),
        (lambda: {"colour": 3}, TypeError, r"Trainer has no argument colour=; it takes model=, optimizer=, loss="),
        (lambda: {"microbatches": 0}, ValueError, r"microbatches=0 must be a positive whole number"),
        (lambda: {"seed": -1}, ValueError, r"seed=-1 must be a whole number from 0 to 2\*\*63 - 1, or None"),
    ],
)  # fmt: skip
def test_a_trainer_refuses_what_it_cannot_be_made_of(
    workdir: pathlib.Path, options: Callable[[], dict[str, Any]], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^{message}"):
        make(workdir, **options())
    assert not workdir.exists()


class EachEpoch(Callback):
    trigger = Every(epochs=1)


class NoTrigger(Callback):
    trigger = 10


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "fit takes exactly one of steps= and epochs=, the total of the whole run; given: neither"),
        ({"steps": 1, "epochs": 1}, ValueError, "fit takes exactly one of .*; given: steps=1 and epochs=1"),
        ({"steps": 0}, ValueError, "fit: steps=0 must be a positive whole number"),
        ({"epochs": -1}, ValueError, "fit: epochs=-1 must be a positive whole number"),
        ({"steps": 1.5}, ValueError, r"fit: steps=1\.5 must be a positive whole number"),
        ({"epochs": 1, "steps_per_epoch": 0}, ValueError, "fit: steps_per_epoch=0 must be a positive whole number"),
        ({"epochs": 1, "steps_per_epoch": True}, ValueError, "fit: steps_per_epoch=True must be a positive"),
        (
            {"epochs": 1, "steps_per_epoch": 7},
            ValueError,
            r"fit: steps_per_epoch=7, but train_data= has 3 batches an epoch; drop steps_per_epoch=, or repeat\(\)",
        ),
        ({"steps": 1, "eval_every": Every(steps=1)}, ValueError, r"fit: eval_every=Every\(steps=1\) was given without"),
        ({"steps": 1, "eval_data": {}}, ValueError, r"fit: eval_data=\{\} is empty; give data, or a dict"),
        (
            {"steps": 1, "eval_data": arrays(), "eval_every": 5},
            TypeError,
            r"fit: eval_every=5 is not a trigger; .*; write Every\(steps=5\)",
        ),
        ({"validation_data": (X, Y)}, TypeError, "fit has no argument validation_data=; here it is eval_data=, for ex"),
        ({"report_every": 2}, TypeError, r"fit has no argument report_every=; it is the Trainer's: Trainer\("),
        ({"epoch": 2}, TypeError, r"fit has no argument epoch=; did you mean epochs=\?"),
        ({"colour": 2}, TypeError, "fit has no argument colour=; it takes steps=, epochs=, steps_per_epoch=, ev"),
    ],
)  # fmt: skip
def test_fit_refuses_arguments_that_contradict_each_other(
    workdir: pathlib.Path, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^{message}"):
        make(workdir).fit(arrays(), **arguments)
    assert not workdir.exists()


KERASS = [
    ("fit", {"batch_size": 8}, "batch_size=; it belongs to the data: trainloop.data.from_arrays"),
    ("fit", {"class_weight": {}}, r"class_weight=; give batches \(x, y, sample_weight\)"),
    ("fit", {"verbose": 0}, r"verbose=; Trainer\(..., default_callbacks=False\) leaves"),
    ("evaluate", {"callbacks": []}, r"callbacks=; give them to Trainer\("),
    ("predict", {"step": 3}, r"step=; did you mean steps=\?"),
    ("update_bn", {"x": X}, "x=; wrap arrays as trainloop.data.from_arrays"),
]


@pytest.mark.parametrize(("method", "options", "message"), KERASS)
def test_who_calls_a_method_as_in_keras_is_told_what_to_write(
    workdir: pathlib.Path, method: str, options: dict[str, Any], message: str
) -> None:
    trainer = make(workdir)
    with pytest.raises(TypeError, match=f"^{method} has no argument {message}"):
        getattr(trainer, method)(arrays(), **options)
    with pytest.raises(TypeError, match=rf"^{method} takes one data set, .*given 2 .*; wrap arrays as {method}\(train"):
        getattr(trainer, method)(X, Y)


@pytest.mark.parametrize(
    "source", [arrays, lambda: tf.data.Dataset.from_tensor_slices((X, Y)).batch(8, drop_remainder=True)]
)
def test_more_microbatches_than_rows_are_refused_before_they_are_traced(
    workdir: pathlib.Path, source: Callable[[], Any]
) -> None:
    message = "^microbatches=100, but a batch of fit: train_data= has 8 rows; give at most 8, or larger batches"
    with pytest.raises(ValueError, match=message):
        make(workdir, microbatches=100).fit(source(), steps=1)
    make(None, microbatches=8).fit(source(), steps=1)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ({"epochs": 1}, {}, "fit: epochs= was given, but train_data= is endless .*steps_per_epoch=, or give steps="),
        ({"steps": 1}, {"report_every": Every(epochs=1)}, r"report_every=Every\(epochs=1\) counts epochs, but train"),
        ({"steps": 1}, {"callbacks": [EachEpoch()]}, r"trigger of EachEpoch=Every\(epochs=1\) counts epochs, but"),
        (
            {"steps": 1, "eval_data": arrays(), "eval_every": Every(epochs=1)},
            {},
            r"fit: eval_every=Every\(epochs=1\) counts epochs, but train_data= has none; .* with steps_per_epoch=",
        ),
    ],
)  # fmt: skip
def test_endless_data_has_no_epoch(
    workdir: pathlib.Path, arguments: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        make(workdir, **options).fit(batches().repeat(), **arguments)
    assert not workdir.exists()


class Returns(Callback):
    def __init__(self, state: Any):
        self.state = state

    def get_state(self) -> Any:
        return self.state


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (5, "returned 5; it must return a dict of JSON values"),
        ({"best": np.float32(1)}, r"returned best=np\.float32\(1\.0\), which is no JSON value; write float\(\.\.\.\)"),
        ({"step": tf.constant(3)}, r"returned step=<tf.Tensor.*>, which is no JSON value; write int\(\.\.\.\)"),
        (
            {"seen": X[0, :1]},
            r"returned seen=array\(.*\), which is no JSON value; write numpy.asarray\(\.\.\.\)\.tolist",
        ),
        (
            {"seen": {1}},
            r"returned seen=\{1\}, which is no JSON value; give numbers, strings, booleans, None, or lists",
        ),
    ],
)
def test_a_state_that_cannot_be_saved_is_named_before_the_first_step(
    workdir: pathlib.Path, state: Any, message: str
) -> None:
    with pytest.raises(TypeError, match=rf"^Returns\.get_state\(\) {message}"):
        make(workdir, callbacks=[Returns(state)]).fit(arrays(), steps=1)
    assert not workdir.exists()


def test_a_callback_whose_trigger_is_none_is_named(workdir: pathlib.Path) -> None:
    trainer = make(workdir, callbacks=[NoTrigger()])
    with pytest.raises(TypeError, match=r"^trigger of NoTrigger=10 is not a trigger; .*; write Every\(steps=10\)"):
        trainer.fit(arrays(), steps=1)
    assert not workdir.exists()


RAW = {
    "a pair of arrays": ((X, Y), r"is a tuple; wrap arrays with trainloop.data.from_arrays\(arrays, batch_size="),
    "an array": (X, "is a ndarray; wrap arrays with trainloop.data.from_arrays"),
    "a dict of arrays": ({"x": X}, "is a dict; wrap arrays with trainloop.data.from_arrays"),
    "a list": ([1, 2], r"is a list; pass trainloop.data.from_arrays\(...\) or a tf.data.Dataset of batches"),
    "a generator": ((row for row in X), "is a generator; wrap a generator with tf.data.Dataset.from_generator"),
    "nothing": (None, r"is a NoneType; pass trainloop.data.from_arrays"),
}
METHODS = {
    "fit: train_data=": lambda trainer, given: trainer.fit(given, steps=1),
    "fit: eval_data=": lambda trainer, given: trainer.fit(arrays(), steps=1, eval_data=given),
    "fit: eval_data['test']=": lambda trainer, given: trainer.fit(arrays(), steps=1, eval_data={"test": given}),
    "evaluate: data=": lambda trainer, given: trainer.evaluate(given),
    "predict: data=": lambda trainer, given: trainer.predict(given),
}


HAVE_A_MEANING = {("fit: eval_data=", "nothing"), ("fit: eval_data=", "a dict of arrays")}  # no sets, sets by name


@pytest.mark.parametrize(
    ("argument", "kind"), [pair for pair in itertools.product(METHODS, RAW) if pair not in HAVE_A_MEANING]
)
def test_what_is_not_data_is_refused(workdir: pathlib.Path, argument: str, kind: str) -> None:
    given, message = RAW[kind]
    with pytest.raises(TypeError, match=f"^{re.escape(argument)} {message}"):
        METHODS[argument](make(workdir), given)
    assert not workdir.exists()


@pytest.mark.parametrize("length_known", [True, False], ids=["known length", "unknown length"])
@pytest.mark.parametrize("argument", METHODS)
def test_empty_data_is_refused(workdir: pathlib.Path, argument: str, length_known: bool) -> None:
    with pytest.raises(ValueError, match=r"is empty: it has no batch") as caught:
        METHODS[argument](make(workdir), batches(0, length_known=length_known))
    assert str(caught.value).startswith(argument)
    written = {path.name for path in workdir.glob("*")}
    if length_known:
        assert not workdir.exists()
    elif argument == "fit: train_data=":  # that it is empty shows in the first step, and no earlier
        assert written == {"LOCK", "contract.json", "phases.jsonl"}
    assert "checkpoints" not in written


def test_an_epoch_of_empty_data_is_refused(workdir: pathlib.Path) -> None:
    with pytest.raises(ValueError, match=r"^fit: train_data= is empty: it has no batch"):
        make(workdir).fit(batches(0, length_known=False), epochs=2)


@pytest.mark.parametrize("method", ["evaluate", "predict"])
@pytest.mark.parametrize("length_known", [True, False], ids=["known length", "unknown length"])
def test_fewer_batches_than_asked_for_are_no_result(workdir: pathlib.Path, method: str, length_known: bool) -> None:
    message = f"^{method}: data= is exhausted after 3 batches, but steps=5 asks for more; give no more steps than"
    with pytest.raises(ValueError, match=message):
        getattr(make(workdir), method)(batches(length_known=length_known), steps=5)
    assert not workdir.exists()


def test_exhausted_training_data_is_noticed_before_the_first_step_where_its_length_is_known(
    workdir: pathlib.Path,
) -> None:
    message = (
        r"^fit: train_data= is exhausted after 3 batches, but 5 steps are left; repeat\(\) the dataset, or give epochs="
    )
    with pytest.raises(ValueError, match=message):
        make(workdir).fit(batches(), steps=5)
    assert not workdir.exists()


def test_exhausted_training_data_of_unknown_length_is_noticed_where_it_ends(workdir: pathlib.Path) -> None:
    trainer = make(workdir)
    with pytest.raises(
        ValueError, match=r"^fit: train_data= is exhausted at step 3, before .*; repeat\(\) the dataset, or"
    ):
        trainer.fit(batches(length_known=False), steps=5)
    assert trainer.step == 3


def test_training_data_that_end_with_an_epoch_are_exhausted_and_not_empty(workdir: pathlib.Path) -> None:
    trainer = make(workdir)
    with pytest.raises(ValueError, match=r"^fit: train_data= is exhausted at step 3, before"):
        trainer.fit(batches(length_known=False), epochs=2, steps_per_epoch=3)


@pytest.mark.parametrize(
    ("argument", "do"),
    [
        ("evaluate: data= is endless; say how many batches to use with steps=", METHODS["evaluate: data="]),
        ("predict: data= is endless; say how many batches to use with steps=", METHODS["predict: data="]),
        ("fit: eval_data= is endless; say how many batches to use with take", METHODS["fit: eval_data="]),
        ("evaluate: steps=0 must be a positive whole", lambda trainer, given: trainer.evaluate(given, steps=0)),
    ],
)
def test_an_evaluation_needs_an_end(workdir: pathlib.Path, argument: str, do: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=f"^{argument}"):
        do(make(workdir), batches().repeat())
    assert not workdir.exists()


@pytest.mark.parametrize("method", ["evaluate", "predict"])
@pytest.mark.parametrize("phase", ["train", "EVAL", True, 1, None, np.array([True, False]), tf.constant(True)], ids=str)
def test_a_phase_is_a_phase(workdir: pathlib.Path, method: str, phase: object) -> None:
    with pytest.raises(TypeError, match=rf"^{method}: phase=.* is not a Phase; it must be Phase\.{method.upper()[:4]}"):
        getattr(make(workdir), method)(arrays(), phase=phase)


def test_a_phase_that_does_not_serve_is_told_which_ones_do(workdir: pathlib.Path) -> None:
    with pytest.raises(ValueError, match=r"^predict: phase=Phase.TRAIN does not serve here; it must be Phase\.PREDICT"):
        make(workdir).predict(arrays(), phase=Phase.TRAIN)
    with pytest.raises(
        ValueError, match=r"^predict: phase=Phase.UPDATE_BN does .*; trainer\.update_bn\(data\) measures"
    ):
        make(workdir).predict(arrays(), phase=Phase.UPDATE_BN)


class WithoutConstructor(Trainer):
    def __init__(self, model: Any):
        self.net = model


@pytest.mark.parametrize("method", ["fit", "evaluate", "predict"])
def test_a_constructor_that_does_not_call_the_trainers_is_told_so(method: str) -> None:
    message = r"^WithoutConstructor has no \w+ yet: its __init__ must call super\(\).__init__\(model, optimizer, ...\)"
    with pytest.raises(AttributeError, match=message):
        getattr(WithoutConstructor(dense()), method)(arrays(), steps=1)
    with pytest.raises(AttributeError, match=r"^'Trainer' object has no attribute 'modle'"):
        _ = make(None).modle


def losing(returned: Callable[[tf.Tensor], Any]) -> type[Trainer]:
    class Losing(Trainer):
        def compute_loss(self, batch: Any, phase: Phase) -> Any:
            return returned(phase.call(self.model, batch[0]))

    return Losing


def stepping(returned: Callable[[tf.Tensor], Any]) -> type[Trainer]:
    class Stepping(Trainer):
        def train_step(self, batch: Any, phase: Phase) -> Any:
            return returned(phase.call(self.model, batch[0]))

    return Stepping


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        (losing(lambda outputs: None), ValueError, "compute_loss returned no loss; it must return a scalar loss"),
        (losing(lambda outputs: StepResult(outputs=outputs)), ValueError, "compute_loss returned no loss; it must"),
        (
            losing(lambda outputs: tf.reduce_sum(outputs, axis=1)),
            ValueError,
            r"compute_loss returned loss of shape \(None,\); it must be a scalar. Reduce it, .* tf.reduce_mean",
        ),
        (stepping(lambda outputs: None), TypeError, r"train_step returned nothing \(None\); it must return a Step"),
        (stepping(lambda outputs: {"loss": outputs}), ValueError, r"train_step returned loss of shape \(None, 1\)"),
        (stepping(lambda outputs: {}), ValueError, "train_step returned no loss and no scalar; give StepResult"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("run_eagerly", [False, True], ids=["compiled", "eager"])
def test_a_step_without_a_scalar_loss_is_refused(
    workdir: pathlib.Path, kind: type[Trainer], error: type[Exception], message: str, run_eagerly: bool
) -> None:
    with pytest.raises(error, match=f"^{message.replace('None,', '.+,') if run_eagerly else message}"):
        make(workdir, kind=kind, run_eagerly=run_eagerly).fit(arrays(), steps=2)
    assert run_eagerly or not workdir.exists()


def test_a_loss_that_is_nan_stops_the_first_step(workdir: pathlib.Path) -> None:
    trainer = make(workdir, kind=losing(lambda outputs: tf.reduce_sum(outputs) * np.nan))
    with pytest.raises(NonFiniteLossError, match=r"^the loss of step 1 is NaN or infinite"):
        trainer.fit(arrays(), steps=50)
    assert trainer.step == 1
    assert {path.name for path in workdir.glob("*")} == {"LOCK", "contract.json", "phases.jsonl"}


MISFITS = {
    "a model that cannot be built": (
        lambda: tf_keras.Sequential([tf_keras.layers.Conv2D(2, 3)]),
        "expected min_ndim=4, found ndim=2",
        "while model= was built by tracing a step for a batch of fit: train_data=, .*shape=.None, 4.",
    ),
    "other inputs": (
        lambda: dense(inputs=5),
        r"expected shape=\(None, 5\), found shape=\(None, 4\)",
        "while tracing a step for the batches of fit: train_data=: .*shape=.None, 4.",
    ),
    "other targets": (
        lambda: dense(units=3),
        r"Dimensions must be equal|are incompatible|must be broadcastable",
        "while tracing a step for the batches of fit: train_data=: .*shape=.None, 2.",
    ),
}


@pytest.mark.parametrize(("model", "message", "note"), MISFITS.values(), ids=list(MISFITS))
def test_a_model_and_batches_that_do_not_fit_are_told_apart(
    workdir: pathlib.Path, model: Callable[[], Any], message: str, note: str
) -> None:
    pairs = data.from_arrays((X, np.repeat(Y, 2, axis=1)), batch_size=8)
    with pytest.raises(ValueError, match=message) as caught:
        make(workdir, model()).fit(pairs, steps=1)
    caught.match(note)
    assert not workdir.exists()


@pytest.mark.parametrize(
    "argument", ["fit: eval_data=", "fit: eval_data['test']=", "evaluate: data=", "predict: data="]
)
def test_other_batches_than_the_model_takes_are_noticed_before_training(workdir: pathlib.Path, argument: str) -> None:
    with pytest.raises(ValueError, match=r"expected shape=\(None, 4\), found shape=\(None, 3\)") as caught:
        METHODS[argument](make(workdir), data.from_arrays((X[:, :3], Y), batch_size=8))
    assert any(
        note.startswith(f"while tracing a step for the batches of {argument}") for note in caught.value.__notes__
    )
    assert not workdir.exists()


def test_batches_without_a_target_are_told_what_a_loss_needs(workdir: pathlib.Path) -> None:
    message = r"^loss= found no target .* Batches must be \(x, y\) .*override compute_loss"
    with pytest.raises(ValueError, match=message):
        make(workdir).fit(data.from_arrays(X, batch_size=8), steps=1)
    assert not workdir.exists()


@pytest.mark.parametrize("below", ["", "deeper"])
def test_a_workdir_that_is_a_file_is_refused_at_once(workdir: pathlib.Path, below: str) -> None:
    workdir.write_text("kept")
    with pytest.raises(
        NotADirectoryError, match=r"^workdir='.*run.*' is a file, expected a directory .* give another|Give"
    ):
        make(workdir / below)
    assert workdir.read_text() == "kept"


@pytest.mark.parametrize("given", [5, ""])
def test_a_workdir_that_is_no_path_is_refused(given: Any) -> None:
    with pytest.raises(TypeError, match=rf"^workdir={given!r} must be the path of a directory, such as 'runs/first'"):
        make(given)


def test_a_workdir_in_use_is_refused(workdir: pathlib.Path) -> None:
    with (
        Workdir(workdir).lock(),
        pytest.raises(WorkdirLocked, match=r"^workdir='.*' is in use by .*give another workdir="),
    ):
        make(workdir).fit(arrays(), steps=1)
    assert [path.name for path in workdir.iterdir()] == ["LOCK"]


def test_checkpoints_that_were_not_restored_are_not_trained_over(workdir: pathlib.Path) -> None:
    make(workdir).fit(arrays(), steps=2)
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
    message = (
        r"^fit: workdir='.*' holds checkpoints up to step 2 that were not restored. Call trainer.restore_or_initialize"
    )
    with pytest.raises(RuntimeError, match=message):
        make(workdir).fit(arrays(), steps=3)
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("*")} == before


class FitsAgain(Callback):
    trigger = Every(steps=1)

    def on_trigger(self, trainer: Trainer) -> None:
        trainer.fit(arrays(), steps=9)


class FitsInside(Trainer):
    def compute_loss(self, batch: Any, phase: Phase) -> Any:
        self.fit(arrays(), steps=9)
        return super().compute_loss(batch, phase)


@pytest.mark.parametrize(
    "options", [{"callbacks": [FitsAgain()]}, {"kind": FitsInside}], ids=["in a hook", "in a step"]
)
def test_fit_inside_fit_is_refused(workdir: pathlib.Path, options: dict[str, Any]) -> None:
    with pytest.raises(
        RuntimeError, match=r"^fit was called while fit is running; a hook may call evaluate and predict"
    ):
        make(workdir, **options).fit(arrays(), steps=2)


def test_a_trainer_without_an_optimizer_does_not_train(workdir: pathlib.Path) -> None:
    with pytest.raises(ValueError, match=r"^fit: optimizer=None; give the Trainer an optimizer"):
        make(workdir, optimizer=None).fit(arrays(), steps=1)


class Own(Exception):
    """AutoGraph and Keras make exceptions anew from one string; this one cannot be made so."""

    def __init__(self, what: str, where: str):
        super().__init__(f"{what} in {where}")
        self.where = where


class Broken:
    """Something of the user's that raises until it is mended."""

    broken = True

    def check(self, where: str) -> None:
        if self.broken:
            raise Own("broken", where)


class BrokenLoss(Broken, Trainer):
    def compute_loss(self, batch: Any, phase: Phase) -> Any:
        self.check("compute_loss")
        return super().compute_loss(batch, phase)


class BrokenStep(Broken, Trainer):
    def train_step(self, batch: Any, phase: Phase) -> Any:
        if tf.reduce_sum(batch[0]) > -1e9:  # AutoGraph rewrites what depends on tensors
            self.check("train_step")
        return super().train_step(batch, phase)


class BrokenLayer(Broken, tf_keras.layers.Layer):
    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        self.check("call")
        return inputs


class BrokenHook(Broken, Callback):
    trigger = Every(steps=1)

    def on_trigger(self, trainer: Trainer) -> None:
        self.check("on_trigger")


class Chained(Trainer):
    broken = True

    def compute_loss(self, batch: Any, phase: Phase) -> Any:
        try:
            self.fail()
        except KeyError as error:
            raise Own("chained", "compute_loss") from error
        return super().compute_loss(batch, phase)

    def fail(self) -> None:
        if self.broken:
            raise KeyError("the first one")


def in_compute_loss() -> tuple[Any, Trainer, Any]:
    trainer = make(None, kind=BrokenLoss)
    return trainer, trainer, arrays()


def in_train_step() -> tuple[Any, Trainer, Any]:
    trainer = make(None, kind=BrokenStep)
    return trainer, trainer, arrays()


def raised_from_another() -> tuple[Any, Trainer, Any]:
    trainer = make(None, kind=Chained)
    return trainer, trainer, arrays()


def in_a_layer_that_is_built() -> tuple[Any, Trainer, Any]:
    layer = BrokenLayer()
    layer.broken = False
    model = tf_keras.Sequential([tf_keras.layers.Dense(1, input_shape=(4,)), layer])
    layer.broken = True
    return layer, make(None, model), arrays()


def in_a_layer_of_a_model_to_be_built() -> tuple[Any, Trainer, Any]:
    layer = BrokenLayer()
    return layer, make(None, tf_keras.Sequential([tf_keras.layers.Dense(1), layer])), arrays()


def in_a_hook() -> tuple[Any, Trainer, Any]:
    hook = BrokenHook()
    return hook, make(None, callbacks=[hook]), arrays()


def in_map_fn() -> tuple[Any, Trainer, Any]:
    broken = Broken()

    def map_fn(batch: Any) -> Any:
        broken.check("map_fn")
        return batch

    return broken, make(None), data.from_arrays((X, Y), batch_size=8, map_fn=map_fn)


def in_augment_fn() -> tuple[Any, Trainer, Any]:
    broken = Broken()

    def augment_fn(batch: Any, key: tf.Tensor) -> Any:
        broken.check("augment_fn")
        return batch

    return broken, make(None), data.from_arrays((X, Y), batch_size=8, augment_fn=augment_fn)


def in_a_metric() -> tuple[Any, Trainer, Any]:
    broken = Broken()

    def metric(targets: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
        broken.check("metric")
        return tf.abs(targets - outputs)

    return broken, make(None, metrics=[metric]), arrays()


SCENES = [
    in_compute_loss,
    in_train_step,
    raised_from_another,
    in_a_layer_that_is_built,
    in_a_layer_of_a_model_to_be_built,
    in_a_hook,
    in_map_fn,
    in_augment_fn,
    in_a_metric,
]


@pytest.mark.parametrize("run_eagerly", [False, True], ids=["compiled", "eager"])
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_an_exception_of_the_users_comes_out_as_itself_and_the_trainer_goes_on(
    scene: Callable[[], tuple[Any, Trainer, Any]], run_eagerly: bool
) -> None:
    broken, trainer, train_data = scene()
    trainer.run_eagerly = run_eagerly
    with pytest.raises(Own) as caught:
        trainer.fit(train_data, steps=3)
    raising = Chained.compute_loss if scene is raised_from_another else Broken.check
    lines, first = inspect.getsourcelines(raising)
    line = first + next(number for number, text in enumerate(lines) if "raise Own" in text)
    assert f'File "{__file__}", line {line}' in "".join(traceback.format_exception(caught.value))
    assert isinstance(caught.value.__cause__, KeyError if scene is raised_from_another else type(None))
    assert (trainer.phase, trainer.fitting) == (None, False)

    broken.broken = False
    trainer.fit(train_data, steps=3)
    assert trainer.step == 3


@pytest.mark.parametrize("method", ["evaluate", "predict"])
def test_an_exception_outside_of_training_comes_out_as_itself_too(method: str) -> None:
    layer, trainer, some = in_a_layer_of_a_model_to_be_built()
    with pytest.raises(Own, match=r"^broken in call"):
        getattr(trainer, method)(some)
    assert trainer.phase is None
    layer.broken = False
    getattr(trainer, method)(some)


def test_an_assertion_on_the_device_names_the_users_line() -> None:
    class Asserts(Trainer):
        def compute_loss(self, batch: Any, phase: Phase) -> Any:
            tf.debugging.assert_less(batch[0], -100.0, "rows are too large")
            return super().compute_loss(batch, phase)

    with pytest.raises(tf.errors.InvalidArgumentError, match=r"(?s)test_bad_input.py.*rows are too large"):
        make(None, kind=Asserts).fit(arrays(), steps=1)
