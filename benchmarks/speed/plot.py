"""The figure: what a step costs with each peer, and how cost grows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from benchmarks.speed import contents, rounds
from benchmarks.speed.document import Results
from benchmarks.speed.peers import BASELINE, CONTROL, TRAINING
from benchmarks.speed.workloads import WORKLOADS

_OURS, _OTHERS, _OF_CONTROL = "#c44e52", "#4c72b0", "#999999"


def draw(results: Results, path: Path) -> None:
    """Draws what there is of the results to a PNG file; nothing where there is nothing."""
    training = {name: each["found"] for name, each in results.items() if name.startswith(f"{contents.TRAINING} ")}
    growing = [(name, results[name]["found"]) for name in ("steps", "depth", "rows", "callbacks") if name in results]
    lines = [line for line in (training, growing) if line]
    if not lines:
        return
    columns = max(map(len, lines))
    figure, grid = plt.subplots(len(lines), columns, figsize=(4.6 * columns, 4.4 * len(lines)), squeeze=False)
    for axis in grid.flat:
        axis.set_visible(False)
    measured = {peer for found in training.values() for peer in found["seconds"]} - {BASELINE}
    peers = [peer for peer in TRAINING if peer in measured][::-1]
    for place, (axis, (name, found)) in enumerate(zip(grid[0], training.items(), strict=False)):
        _draw_ratios(axis, found, peers, named=place == 0)
        _finish(axis, WORKLOADS[name.split()[1]].title.replace(", ", "\n", 1), "seconds / best loop written by hand")
    for axis, (name, found) in zip(grid[-1], growing, strict=False):
        _draw_growth(axis, name, found)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw_ratios(axis: Any, found: dict[str, Any], peers: Sequence[str], *, named: bool) -> None:
    """Draws a bar for each peer in a row of its own, which is empty where that peer was not measured."""
    names = [peer for peer in peers if peer in found["seconds"]]
    ratios = [rounds.ratio(found["seconds"], name, BASELINE) for name in names]
    spread = [[each.median - each.low for each in ratios], [each.high - each.median for each in ratios]]
    colours = [_OF_CONTROL if n == CONTROL else _OURS if n.startswith("trainloop") else _OTHERS for n in names]
    places = [peers.index(name) for name in names]
    axis.barh(places, [each.median for each in ratios], xerr=spread, color=colours, ecolor="black")
    axis.axvline(1.0, color="black", linewidth=0.8, linestyle="--")
    axis.set_ylim(-0.6, len(peers) - 0.4)
    axis.set_yticks(range(len(peers)), [_plain(peer) if named else "" for peer in peers])


def _draw_growth(axis: Any, name: str, found: dict[str, Any]) -> None:
    if name == "steps":
        _draw_line(axis, found["steps"][1:], found["seconds_a_step"][1:], "trainloop")
        memory = axis.twinx()
        memory.set_ylabel("MiB")
        memory.plot(
            found["steps"], found["mebibytes"], color=_OF_CONTROL, marker="s", label="memory in use, MiB (right)"
        )
        memory.set_ylim(0, 1.6 * max(found["mebibytes"]))
        memory.legend(loc="lower right", fontsize="small")
    else:
        for peer, seconds in found["seconds_a_step"].items():
            _draw_line(axis, found["depths" if name == "depth" else name], seconds, peer)
    axis.set_xscale("symlog" if name == "callbacks" else "log")
    if name == "depth":
        axis.set_yscale("log")
        axis.set_ylim(top=10 * axis.get_ylim()[1])
    else:
        axis.set_ylim(0, 1.3 * axis.get_ylim()[1])
    axis.set_ylabel("µs a step")
    axis.legend(loc="upper left", fontsize="x-small")
    _finish(axis, {"depth": "layers"}.get(name, name), "")


def _draw_line(axis: Any, sizes: Sequence[int], seconds: Sequence[float], peer: str) -> None:
    axis.plot(sizes, [each * 1e6 for each in seconds], marker="o", label=_plain(peer))


def _plain(peer: str) -> str:
    return TRAINING[peer].title.replace("`", "")


def _finish(axis: Any, title: str, label: str) -> None:
    axis.set_visible(True)
    axis.set_title(title)
    axis.set_xlabel(label)
