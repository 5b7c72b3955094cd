"""What would help: the same recipe trained with and without each remedy, and what each does to leakage and utility."""

from mia_lightning.remedies.files import read_remedies as read_remedies
from mia_lightning.remedies.schema import RemedyReport as RemedyReport
from mia_lightning.remedies.trying import try_remedies as try_remedies
