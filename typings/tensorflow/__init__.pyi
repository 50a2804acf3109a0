"""Declares the package untyped; `[tool.pyright]` in pyproject.toml says why."""

from typing import Any

def __getattr__(name: str) -> Any: ...
