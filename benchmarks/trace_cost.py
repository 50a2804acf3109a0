"""What the guard and the contract cost: the time to trace a training step with both, against the plain trace.

    python benchmarks/trace_cost.py
    python benchmarks/trace_cost.py --models=MobileNetV2 --rounds=3

Each round traces the same step three times, one after the other: plain, plain again (the control), and guarded with its
contract. The table has the medians, in seconds of the processor, and the medians of the rounds' ratios. Neither adds an
op, so a step that runs costs nothing more; `tests/test_guard.py` compares the graphs.
"""

import gc
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf
import tf_keras
from absl import app, flags

import trainloop
from trainloop import Phase

_MODELS = flags.DEFINE_list("models", ["EfficientNetB0", "NASNetMobile"], "Names in tf_keras.applications.")
_ROUNDS = flags.DEFINE_integer("rounds", 7, "How often each variant is traced.", lower_bound=1)
_SIZE = flags.DEFINE_integer("size", 64, "Height and width of the images.", lower_bound=32)


def train_step(name: str, size: int) -> tuple[Callable[..., Any], tuple[tf.Tensor, tf.Tensor]]:
    """Returns a training step of a model with all its variables made, and a batch."""
    model = getattr(tf_keras.applications, name)(weights=None, input_shape=(size, size, 3), classes=10)
    optimizer = tf_keras.optimizers.Adam()
    optimizer.build(model.trainable_variables)
    loss = tf_keras.losses.SparseCategoricalCrossentropy()

    def step(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            value = loss(y, model(x, training=True))
        variables = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(value, variables), variables, strict=True))
        return value

    return step, (tf.zeros([2, size, size, 3]), tf.zeros([2], tf.int32))


def seconds(trace: Callable[[], Any]) -> float:
    """Returns the processor's time: to trace is Python's work alone, and other work on the machine counts less so."""
    gc.collect()
    start = time.process_time()
    trace()
    return time.process_time() - start


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unknown argument {argv[1]!r}")
    print(
        f"TensorFlow {tf.__version__}, tf-keras {tf_keras.__version__}, {os.cpu_count()} cores, {_ROUNDS.value} rounds"
    )
    print("| model | plain | guard and contract | ratio | control |\n|---|---|---|---|---|")
    for name in _MODELS.value:
        step, batch = train_step(name, _SIZE.value)

        def plain(step: Any = step, batch: Any = batch) -> Any:
            return tf.function(step).get_concrete_function(*batch)

        def guarded(step: Any = step, batch: Any = batch) -> None:
            report = trainloop.contract(step, Phase.TRAIN, *batch)
            assert report.verdict == "holds", str(report)

        plain()  # what is imported and cached at the first trace is nobody's
        rounds = [(seconds(plain), seconds(plain), seconds(guarded)) for _ in range(_ROUNDS.value)]
        medians = [statistics.median(each) for each in zip(*rounds, strict=True)]
        control, ratio = (statistics.median(each[column] / each[0] for each in rounds) for column in (1, 2))
        print(f"| {name} | {medians[0]:.2f} s | {medians[2]:.2f} s | {ratio:.3f} | {control:.3f} |", flush=True)


if __name__ == "__main__":
    app.run(main)
