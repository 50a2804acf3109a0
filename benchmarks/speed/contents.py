"""The sections of the page, in their order; each workload has one of its own."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.speed.sections import Section, growth, outside, passes, saving, side_by_side, start_up, training
from benchmarks.speed.workloads import WORKLOADS

TRAINING = "training"
SECTIONS: dict[str, Section] = {
    **{f"{TRAINING} {name}": training.section(name) for name in WORKLOADS},
    "side_by_side": side_by_side.SECTION,
    "outside": outside.SECTION,
    "steps": growth.STEPS,
    "depth": growth.DEPTH,
    "rows": growth.ROWS,
    "callbacks": growth.CALLBACKS,
    "start_up": start_up.SECTION,
    "saving": saving.SECTION,
    "passes": passes.SECTION,
}
PARTS = list(dict.fromkeys(name.split()[0] for name in SECTIONS))


def chosen(parts: Sequence[str], workloads: Sequence[str]) -> list[str]:
    """Returns the names of the sections of these parts; of `"training"` those of these workloads."""
    return [name for name in SECTIONS for part, *of in [name.split()] if part in parts and {*of} <= {*workloads}]
