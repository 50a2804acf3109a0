"""The effects of a graph: every draw and write is found, wherever it stands, and nothing else is."""

import pytest
import tensorflow as tf
import tf_keras
from tf_keras import layers, optimizers

from trainloop import Phase, guard, tracing
from trainloop.effects import GraphEffects, read_effects
from trainloop.variables import handles, variables_held_by


def read(function, *args) -> GraphEffects:
    """What a function does, traced outside of any scope."""
    return read_effects(tf.function(function).get_concrete_function(*args), tracing.Trace())


def kinds(function, *args) -> list[str]:
    return sorted({effect.kind for effect in read(function, *args).effects})


def written(function, variables, *args) -> set[str]:
    """The names of the variables that a function writes; fails where a write has no variable."""
    names = {id(handle): variable.name for variable in variables for handle in handles(variable)}
    return {names[id(effect.target)] for effect in read(function, *args).effects if effect.kind == "write"}


DRAWS = {
    "uniform": lambda: tf.random.uniform([2]),
    "int": lambda: tf.random.uniform([2], maxval=5, dtype=tf.int32),
    "normal": lambda: tf.random.normal([2]),
    "truncated": lambda: tf.random.truncated_normal([2]),
    "gamma": lambda: tf.random.gamma([2], 1.0),
    "poisson": lambda: tf.random.poisson([2], 1.0),
    "categorical": lambda: tf.random.categorical([[0.0, 1.0]], 2),
    "shuffle": lambda: tf.random.shuffle([1, 2, 3]),
    "stateless": lambda: tf.random.stateless_uniform([2], seed=[1, 2]),
    "stateless categorical": lambda: tf.random.stateless_categorical([[0.0, 1.0]], 2, seed=[1, 2]),
    "stateless truncated": lambda: tf.random.stateless_truncated_normal([2], seed=[1, 2]),
    "stateless binomial": lambda: tf.random.stateless_binomial([2], [1, 2], 1.0, 0.5),
    "stateless shuffle": lambda: tf.random.experimental.stateless_shuffle([1, 2, 3], seed=[1, 2]),
    "index shuffle": lambda: tf.random.experimental.index_shuffle(1, seed=[1, 2], max_index=4),
    "dropout": lambda: tf.nn.dropout(tf.ones([3]), 0.5),
    "candidates": lambda: tf.random.uniform_candidate_sampler([[1]], 1, 2, unique=True, range_max=5),
    "pooling": lambda: tf.nn.fractional_max_pool(tf.ones([1, 4, 4, 1]), 1.5),
    "crop": lambda: tf.image.random_crop(tf.ones([4, 4, 3]), [2, 2, 3]),
    "box": lambda: tf.image.stateless_sample_distorted_bounding_box([4, 4, 3], [[[0.0, 0.0, 1.0, 1.0]]], [1, 2]),
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_draws_are_found(draw):
    assert kinds(draw) == ["random"]


def test_a_generator_draws():
    generator = tf.random.Generator.from_seed(1)
    assert kinds(lambda: generator.normal([2])) == ["random"]


def test_what_only_looks_random_draws_nothing():
    fixed = lambda: tf.raw_ops.FractionalMaxPool(  # noqa: E731
        value=tf.ones([1, 4, 4, 1]), pooling_ratio=[1.0, 1.5, 1.5, 1.0], deterministic=True, seed=1, seed2=1
    )
    assert kinds(fixed) == []
    assert kinds(lambda: tf.raw_ops.StatelessRandomGetAlg(name=None)) == []
    assert kinds(lambda: tf.raw_ops.StatelessRandomGetKeyCounter(seed=[1, 2])) == []


@pytest.fixture
def variable():
    return tf.Variable([1.0, 2.0], name="here")


WRITES = {
    "assign": lambda v: v.assign([0.0, 1.0]),
    "add": lambda v: v.assign_add([0.0, 1.0]),
    "sub": lambda v: v.assign_sub([0.0, 1.0]),
    "slice": lambda v: v[0].assign(1.0),
    "scatter": lambda v: v.scatter_update(tf.IndexedSlices([1.0], [0])),
    "scatter nd": lambda v: v.scatter_nd_add([[0]], [1.0]),
    "cond": lambda v: tf.cond(v[0] > 0, lambda: v.assign_add([1.0, 1.0]), lambda: v + 1),
    "case": lambda v: tf.switch_case(tf.cast(v[0], tf.int32), [lambda: v.assign_add([1.0, 1.0]), lambda: v + 1]),
    "while": lambda v: tf.while_loop(lambda i: i < 3.0, lambda i: i + v.assign_add([1.0, 1.0])[0], [0.0]),
    "map": lambda v: tf.map_fn(lambda x: x + v.assign_add([1.0, 1.0]), tf.ones([3])),
    "function": lambda v: tf.function(lambda: v.assign_add([1.0, 1.0]))(),
    "nested": lambda v: tf.function(lambda: tf.cond(v[0] > 0, lambda: tf.function(v.assign)([1.0, 1.0]), v.value))(),
    "compiled": lambda v: tf.function(lambda: v.assign_add([1.0, 1.0]), jit_compile=True)(),
}  # fmt: skip


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_writes_are_found_and_resolved(write, variable):
    assert written(lambda: write(variable), [variable]) == {"here:0"}


def test_a_function_given_one_variable_then_another_writes_both():
    one, other = tf.Variable(1.0, name="one"), tf.Variable(2.0, name="other")
    raise_by = tf.function(lambda v: v.assign_add(1.0))
    assert written(lambda: raise_by(one) + raise_by(other), [one, other]) == {"one:0", "other:0"}


@pytest.mark.parametrize("read_it", [lambda v: v + 1.0, lambda v: tf.gather(v, [0]), lambda v: v[0], lambda v: v.shape])
def test_reading_is_no_effect(read_it, variable):
    assert kinds(lambda: read_it(variable)) == []


def test_reads_are_found(variable):
    found = read(lambda: tf.cond(variable[0] > 0, lambda: tf.gather(variable, [0]), lambda: tf.zeros([1])))
    assert found.reads == [variable.handle]


def test_a_lookup_table_is_written_by_inserting():
    table = tf.lookup.experimental.MutableHashTable(tf.string, tf.int64, -1)

    def insert():
        table.insert(["a"], [1])

    [effect] = read(insert).effects
    assert effect.kind == "write"
    assert [effect.target] == handles(table)
    assert kinds(lambda: table.lookup(tf.constant(["a"]))) == []


def test_what_is_stateful_for_other_reasons_is_no_effect(tmp_path):
    writer = tf.summary.create_file_writer(str(tmp_path))
    table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(["a"], [1]), -1)
    numbers = tf.data.Dataset.range(3)

    def step(x):
        tf.print(x)
        tf.debugging.assert_positive(x)
        x = tf.debugging.check_numerics(x, "not finite")
        with writer.as_default(step=1):
            tf.summary.scalar("x", x[0])
        array = tf.TensorArray(tf.float32, 1).write(0, x)
        total = tf.constant(0, tf.int64)
        for number in numbers:
            total += number
        return array.stack() + tf.cast(table.lookup(tf.constant("a")), tf.float32) + tf.cast(total, tf.float32)

    assert kinds(step, tf.ones([2])) == []


@pytest.mark.parametrize(
    "call",
    [
        lambda x: tf.py_function(lambda value: value, [x], tf.float32),
        lambda x: tf.numpy_function(lambda value: value, [x], tf.float32),
        lambda x: tf.map_fn(lambda row: tf.numpy_function(lambda value: value, [row], tf.float32), x),
    ],
)
def test_a_python_function_is_unknown(call):
    assert kinds(call, tf.ones([2])) == ["unknown"]


def test_a_python_function_that_is_said_to_have_no_state_is_believed():
    call = lambda x: tf.numpy_function(lambda value: value, [x], tf.float32, stateful=False)  # noqa: E731
    assert kinds(call, tf.ones([2])) == []


def test_draws_inside_a_data_set_are_found():
    def step():
        total = tf.constant(0.0)
        for number in tf.data.Dataset.range(3).map(lambda number: tf.random.uniform([], seed=1)):
            total += number
        return total

    assert kinds(step) == ["random"]


def recurrent(cell) -> tf_keras.Model:
    return tf_keras.Sequential([layers.Input([5, 3]), cell, layers.Dense(1)])


def attention() -> tf_keras.Model:
    inputs = tf_keras.Input([5, 3])
    return tf_keras.Model(inputs, layers.MultiHeadAttention(2, 3, dropout=0.1)(inputs, inputs))


MODELS = {
    "lstm": lambda: recurrent(layers.LSTM(4)),
    "gru": lambda: recurrent(layers.Bidirectional(layers.GRU(4))),
    "rnn": lambda: recurrent(layers.RNN([layers.LSTMCell(4, dropout=0.1), layers.GRUCell(4)])),
    "attention": attention,
    "embedding": lambda: tf_keras.Sequential([layers.Input([5], dtype="int32"), layers.Embedding(9, 3)]),
    "time distributed": lambda: recurrent(layers.TimeDistributed(layers.BatchNormalization())),
    "conv": lambda: tf_keras.Sequential(
        [layers.Input([5, 3]), layers.SeparableConv1D(4, 2), layers.BatchNormalization(), layers.Dropout(0.1)]
    ),
}  # fmt: skip


def training_step(model, optimizer):
    optimizer.build(model.trainable_variables)

    def step(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(x, training=True)))
            scaled = optimizer.get_scaled_loss(loss) if hasattr(optimizer, "get_scaled_loss") else loss
        gradients = tape.gradient(scaled, model.trainable_variables)
        if hasattr(optimizer, "get_unscaled_gradients"):
            gradients = optimizer.get_unscaled_gradients(gradients)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))

    return step


def all_variables(model, optimizer):
    return variables_held_by(tf.train.Checkpoint(model=model, optimizer=optimizer))


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_each_write_of_a_training_step_is_resolved_and_nothing_is_unknown(make):
    model, optimizer = make(), optimizers.Adam(clipnorm=1.0)
    step = training_step(model, optimizer)
    spec = tf.TensorSpec([2, *model.input_shape[1:]], model.inputs[0].dtype)
    assert "unknown" not in kinds(step, spec)
    trained = {variable.name for variable in model.trainable_variables}
    assert trained <= written(step, all_variables(model, optimizer), spec)


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: optimizers.SGD(0.1, momentum=0.9),
        optimizers.Adagrad,
        optimizers.Ftrl,
        lambda: optimizers.RMSprop(centered=True),
        lambda: tf_keras.mixed_precision.LossScaleOptimizer(optimizers.Adam(global_clipnorm=1.0)),
    ],
)
def test_every_optimizer_is_resolved_with_sparse_gradients(optimizer):
    model, optimizer = MODELS["embedding"](), optimizer()
    step, spec = training_step(model, optimizer), tf.TensorSpec([2, 5], tf.int32)
    assert "unknown" not in kinds(step, spec)
    assert {v.name for v in model.trainable_variables} <= written(step, all_variables(model, optimizer), spec)


def test_writes_of_each_replica_are_resolved(two_replicas):
    with two_replicas.scope():
        model = tf_keras.Sequential(
            [layers.Input([3]), layers.Dense(2), layers.BatchNormalization(), layers.Dropout(0.1)]
        )
        optimizer = optimizers.Adam()
        step = training_step(model, optimizer)
    run = lambda x: two_replicas.run(step, (x,))  # noqa: E731
    found = read(run, tf.ones([4, 3]))
    ids = [id(effect.target) for effect in found.effects if effect.kind == "write"]
    expected = {id(handle) for variable in model.variables for handle in handles(variable)}
    assert len(expected) == 2 * len(model.variables)
    assert expected <= set(ids)
    assert written(run, all_variables(model, optimizer), tf.ones([4, 3])) >= {v.name for v in model.variables}
    assert {effect.kind for effect in found.effects} == {"random", "write"}


class Scoped:
    """Traces a function in a phase, and keeps what was recorded."""

    def __init__(self, function, *args):
        traces = []

        def step(*inputs):
            with guard.scope("train", Phase.TRAIN.policy) as scope:
                traces.append(scope.trace)
                return function(*inputs)

        concrete = tf.function(step).get_concrete_function(*args)
        self.found = read_effects(concrete, traces[-1])

    @property
    def owners(self) -> list[str]:
        return [effect.owner.path if effect.owner else "" for effect in self.found.effects if effect.kind == "random"]


def test_a_draw_belongs_to_the_innermost_layer_call_that_made_it():
    inner = tf_keras.Sequential([layers.Dropout(0.5), layers.Lambda(lambda x: tf.nn.dropout(x, 0.5), name="raw")])
    model = tf_keras.Sequential([layers.Dense(3), inner, layers.GaussianNoise(0.1)])
    scoped = Scoped(lambda x: model(x) + tf.random.normal([]), tf.ones([2, 3]))
    assert scoped.owners == ["sequential/dropout", "sequential/raw", "gaussian_noise", ""]


class DrawingAfterwards(layers.Layer):
    def __init__(self, **options):
        super().__init__(**options)
        self.drop = layers.Dropout(0.5)

    def call(self, inputs):
        return tf.nn.dropout(self.drop(inputs), 0.5)


def test_a_draw_after_an_inner_call_belongs_to_the_outer_layer():
    scoped = Scoped(DrawingAfterwards(name="outer"), tf.ones([2, 3]))
    assert scoped.owners == ["drop", "outer"]


def test_a_draw_in_a_loop_or_a_function_belongs_to_the_layer_around_it():
    looped = layers.Lambda(lambda x: tf.map_fn(lambda row: tf.nn.dropout(row, 0.5), x), name="looped")
    called = layers.Lambda(tf.function(lambda y: tf.nn.dropout(y, 0.5)), name="called")
    scoped = Scoped(lambda x: called(looped(x)), tf.ones([2, 3]))
    assert scoped.owners == ["looped", "called"]
    assert all(effect.is_here for effect in scoped.found.effects)


def test_a_function_that_was_traced_before_is_told_apart():
    dropout = layers.Dropout(0.5, name="inside")
    inner = tf.function(lambda x: dropout(x, training=True))
    inner(tf.ones([2, 3]))
    layer = layers.Lambda(inner, name="outside")
    scoped = Scoped(layer, tf.ones([2, 3]))
    [effect] = scoped.found.effects
    assert not effect.is_here
    assert scoped.owners == ["outside"]
    [earlier] = scoped.found.earlier
    assert earlier.owner is not None
    assert earlier.owner.path == "outside"
    assert "inside" in earlier.scopes


def test_declared_draws_are_told_apart_also_where_only_their_seed_is():
    def function(x):
        with tracing.recorded() as trace, trace.declaring():
            mask, seed = tf.random.uniform([2]), tf.random.uniform([2], maxval=9, dtype=tf.int32)
        shuffled = tf.random.stateless_uniform([2], seed=seed)
        inside = tf.map_fn(lambda row: row + tf.random.stateless_uniform([], seed=seed + 1), x)
        return mask + shuffled + inside + tf.random.uniform([2]) + tf.random.stateless_uniform([2], seed=[1, 2])

    found = Scoped(function, tf.ones([2])).found.effects
    assert [(effect.op.type, effect.is_declared) for effect in found] == [
        ("RandomUniform", True),
        ("RandomUniformInt", True),
        ("StatelessRandomUniformV2", True),
        ("StatelessRandomUniformV2", True),
        ("RandomUniform", False),
        ("StatelessRandomUniformV2", False),
    ]
