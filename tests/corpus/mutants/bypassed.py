"""`layer.call(x)` and the like: calls that go round what Keras hands down."""

from __future__ import annotations

from typing import Any

from tf_keras import layers

from tests.corpus.mutants.hard_wired import sites_of
from tests.corpus.mutation import OFF, ON, Mutant, plant
from tests.corpus.sites import Site
from tests.corpus.subject import Subject


class Direct(layers.Layer):
    """Stands around a layer and invokes its `call`."""

    def __init__(self, layer: Any, said: dict[str, bool], **options: Any):
        super().__init__(**options)
        self.layer, self.said = layer, said

    def build(self, shape):
        self.layer.build(shape)
        super().build(shape)

    def call(self, x):
        return self.layer.call(x, **self.said)


def _go_round(mutation: str, said: dict[str, bool], exposed: Any, sites: tuple[Site, ...]) -> None:
    for site in sites:

        def build(site: Site = site) -> Subject:
            return site.plant(lambda layer: Direct(layer, said, name=site.path.split("/")[-1]))

        plant(Mutant(mutation, str(site), build, site.path, exposed, contradicts=True))


# Others that draw (GaussianNoise, AlphaDropout, the recurrent layers) ask Keras's context themselves, and lose nothing.
SMALL = sites_of("dropout", "batch_norm", hosts=("Forwarding", "functional"))
_go_round("layer.call(x)", {}, OFF, SMALL)
_go_round("layer.call(x)", {}, ON, sites_of("augmentation"))
_go_round("layer.call(x, training=False)", {"training": False}, OFF, SMALL)
_go_round("layer.call(x, training=True)", {"training": True}, ON, SMALL)
