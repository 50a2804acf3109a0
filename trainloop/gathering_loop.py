"""The inner loop of PREDICT, whose outputs are gathered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from trainloop import batches
from trainloop.results import StepResult
from trainloop.steps import InnerLoop, Take
from trainloop.user_code import own_exceptions


class GatheringLoop(InnerLoop):
    """The inner loop of PREDICT: steps whose outputs are gathered, row by row in the order of the data.

    The method is `(batch, phase) -> outputs`, or a StepResult that has some.
    """

    @property
    def can_join(self) -> bool:
        """Whether the outputs are dense rows of one known shape, as they must be to be put together on the device."""
        if self._run_eagerly:
            return False
        leaves = tf.nest.flatten(self._step.structured_outputs)
        return all(
            isinstance(leaf, tf.Tensor) and leaf.shape.rank not in (None, 0) and leaf.shape[1:].is_fully_defined()
            for leaf in leaves
        )

    def run(self, iterator: Any, steps: int, first: int = 0, *, inline: bool = False) -> tuple[int, Any]:
        """Runs up to `steps` steps (one where their outputs cannot be joined).

        Args:
          iterator: The batches.
          steps: How many steps to run at most; a positive number.
          first: How many batches of the pass came before these.
          inline: Whether the batches can be taken inline; then there have to be as many as `steps`.

        Returns:
          How many were run, and the nest of their outputs; None where none was.
        """
        with own_exceptions():
            self.prepare(iterator, inline=inline)
            if not self.can_join:
                following = iterator.get_next_as_optional()
                if not following.has_value():
                    return 0, None
                return 1, self._run_step(following.get_value(), tf.constant(first, tf.int64))
            done, outputs = self._run_loop(iterator, steps, first, inline)
        return int(done), outputs if done > 0 else None

    def _finish(self, returned: Any, part: Any, rows: tf.Tensor) -> Any:
        method = getattr(self._method, "__name__", "predict_step")
        outputs = returned.outputs if isinstance(returned, StepResult) else returned
        if outputs is None:
            raise ValueError(
                f"{method} returned no outputs; it must return a nest of tensors or StepResult(outputs=...)"
            )
        return tf.nest.map_structure(_dense, outputs), rows

    def _merge(self, outcomes: Sequence[Any]) -> Any:
        if len(outcomes) == 1:
            return outcomes[0][0]
        return batches.join([outputs for outputs, _ in outcomes], [rows for _, rows in outcomes])

    def _many(self, take: Take, iterator: Any, steps: tf.Tensor, first: tf.Tensor) -> Any:
        specs = tf.nest.flatten(self._step.structured_outputs)
        start = [
            tf.TensorArray(spec.dtype, 0, dynamic_size=True, infer_shape=False, element_shape=[None, *spec.shape[1:]])
            for spec in specs
        ]

        def body(done: tf.Tensor, arrays: list[tf.TensorArray], batch: Any) -> tuple[Any, ...]:
            outputs = tf.nest.flatten(self._run_step(self._batch(batch), first + tf.cast(done, tf.int64)))
            written = [array.write(done, value) for array, value in zip(arrays, outputs, strict=True)]
            done = done + 1
            return done, written, self._ahead(take, iterator, wanted=done < steps)

        done, arrays, _ = tf.while_loop(
            lambda done, arrays, batch: batch.has_value(),
            body,
            (tf.constant(0, tf.int32), start, self._ahead(take, iterator)),
        )
        joined = [
            tf.cond(done > 0, array.concat, lambda spec=spec: tf.zeros([0, *spec.shape[1:]], spec.dtype))
            for array, spec in zip(arrays, specs, strict=True)
        ]
        return done, tf.nest.pack_sequence_as(self._step.structured_outputs, joined)


def _dense(leaf: Any) -> Any:
    return tf.sparse.to_dense(leaf) if isinstance(leaf, tf.SparseTensor) else leaf
