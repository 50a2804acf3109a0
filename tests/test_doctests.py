"""Runs the examples in the package's docstrings."""

import doctest
import importlib
import pkgutil

import pytest

import trainloop

MODULES = ["trainloop", *sorted(found.name for found in pkgutil.walk_packages(trainloop.__path__, "trainloop."))]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name, monkeypatch, tmp_path, capsys):
    module = importlib.import_module(name)
    monkeypatch.chdir(tmp_path)
    # doctest takes what is wrapped for a function of its wrapper's module, and leaves it out.
    wrapped = {name: each for name, each in vars(module).items() if hasattr(each, "__wrapped__")}
    wrapped = {name: each for name, each in wrapped.items() if each.__module__ == module.__name__}
    monkeypatch.setattr(module, "__test__", wrapped, raising=False)
    failed, _ = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert not failed, f"{failed} examples of {name} fail:\n{capsys.readouterr().out}"
