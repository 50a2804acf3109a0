"""The mutants: every way of losing the phase, planted into healthy models."""

from tests.corpus.mutants import baked as baked
from tests.corpus.mutants import bypassed as bypassed
from tests.corpus.mutants import hard_wired as hard_wired
from tests.corpus.mutants import lost as lost
from tests.corpus.mutants import stale as stale
from tests.corpus.mutants import stubborn as stubborn
from tests.corpus.mutants import unseen as unseen
from tests.corpus.mutation import MUTANTS as MUTANTS
