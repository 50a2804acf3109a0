"""The callbacks that come with trainloop."""

from trainloop.callbacks.checkpointing import Checkpointing
from trainloop.callbacks.early_stopping import EarlyStopping
from trainloop.callbacks.inference import Inference
from trainloop.callbacks.keras_callback import KerasCallback
from trainloop.callbacks.metrics_log import MetricsLog
from trainloop.callbacks.profiler import Profiler
from trainloop.callbacks.progress_bar import ProgressBar
from trainloop.callbacks.stop_on_nan import NonFiniteLossError, StopOnNaN
from trainloop.callbacks.tensorboard import TensorBoard
from trainloop.callbacks.weight_averaging import WeightAveraging

__all__ = [
    "Checkpointing",
    "EarlyStopping",
    "Inference",
    "KerasCallback",
    "MetricsLog",
    "NonFiniteLossError",
    "Profiler",
    "ProgressBar",
    "StopOnNaN",
    "TensorBoard",
    "WeightAveraging",
]
