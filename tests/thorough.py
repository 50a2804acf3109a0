"""Marks the cases of a test that vary what its other cases hold: only `make thorough` runs them."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def thorough(*values: Any) -> Any:
    """A case that `make test` leaves out."""
    return pytest.param(*values, marks=pytest.mark.thorough)


def sampled(cases: Iterable[Any], always: Collection[Any]) -> list[Any]:
    """All cases, of which `make test` runs these."""
    found = [case if case in always else thorough(*(case if isinstance(case, tuple) else (case,))) for case in cases]
    assert len([case for case in found if case in always]) == len(always), "there is no such case"
    return found
