"""Data for a run: rows addressed by step, and adapters for `tf.data`.

A run's position in its data is two integers, the epoch and the batch in it. What `from_arrays`, `from_source` and `zip`
make can start anywhere at no cost; a `tf.data.Dataset` keeps its position in an iterator, which is saved with the rest
where TensorFlow can save it, and `from_dataset` says what is done where it cannot.
"""

from trainloop.data.addressed import AddressedData, Batch
from trainloop.data.arrays import ArrayData, from_arrays
from trainloop.data.datasets import DatasetStream, ResumedDataset, from_dataset
from trainloop.data.nodes import can_be_taken_inline
from trainloop.data.reading import (
    Data,
    check_data,
    check_taken,
    is_same,
    one_pass,
    training_stream,
    unwrapped,
    what_changed,
)
from trainloop.data.sources import Source, SourceData, from_source
from trainloop.data.streams import AddressedStream, Stream
from trainloop.data.zipped import ZippedData, zip

__all__ = [
    "AddressedData",
    "AddressedStream",
    "ArrayData",
    "Batch",
    "Data",
    "DatasetStream",
    "ResumedDataset",
    "Source",
    "SourceData",
    "Stream",
    "ZippedData",
    "can_be_taken_inline",
    "check_data",
    "check_taken",
    "from_arrays",
    "from_dataset",
    "from_source",
    "is_same",
    "one_pass",
    "training_stream",
    "unwrapped",
    "what_changed",
    "zip",
]
