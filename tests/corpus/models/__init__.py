"""The healthy models: none may raise or be reported in any phase."""

from tests.corpus.healthy import HEALTHY as HEALTHY
from tests.corpus.models import applications as applications
from tests.corpus.models import attention as attention
from tests.corpus.models import containers as containers
from tests.corpus.models import fine_tuning as fine_tuning
from tests.corpus.models import generative as generative
from tests.corpus.models import recurrent as recurrent
from tests.corpus.models import regularised as regularised
from tests.corpus.models import subclassed as subclassed
