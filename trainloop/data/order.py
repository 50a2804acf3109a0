"""The order of the rows in an epoch: a permutation drawn from Philox(seed, epoch), any stretch of which can be had."""

from __future__ import annotations

import math

import numpy as np

_DRAWN_WHOLE = 1 << 17  # rows: their permutation takes 2 ms and 1 MB; 10^7 rows would take 0.8 s and 80 MB
_ROUNDS = 8


class Order:
    """The order of the rows in one epoch.

    Few rows are shuffled as NumPy does it, which gives every order the same chance. Of many rows a permutation is drawn
    that need not be written down to be known: a Feistel network whose round functions are tables of Philox draws. Any
    place in it costs the same, so a run that is resumed deep in an epoch of 10^9 rows waits for 2 ms.

    Args:
      rows: How many rows there are.
      seed: Of the order, from 0 to 2**64 - 1.
      epoch: Whose order it is.

    References:
      Luby and Rackoff, How to Construct Pseudorandom Permutations from Pseudorandom Functions, 1988.
      Black and Rogaway, Ciphers with Arbitrary Finite Domains, CT-RSA 2002.
      Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, SC 2011 (Philox).
    """

    def __init__(self, rows: int, seed: int, epoch: int):
        self.rows = rows
        generator = np.random.Generator(np.random.Philox(key=np.array([seed, epoch], np.uint64)))
        self._whole: np.ndarray | None = None
        if rows <= _DRAWN_WHOLE:
            self._whole = generator.permutation(rows).astype(np.int64)
            return
        # A place is a pair (row, column) of a grid that has at most sqrt(rows) places too many. In turns, each of the
        # two is moved round by as much as the table has for the other.
        self._columns = math.isqrt(rows - 1) + 1
        self._grid_rows = -(-rows // self._columns)
        sizes = [(self._columns, self._grid_rows), (self._grid_rows, self._columns)] * (_ROUNDS // 2)
        self._tables = [generator.integers(0, modulus, size=size, dtype=np.int64) for modulus, size in sizes]

    def between(self, start: int, stop: int) -> np.ndarray:
        """Returns the rows that stand at the places from `start` up to `stop`: int64."""
        if self._whole is not None:
            return self._whole[start:stop]
        found = self._permuted(np.arange(start, min(stop, self.rows), dtype=np.int64))
        while (outside := found >= self.rows).any():  # followed on until a place is one that there is
            found[outside] = self._permuted(found[outside])
        return found

    def _permuted(self, places: np.ndarray) -> np.ndarray:
        row, column = np.divmod(places, self._columns)
        for number, table in enumerate(self._tables):
            if number % 2 == 0:
                column += table[row]
                column -= self._columns * (column >= self._columns)
            else:
                row += table[column]
                row -= self._grid_rows * (row >= self._grid_rows)
        return row * self._columns + column


class InOrder:
    """Rows that stand as they are."""

    def __init__(self, rows: int):
        self.rows = rows

    def between(self, start: int, stop: int) -> np.ndarray:
        """Returns the rows from `start` up to `stop`: int64."""
        return np.arange(start, min(stop, self.rows), dtype=np.int64)
