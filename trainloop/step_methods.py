"""What one step does: the methods that a researcher overrides, and the tape behind them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import tensorflow as tf

from trainloop import (
    arguments,
    batches,
    before_updates,
    gradient_sums,
    keras_hooks,
    numbering,
    results,
    signatures,
    step_context,
)
from trainloop.gradient_sums import Gradient
from trainloop.losses import Loss, LossSpec, Metrics
from trainloop.origins import warn_user
from trainloop.phase import Phase
from trainloop.results import StepResult
from trainloop.user_code import call_user

# The framework's own methods are traced as they are; user code is converted where they call it (`call_user`).
_as_written = tf.autograph.experimental.do_not_convert

Gradients = dict[str, list[Gradient]]
_Method = TypeVar("_Method", bound=Callable[..., Any])


def _of_compute_loss(method: _Method) -> _Method:
    """Marks a step method that returns what `compute_loss` has: in messages it goes by that name."""
    vars(method)["speaks_for"] = "compute_loss"
    return method


class StepMethods:
    """The models, their optimizers, and the steps made of them; the base of `Trainer`, which adds the loop.

    Attributes:
      model: The model, or the dict of models, as given.
      optimizer: The optimizer, or the dict of optimizers, as given (wrapped where float16 needs loss scaling).
      loss: Callable `(targets, outputs, sample_weight=None) -> scalar`, or None.
      microbatches: Into how many slices `train_step` cuts a batch.
    """

    def __init__(
        self,
        model: Any,
        optimizer: Any = None,
        *,
        loss: LossSpec | None = None,
        loss_weights: Any = None,
        metrics: Any = None,
        unweighted_metrics: Any = None,
        microbatches: int = 1,
        jit_compile: bool = False,
        report_gradient_norm: bool = False,
    ):
        signatures.check_step_methods(self, StepMethods)
        self.models = arguments.check_models(model)
        self.optimizers = arguments.check_optimizers(optimizer, self.models, isinstance(model, Mapping))
        self.model = model
        # Any, here and for the loss: a subclass knows what it was given, and its type checker need not ask for None.
        self.optimizer: Any = self.optimizers if isinstance(optimizer, Mapping) else self.optimizers.get("model")
        self.strategy = arguments.find_strategy(self.models)
        self.microbatches = arguments.check_positive(microbatches, "microbatches")
        self.jit_compile = jit_compile
        self.report_gradient_norm = report_gradient_norm
        output_names = getattr(model, "output_names", None)
        self.loss: Any = None if loss is None else Loss(loss, loss_weights, output_names)
        self.metrics = Metrics(metrics, unweighted_metrics, output_names)
        self._building = False
        overridden = [name for name in ("compute_loss", "train_step") if self._overrides(name)]
        if self.loss is None and not overridden and self.optimizers:
            raise ValueError(
                "loss=None, and neither compute_loss nor train_step is overridden, so there is nothing to minimise. "
                "Give loss=..., or override compute_loss(self, batch, phase) in a subclass"
            )
        if report_gradient_norm and self._overrides("train_step"):
            raise ValueError(
                f"report_gradient_norm=True is done by the Trainer's own train_step, but {type(self).__name__} "
                "overrides it; return the norm among the scalars of your step"
            )
        if self.microbatches > 1 and self._overrides("train_step"):
            raise ValueError(
                f"microbatches={microbatches} slices the batch of the Trainer's own train_step, but "
                f"{type(self).__name__} overrides train_step; override compute_loss instead, or slice in your own step"
            )
        self._warn_of_steps_of_models()

    if not TYPE_CHECKING:  # else every misspelt attribute would pass the type checker

        def __getattr__(self, name: str) -> Any:
            """Called for what is not there: before the constructor has run, that is everything."""
            if "_building" not in vars(self) and not name.startswith("__"):
                raise AttributeError(
                    f"{type(self).__name__} has no {name} yet: its __init__ must call super().__init__(model, "
                    "optimizer, ...) before anything else is asked of it"
                )
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)

    @_as_written
    def compute_loss(self, batch: Any, phase: Phase) -> Any:
        """Returns the loss of a batch; override it for any loss that is not a function of `(y, model(x))`.

        It is to be pure, and may be called in TRAIN and in EVAL. The losses that the models themselves hold
        (`model.losses`: regularisation, `add_loss`) are added to what it returns.

        Args:
          batch: One batch, or a replica's or microbatch's part of it.
          phase: The phase to call models in: `phase.call(self.model, x)`.

        Returns:
          A scalar loss, `(loss, outputs)`, or a `StepResult`.
        """
        if self.loss is None:
            method = "eval_step" if self._overrides("train_step") else "compute_loss"
            raise ValueError(f"loss=None; give loss=..., or override {method}(self, batch, phase)")
        outputs = call_user(phase.call, self._only_model("compute_loss"), batches.unpack(batch)[0])
        return self._loss_of_outputs(batch, outputs), outputs

    @_of_compute_loss
    @_as_written
    def train_step(self, batch: Any, phase: Phase) -> Any:
        """Makes one update; override it for several models, tapes or optimizers.

        A step makes the same updates every time: no `apply_gradients` inside a condition on tensors.

        Args:
          batch: One batch, or a replica's part of it.
          phase: `Phase.TRAIN`.

        Returns:
          A `StepResult`, or a dict of the scalars to report.
        """
        result, gradients_by_key = self._forward_backward(batch, phase)
        if self._overrides("compute_loss"):  # else all it returns is a loss, and what that is computed from
            result, gradients_by_key = before_updates.computed_first(result, gradients_by_key)
        if self.report_gradient_norm:
            gradients_by_key = self._summed_over_replicas(gradients_by_key)
            norm = gradient_sums.global_norm([g for each in gradients_by_key.values() for g in each])
            if "gradient_norm" in result.scalars:
                raise ValueError(
                    "compute_loss returned a scalar named 'gradient_norm', which report_gradient_norm=True reports "
                    "too; give the scalar another name"
                )
            result.scalars = {**result.scalars, "gradient_norm": norm}
        for key, found in gradients_by_key.items():
            self._apply(found, key, is_summed=self.report_gradient_norm)
        return result

    @_of_compute_loss
    @_as_written
    def eval_step(self, batch: Any, phase: Phase) -> Any:
        """Returns the `StepResult` (or a dict of scalars) of a batch in EVAL; by default that of `compute_loss`."""
        return self._loss_of(batch, phase)

    @_as_written
    def predict_step(self, batch: Any, phase: Phase) -> Any:
        """Returns the outputs (any nest of tensors, or `StepResult(outputs=)`) for a batch; by default the model's."""
        return call_user(phase.call, self._only_model("predict_step"), batches.unpack(batch)[0])

    @_as_written
    def gradients(
        self, tape: tf.GradientTape, loss: tf.Tensor, key: str | None = None, weight: tf.Tensor | None = None
    ) -> list[Gradient]:
        """Returns the gradients of a loss by the trainable variables of a model.

        Loss scaling is done and undone here. With several replicas each gradient counts with its replica's share of the
        batch, so that their sum is the gradient of the mean over all rows.

        Args:
          tape: The tape that recorded the loss.
          loss: Scalar; the mean over this replica's part of the batch.
          key: The model's key where there are several.
          weight: What the loss counts; the rows of the part by default.

        Returns:
          A gradient for each of the model's trainable variables.
        """
        return self._gradients(tape, loss, self._key(key), self._share(weight))

    @_as_written
    def apply_gradients(self, found: Sequence[Gradient], key: str | None = None) -> None:
        """Updates the trainable variables of a model; gradients are summed over the replicas, then clipped.

        Args:
          found: What `gradients` returned.
          key: The model's key where there are several.
        """
        self._apply(found, self._key(key), is_summed=False)

    def trainable_variables(self, key: str | None = None) -> list[tf.Variable]:
        """Returns the variables of a model that are trained as things stand."""
        return list(self.models[self._key(key, any_model=True)].trainable_variables)

    @_of_compute_loss
    @_as_written
    def _loss_of(self, batch: Any, phase: Phase) -> StepResult:
        trained = [self.models[key] for key in self.optimizers or self.models]
        for model in trained:
            keras_hooks.forget_losses(model)
        result = results.from_compute_loss(call_user(self.compute_loss, batch, phase), "compute_loss")
        mask = None if self._overrides("compute_loss") else keras_hooks.mask_of(result.outputs)
        if mask is not None:  # Keras takes the mean over what is not masked, so that is what the loss counts
            result.weight = tf.reduce_sum(tf.cast(mask, tf.float32))
        for loss in self._penalties():
            result.loss += tf.cast(loss, result.loss.dtype)
        return result

    def _loss_of_outputs(self, batch: Any, outputs: Any) -> tf.Tensor:
        """Returns what `loss=` makes of some outputs for a batch."""
        assert self.loss is not None  # compute_loss has asked
        _, targets, sample_weight = batches.unpack(batch)
        return self.loss(targets, outputs, sample_weight)

    def _penalties(self) -> list[tf.Tensor]:
        """Returns what the models themselves add to the loss, as of their last calls."""
        return [loss for key in self.optimizers or self.models for loss in getattr(self.models[key], "losses", ())]

    def _forward(self, batch: Any, phase: Phase) -> Any:
        """Calls the models as `train_step` does, as far as that can be had without an update."""
        if self._overrides("compute_loss"):
            return self._loss_of(batch, phase)
        if not self._overrides("train_step"):
            return call_user(phase.call, self._only_model("update_bn"), batches.unpack(batch)[0])
        return call_user(self.eval_step if self._overrides("eval_step") else self.predict_step, batch, phase)

    def _forward_backward(self, batch: Any, phase: Phase) -> tuple[StepResult, Gradients]:
        """Returns the result of this replica's part of the batch, and its gradients, counted by the part's share."""
        if step_context.required().replicas == 1:
            return self._accumulated(batch, phase)
        if self.microbatches == 1 and not self.jit_compile:
            return self._one_tape(batch, phase, by_share=True)
        if self.jit_compile:
            # XLA cannot compile the exchange between replicas, so it gets what comes before. The function is made anew
            # for each replica, because each sees its own copy of the variables.
            fields, found = tf.function(self._accumulated_fields, autograph=False, jit_compile=True)(batch, phase)
            result = StepResult(**fields)
        else:
            result, found = self._accumulated(batch, phase)
        share = self._share(result.weight)
        return result, {key: gradient_sums.dense(gradient_sums.scale(each, share)) for key, each in found.items()}

    def _accumulated_fields(self, batch: Any, phase: Phase) -> tuple[dict[str, Any], Gradients]:
        with numbering.function_of_step():
            result, found = self._accumulated(batch, phase)
        return vars(result), found

    def _accumulated(self, batch: Any, phase: Phase) -> tuple[StepResult, Gradients]:
        """Returns the weighted mean over the microbatches, one after the other so that memory is that of one."""
        if self.microbatches == 1:
            return self._one_tape(batch, phase)
        here = step_context.required().rows
        parts: list[StepResult] = []
        counts: list[tf.Tensor] = []
        weights: list[tf.Tensor] = []
        total: Gradients = {}
        for index in range(self.microbatches):
            part, rows = batches.part(batch, index, self.microbatches)
            done = [g for each in total.values() for g in each if g is not None]
            with tf.control_dependencies(done):
                part = tf.nest.map_structure(tf.identity, part, expand_composites=True)
            result, found = self._one_tape(part, phase)
            weight = tf.cast(rows if result.weight is None else result.weight, tf.float32)
            weights.append(tf.where((rows > 0) & (here > 0), weight, tf.zeros_like(weight)))
            found = {key: gradient_sums.scale(each, weights[-1]) for key, each in found.items()}
            total = {key: gradient_sums.add(total[key], each) for key, each in found.items()} if total else found
            parts.append(result)
            counts.append(rows)
        weight = tf.add_n(weights)
        inverse = tf.math.divide_no_nan(1.0, weight)
        return _mean(parts, counts, weights, weight), {
            k: gradient_sums.scale(each, inverse) for k, each in total.items()
        }

    def _one_tape(self, batch: Any, phase: Phase, *, by_share: bool = False) -> tuple[StepResult, Gradients]:
        with tf.GradientTape(persistent=len(self.optimizers) > 1) as tape:
            result = self._loss_of(batch, phase)
        share = self._share(result.weight) if by_share else None
        return result, {key: self._gradients(tape, result.loss, key, share) for key in self.optimizers}

    def _gradients(self, tape: tf.GradientTape, loss: tf.Tensor, key: str, share: tf.Tensor | None) -> list[Gradient]:
        found = gradient_sums.compute(tape, loss, self.trainable_variables(key), self.optimizers[key], share)
        # The exchange of sparse gradients fails where their number of rows changes from step to step.
        return found if share is None else gradient_sums.dense(found)

    def _share(self, weight: tf.Tensor | None) -> tf.Tensor | None:
        """Returns how much of the batch's weight is in this replica's part; None where there is but one replica."""
        context = step_context.current()
        if context is None or context.replicas == 1:
            return None
        if weight is None:
            return tf.cast(context.rows, tf.float32) / tf.cast(context.total_rows, tf.float32)
        weight = tf.where(context.rows > 0, tf.cast(weight, tf.float32), 0.0)
        return tf.math.divide_no_nan(weight, tf.distribute.get_replica_context().all_reduce("sum", weight))

    def _summed_over_replicas(self, found: Gradients) -> Gradients:
        if step_context.required().replicas == 1:
            return found
        context = tf.distribute.get_replica_context()

        def summed(each: list[Gradient]) -> list[Gradient]:
            there = iter(context.all_reduce("sum", [g for g in each if g is not None]))
            return [None if g is None else next(there) for g in each]

        return {key: summed(each) for key, each in found.items()}

    def _apply(self, found: Sequence[Gradient], key: str, *, is_summed: bool) -> None:
        if self._building:  # a trace that only lets the layers make their variables
            return
        pairs = zip(found, self.trainable_variables(key), strict=True)
        self.optimizers[key].apply_gradients(pairs, skip_gradients_aggregation=is_summed)

    def _key(self, key: str | None, *, any_model: bool = False) -> str:
        known = self.models if any_model else self.optimizers
        if key is None and len(known) == 1:
            return next(iter(known))
        if key not in known:
            what = "models" if any_model else "optimizers"
            raise ValueError(f"key={key!r}: the {what} of this Trainer have the keys {', '.join(map(repr, known))}")
        return key

    def _only_model(self, method: str) -> Any:
        if len(self.models) > 1:
            raise ValueError(
                f"{method}: with several models ({', '.join(self.models)}) the Trainer cannot know which to call; "
                f"override {method} in a subclass"
            )
        return next(iter(self.models.values()))

    def _warn_of_steps_of_models(self) -> None:
        """Warns where a model brings steps for `Model.fit`, and no method of a subclass has taken their place."""
        if any(map(self._overrides, signatures.STEP_METHODS)):  # whoever wrote that knows whose steps are called
            return
        for key, model in self.models.items():
            own = [
                n for n in keras_hooks.own_step_methods(model) if self.optimizers or n in ("test_step", "predict_step")
            ]
            if own:
                name = "model" if self.models.keys() == {"model"} else f"model[{key!r}]"
                warn_user(
                    f"{name}=: {type(model).__name__} overrides {', '.join(own)}, which a Trainer does not call; move "
                    "that code into compute_loss or train_step of a Trainer subclass"
                )

    def _overrides(self, name: str) -> bool:
        return getattr(type(self), name) is not getattr(StepMethods, name)

    def _build_optimizers(self) -> None:
        """Makes every slot, for frozen weights too, so that a stage that unfreezes them finds its slots in place."""
        for key, optimizer in self.optimizers.items():
            optimizer.build(keras_hooks.trainable_candidates(self.models[key]))


def _mean(parts: list[StepResult], counts: list[tf.Tensor], weights: list[tf.Tensor], weight: tf.Tensor) -> StepResult:
    """Returns the result of the whole batch: scalars as weighted means, everything else row by row."""

    def mean(values: list[tf.Tensor]) -> tf.Tensor:
        sums = [tf.math.multiply_no_nan(tf.cast(v, tf.float32), w) for v, w in zip(values, weights, strict=True)]
        return tf.math.divide_no_nan(tf.add_n(sums), weight)

    def joined(name: str) -> Any:
        found = [getattr(part, name) for part in parts]
        return None if found[0] is None else batches.join(found, counts)

    return StepResult(
        loss=mean([part.loss for part in parts]),
        outputs=joined("outputs"),
        targets=joined("targets"),
        sample_weight=joined("sample_weight"),
        weight=weight,
        scalars={name: mean([part.scalars[name] for part in parts]) for name in parts[0].scalars},
    )
