"""Settings, typed once: what a setting may be stands at its field, and every violation is one sentence. No torch."""

from mia_lightning.settings.checking import checked as checked
from mia_lightning.settings.checking import settings as settings
