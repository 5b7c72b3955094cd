"""How much does a trained model give away about its training data?

`mia_lightning.audit` runs a whole audit from Python; `mia-lightning` does the same from the command line. The public
names stand in `__init__.pyi`; nothing heavy is imported before one of them is used.
"""

import sys
from types import ModuleType

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ = ["__version__", *__all__]


class _Package(ModuleType):
    def __setattr__(self, name: str, value: object) -> None:
        # Importing the submodule `audit` would put the module in the place of the function.
        super().__setattr__(name, value.audit if name == "audit" and isinstance(value, ModuleType) else value)


sys.modules[__name__].__class__ = _Package
