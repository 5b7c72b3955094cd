"""Who trained on what: the plans `disjoint`, `halves`, `given`, `bernoulli` and `one_canary`."""

from mia_lightning.membership.bernoulli import Bernoulli as Bernoulli
from mia_lightning.membership.disjoint import Disjoint as Disjoint
from mia_lightning.membership.given import Given as Given
from mia_lightning.membership.halves import Halves as Halves
from mia_lightning.membership.matrices import Membership as Membership
from mia_lightning.membership.one_canary import OneCanary as OneCanary
from mia_lightning.membership.plan import Plan as Plan
from mia_lightning.membership.plan import Wanted as Wanted
