"""Who trained on what: the plans `disjoint`, `halves` and `given`."""

from mia_lightning.membership.bernoulli import Bernoulli as Bernoulli
from mia_lightning.membership.disjoint import Disjoint as Disjoint
from mia_lightning.membership.given import Given as Given
from mia_lightning.membership.halves import Halves as Halves
from mia_lightning.membership.matrices import Membership as Membership
from mia_lightning.membership.matrices import Plan as Plan
