"""The digits: their split, their augmentation, and that the configs fit the functions they name."""

import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from trainloop import launch
from trainloop.launch.config_file import ConfigFileParser
from trainloop.tasks import digits

ROOT = Path(__file__).resolve().parent.parent.parent


def test_the_split_is_fixed_disjoint_and_stratified():
    parts = digits.load()
    assert [len(labels) for _, labels in parts] == [1257, 180, 360]
    for images, labels in parts:
        assert (images.dtype, images.shape[1:], labels.dtype) == (np.float32, (8, 8, 1), np.int32)
        assert images.min() == 0
        assert images.max() == 1
        np.testing.assert_allclose(np.bincount(labels) / len(labels), 0.1, atol=0.01)
    seen = [{image.tobytes() for image in images} for images, _ in parts]
    assert not seen[0] & seen[1]
    assert not seen[0] & seen[2]
    assert not seen[1] & seen[2]
    for part, same in zip(parts, digits.load(), strict=True):
        np.testing.assert_array_equal(part[0], same[0])


def test_without_scikit_learn_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ImportError, match=r'pip install "trainloop-tf\[examples\]"'):
        digits.load()


def test_shift_moves_each_image_by_at_most_a_pixel():
    image = np.zeros([8, 8, 1], np.float32)
    image[3, 4] = 1
    batch = np.stack([image] * 200), np.arange(200)
    moved, labels = digits.shift(batch, tf.constant([5, 1], tf.int64))
    again, _ = digits.shift(batch, tf.constant([5, 1], tf.int64))
    _, rows, columns, _ = np.nonzero(moved)
    assert {(row, column) for row, column in zip(rows, columns, strict=True)} == {
        (row, column) for row in (2, 3, 4) for column in (3, 4, 5)
    }
    np.testing.assert_array_equal(labels, batch[1])
    np.testing.assert_array_equal(moved, again)


@pytest.mark.parametrize("config", sorted((ROOT / "configs").glob("*.py")), ids=lambda path: path.stem)
def test_each_config_builds_and_names_its_own_command(config, tmp_path):
    task = launch.build(ConfigFileParser().parse(str(config)), str(tmp_path / "run"))
    assert list(task.sets) == ["eval", "test"]
    assert f"--config=configs/{config.name} --workdir=runs/{config.stem}" in config.read_text()
    assert not (tmp_path / "run").exists()
