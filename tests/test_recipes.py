"""The recipes: each is run, shortened, to a stated result."""

import importlib
from pathlib import Path

import pytest
import tf_keras

from trainloop import data
from trainloop.tasks import digits

RECIPES = sorted(path.stem for path in (Path(__file__).resolve().parent.parent / "recipes").glob("*.py"))


def run(name: str, **shortened: int) -> dict[str, float]:
    return importlib.import_module(f"recipes.{name}").train(**shortened)


def test_classifier():
    scores = run("classifier", steps=150)
    assert min(scores.values()) > 0.93


def test_vae():
    scores = run("vae", steps=200)
    assert scores["nats per image"] < 26.8  # 27.2 where every image is taken for the mean of all
    assert scores["kl"] > 1.0


def test_gan():
    scores = run("gan", steps=40)
    assert scores["after"] < 0.6 * scores["distance before"]


def test_distillation():
    scores = run("distillation", steps=150)
    assert scores["teacher"] > 0.9
    assert scores["small net, taught"] > 0.7  # it has seen no label


def test_ema_teacher():
    scores = run("ema_teacher", steps=300)
    assert scores["mean teacher"] > scores["by itself"] + 0.005


def test_what_the_ema_teacher_says_is_a_part_of_the_loss():
    """Its average alone beats no teacher too, so the scores would not show that."""
    recipe = importlib.import_module("recipes.ema_teacher")
    images, labels = (part[:64] for part in digits.load().train)
    nets = {
        name: tf_keras.Sequential([tf_keras.Input([8, 8, 1]), tf_keras.layers.Flatten(), tf_keras.layers.Dense(10)])
        for name in ("student", "teacher")
    }
    loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    of_labels = float(loss(labels, nets["student"](images)))
    optimizer = {"student": tf_keras.optimizers.SGD(0.0)}
    trainer = recipe.MeanTeacher(nets, optimizer, loss=loss, default_callbacks=False)
    history = trainer.fit(data.from_arrays((images, labels), batch_size=64), steps=1)
    [reported], [consistency] = history["loss"], history["consistency"]
    assert reported == pytest.approx(of_labels + recipe.WEIGHT * consistency, rel=1e-5)
    assert reported > of_labels + 0.01


def test_transfer():
    scores = run("transfer", steps=200)
    assert scores["transferred"] > scores["from scratch"] + 0.01


def test_transformer():
    scores = run("transformer", steps=40, depth=1)
    assert scores["nats per character"] < 3.0  # 3.24 for one who knows only how often each character comes


def test_adversarial():
    scores = run("adversarial", steps=100)
    assert scores["adversarial training, attacked"] > scores["usual training, attacked"] + 0.1
    assert scores["adversarial training, not attacked"] > 0.9


def test_module_model():
    assert run("module_model", steps=120)["test accuracy"] > 0.9


@pytest.mark.parametrize("name", RECIPES)
def test_each_recipe_has_a_test_and_a_line_in_its_document(name):
    assert f"test_{name}" in globals()
    document = (Path(__file__).resolve().parent.parent / "docs" / "recipes.md").read_text()
    assert f"| [{name}.py](../recipes/{name}.py) |" in document
