"""What steps return, checked; and the history of a run."""

import numpy as np
import pytest
import tensorflow as tf

from trainloop.results import History, MCPrediction, StepResult, from_compute_loss, from_step

LOSS = tf.constant(2.0)


@pytest.mark.parametrize("returned", [LOSS, 2.0, (LOSS, None), StepResult(loss=LOSS)])
def test_a_loss_may_come_in_any_of_its_forms(returned: object) -> None:
    assert from_compute_loss(returned, "compute_loss").loss == 2.0


def test_outputs_come_with_the_loss() -> None:
    result = from_compute_loss((LOSS, {"logits": tf.ones([3])}), "compute_loss")
    assert result.outputs["logits"].shape == [3]


def test_what_a_compute_loss_says_besides_is_kept() -> None:
    given = StepResult(LOSS, 1, 2, 3, 4, {"kl": 5.0})
    result = from_compute_loss(given, "compute_loss")
    assert (result.outputs, result.targets, result.sample_weight, result.weight) == (1, 2, 3, 4)
    assert result.named_scalars() == {"loss": LOSS, "kl": 5.0}


def test_a_dict_of_scalars_is_a_step_result() -> None:
    result = from_step({"loss": LOSS, "kl": 1, "penalty": tf.constant(3)}, "train_step")
    assert {name: float(value) for name, value in result.named_scalars().items()} == {"loss": 2, "kl": 1, "penalty": 3}


def test_a_step_needs_no_loss_if_it_has_a_scalar() -> None:
    result = from_step({"critic": LOSS}, "train_step")
    assert result.loss is None
    assert list(result.named_scalars()) == ["critic"]


@pytest.mark.parametrize(
    ("returned", "error", "message"),
    [
        (None, ValueError, "no loss; it must return a scalar loss, .loss, outputs. or a StepResult with loss="),
        (StepResult(outputs=1), ValueError, "no loss"),
        ((None, 1), ValueError, "no loss"),
        ((LOSS, 1, 2), TypeError, "a tuple; it must return a scalar loss, .loss, outputs. or a StepResult"),
        ({"loss": LOSS}, TypeError, "a dict; it must return"),
        (tf.ones([3]), ValueError, r"loss of shape \(3,\); it must be a scalar. Reduce it, .* tf.reduce_mean"),
        (tf.constant(1), TypeError, "a loss of dtype int32; it must be a float"),
        (tf.constant(True), TypeError, "loss of dtype bool; it must be a number"),
        (object(), TypeError, "loss=a object; it must be a scalar tensor"),
        ((LOSS, {"kl": LOSS, "n": 3}), TypeError, r"\(loss, {'kl', 'n'}\), .* return StepResult\(loss=loss, scalars="),
        (
            (LOSS, LOSS),
            TypeError,
            r"\(loss, a scalar\), but what follows the loss are the outputs, with a row for each",
        ),
        ((LOSS, {}), TypeError, r"\(loss, {}\), but what follows the loss are the outputs"),
        (StepResult(LOSS, scalars={"loss": LOSS}), ValueError, "both loss= and a scalar named 'loss', so 'loss' would"),
        (
            StepResult(LOSS, scalars=[LOSS]),
            TypeError,
            r"scalars=a list; it must be a dict of scalars by name, StepResult",
        ),
        (
            StepResult(LOSS, scalars={7: LOSS}),
            TypeError,
            r"scalars=\{7: \.\.\.\}; the name of a scalar must be a string",
        ),
    ],
)
def test_what_is_no_loss_is_refused(returned: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^compute_loss returned {message}"):
        from_compute_loss(returned, "compute_loss")


@pytest.mark.parametrize(
    ("returned", "error", "message"),
    [
        (None, TypeError, r"nothing \(None\); it must return a StepResult or a dict of scalars"),
        (LOSS, TypeError, "a .*Tensor; it must return a StepResult or a dict of scalars"),
        ({}, ValueError, r"no loss and no scalar; give StepResult\(loss=\.\.\.\) or a dict of scalars"),
        (StepResult(outputs=1), ValueError, "no loss and no scalar"),
        ({"kl": tf.ones([2, 3])}, ValueError, r"kl of shape \(2, 3\); it must be a scalar"),
        ({"kl": "high"}, TypeError, "kl of dtype string; it must be a number"),
    ],
)
def test_what_is_no_result_of_a_step_is_refused(returned: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^train_step returned {message}"):
        from_step(returned, "train_step")


@pytest.mark.parametrize("name", ["eval/loss", "mc_predict/kl", "learning_rate", "learning_rate/critic"])
def test_a_scalar_does_not_take_a_name_of_the_report(name: str) -> None:
    message = f"^train_step returned a scalar named {name!r}, which is a name of the report's own"
    with pytest.raises(ValueError, match=message):
        from_step({name: LOSS}, "train_step")


def test_a_prediction_is_shown_by_its_shapes() -> None:
    ragged = [np.zeros([2], np.float32), np.zeros([3], np.float32)]
    shown = MCPrediction({"a": np.zeros([9, 2]), "b": ragged}, (np.zeros([9]), np.zeros([9], np.float32)))
    assert repr(shown) == ("MCPrediction(mean={'a': float64[9, 2], 'b': [2 of float32]}, std=(float64[9], float32[9]))")


def test_uncertainties_are_there_where_an_output_is_class_probabilities() -> None:
    entropy, information = np.array([0.5]), np.array([0.25])
    found = MCPrediction({"a": 1, "b": 2}, {}, None, ({"a": entropy, "b": None}, {"a": information, "b": None}))
    assert found.predictive_entropy == {"a": entropy, "b": None}
    assert found.mutual_information == {"a": information, "b": None}


@pytest.mark.parametrize("name", ["predictive_entropy", "mutual_information"])
@pytest.mark.parametrize(
    ("mean", "looks"),
    [
        (np.array([[-1.0, 3.0], [2.5, 0.5]]), r"float64 of shape \(2, 2\), from -1 to 3, with sums from 2 to 3\. If"),
        (np.array([1.0, 2.0], np.float32), r"float32 of shape \(2,\)\. If"),
        ([np.zeros([2]), np.zeros([3])], r"float64 of shape \(2,\); float64 of shape \(3,\)\. If"),
    ],
    ids=["logits", "numbers", "rows of several shapes"],
)
def test_other_outputs_have_none_and_the_error_says_what_they_look_like(name: str, mean: object, looks: str) -> None:
    with pytest.raises(ValueError, match=f"^{name} needs class probabilities: .* outputs' mean is {looks}.*softmax"):
        getattr(MCPrediction(mean, mean), name)


def test_a_history_keeps_values_and_their_steps() -> None:
    history = History()
    history.add(5, {"loss": 3.0, "accuracy": 0.5})
    history.add(10, {"loss": 2.0})
    assert dict(history) == {"loss": [3.0, 2.0], "accuracy": [0.5]}
    assert history.steps["loss"] == [5, 10]
    assert history.steps["accuracy"] == [5]
    assert len(history) == 2
    assert repr(history) == "History(loss: 2 values, last 2.0, accuracy: 1 values, last 0.5)"


def test_a_name_that_was_not_reported_is_told_what_was() -> None:
    history = History()
    with pytest.raises(KeyError, match="no metric named 'loss' was reported; there are none"):
        history["loss"]
    history.add(1, {"eval/loss": 3.0})
    with pytest.raises(KeyError, match="there are eval/loss"):
        history["loss"]
    assert "loss" not in history
