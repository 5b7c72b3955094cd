"""Data sets: each module loads one kind of data and returns a `Population`."""

from mia_lightning.datasets.population import Population as Population
from mia_lightning.datasets.population import make_population as make_population
