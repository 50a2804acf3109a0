"""A network with a mode that it remembers, as in PyTorch, against a phase that each call is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tf_keras

from trainloop.phase import Phase
from trainloop.tasks import digits
from trainloop.tasks.scenarios.digits_models import classifier, to_train, trainer_of
from trainloop.tasks.scenarios.pretrained import dropped_share
from trainloop.tasks.scenarios.scenario import Measurement, Report, Scenario, mean_and_spread, over_seeds
from trainloop.tasks.scenarios.scores import draw_panels, scores_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class ModalNetwork:
    """A network in one of two modes, until another one is set.

    Args:
      network: Called with `training=` as the mode has it.
    """

    def __init__(self, network: tf_keras.Model):
        self.network = network
        self.training = True

    def train(self) -> None:
        """Sets the mode of training."""
        self.training = True

    def eval(self) -> None:
        """Sets the mode of evaluation."""
        self.training = False

    def __call__(self, images: np.ndarray) -> Any:
        """Runs the network in the mode that was set last, by whomever."""
        return self.network(images, training=self.training)


def _remembered(network: ModalNetwork, images: np.ndarray) -> Any:
    network.eval()
    outputs = network(images)
    network.train()
    return outputs


def _eval_forgotten(network: ModalNetwork, images: np.ndarray) -> Any:
    return network(images)


def _undone(network: ModalNetwork, images: np.ndarray) -> Any:
    network.eval()
    _training_outputs(network, images)
    outputs = network(images)
    network.train()
    return outputs


def _train_forgotten(network: ModalNetwork, images: np.ndarray) -> Any:
    network.eval()
    return network(images)


def _training_outputs(network: ModalNetwork, images: np.ndarray) -> Any:
    """A helper that needs the mode of training, and cannot know which one its caller had set."""
    network.train()
    return network(images)


def _phase(network: ModalNetwork, images: np.ndarray) -> Any:
    Phase.TRAIN.call(network.network, images)  # the same helper: nothing is left behind
    return Phase.EVAL.call(network.network, images)


HABITS: dict[str, Callable[[ModalNetwork, np.ndarray], Any]] = {
    "eval(), test, train()": _remembered,
    "eval() forgotten": _eval_forgotten,
    "eval() undone by a helper": _undone,
    "train() forgotten": _train_forgotten,
    "a phase for each call": _phase,
}


def measure(seed: int, epochs: int) -> Measurement:
    """Trains a classifier, tests it by each habit, and looks at what dropout does in the training after that.

    Args:
      seed: Of the weights, the order of the images, and the masks.
      epochs: How long the classifier is trained.
    """
    tf_keras.utils.set_random_seed(seed)
    model = classifier("dropout only")
    trainer_of(model, seed).fit(to_train(), epochs=epochs)
    drop = next(layer for layer in model.layers if isinstance(layer, tf_keras.layers.Dropout))
    seen = tf_keras.Model(model.inputs, [drop.input, drop.output, model.output])
    images, labels = digits.load().test
    found: dict[str, float | np.ndarray] = {}
    for habit, test in HABITS.items():
        network = ModalNetwork(seen)
        entered, left, probabilities = test(network, images)
        by_phase = habit == "a phase for each call"
        next_entered, next_left, _ = Phase.TRAIN.call(seen, images) if by_phase else network(images)
        reached = scores_of(np.asarray(probabilities), labels)
        found |= {
            f"{habit}: dropped": dropped_share(entered, left),
            f"{habit}: loss": reached.loss,
            f"{habit}: accuracy": reached.accuracy,
            f"{habit}: dropped next": dropped_share(next_entered, next_left),
        }
    return found


def report(measurements: Sequence[Measurement]) -> Report:
    """Tells what each habit does to the test, and to the training after it."""
    columns = {"dropped": "dropped in the test", "loss": "test loss", "accuracy": "test accuracy"}
    columns |= {"dropped next": "dropped in the next step of training"}

    def told(habit: str, name: str) -> str:
        return mean_and_spread(measurements, f"{habit}: {name}")

    return Report(
        columns=["habit", *columns.values()],
        rows=[[habit, *(told(habit, name) for name in columns)] for habit in HABITS],
        conclusion=(
            f"With eval() forgotten the test loss is {told('eval() forgotten', 'loss')} instead of "
            f"{told('eval(), test, train()', 'loss')}; with train() forgotten the next step drops "
            f"{told('train() forgotten', 'dropped next')} of the units. With a phase for each call it is "
            f"{told('a phase for each call', 'loss')}, and {told('a phase for each call', 'dropped next')}."
        ),
        draw=lambda figure: _draw(figure, measurements),
    )


def _draw(figure: Figure, measurements: Sequence[Measurement]) -> None:
    def of(what: str) -> dict[str, np.ndarray]:
        return {habit: over_seeds(measurements, f"{habit}: {what}") for habit in HABITS}

    panels = {"test loss (nats)": of("loss"), "dropped in the next step (share)": of("dropped next")}
    draw_panels(figure, panels, left=-0.02)


SCENARIO = Scenario(
    name="mode-as-state",
    row="C4",
    line="a mode that is remembered can be forgotten or undone; a phase is given to each call",
    measure=measure,
    report=report,
    epochs=10,
)
