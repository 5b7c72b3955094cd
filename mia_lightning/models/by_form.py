"""Which architecture fits records of a form, where nobody has chosen one."""

import inspect
from collections.abc import Callable, Collection
from typing import Any

from torch import nn

from mia_lightning.datasets.form import Form
from mia_lightning.datasets.population import Population
from mia_lightning.errors import InputError
from mia_lightning.models.audio_cnn import AudioCNN
from mia_lightning.models.cnn import CNN
from mia_lightning.models.mlp import MLP
from mia_lightning.models.tabular import Tabular
from mia_lightning.models.takes import Takes
from mia_lightning.models.text_cnn import TextCNN

ARCHITECTURES: dict[str, type[nn.Module]] = {
    "audio_cnn": AudioCNN,
    "cnn": CNN,
    "mlp": MLP,
    "tabular": Tabular,
    "text_cnn": TextCNN,
}
"""By their names in `conf/model`, whose settings are the defaults of the classes."""


def fitting(form: Form) -> str | None:
    """The name of an architecture in `conf/model` that takes such records; None where there is none.

    A table of numbers and categories goes to `tabular`, and so do numbers with names, whose scales differ, or with
    gaps; tokens go to `text_cnn`, a waveform to `audio_cnn`, an image to `cnn`, other quantities to `mlp`. Tokens, a
    waveform and an image must be the whole record.
    """
    kinds = {field.kind for field in form.fields}
    if not form.is_one:
        return "tabular" if kinds <= {"numeric", "category"} else None
    of_table = any(field.columns or field.has_gaps for field in form.fields)
    by_kind = {
        "tokens": "text_cnn",
        "waveform": "audio_cnn",
        "image": "cnn",
        "numeric": "tabular" if of_table else "mlp",
    }
    return by_kind.get(kinds.pop())


def path_of(name: str) -> str:
    """The path of an architecture of `ARCHITECTURES`, as a configuration names it."""
    made = ARCHITECTURES[name]
    return f"{made.__module__}.{made.__qualname__}"


def chosen_for(population: Population) -> tuple[str, str]:
    """The name of the architecture that fits records with a form, and a sentence that says so.

    Raises:
        InputError: there is none.
    """
    assert population.form is not None
    name = fitting(population.form)
    if name is None:
        raise InputError(
            f"`model` is not set, and a record of {population.name} is {population.form.words}, which no "
            "architecture of conf/model takes; give your own by `model`, on the command line by model=custom "
            "model._target_=my_package.Net."
        )
    return name, f"`model` is not set: it is {name}, which fits records that are {population.form.words}."


OF_NUMBERS = ("num_numeric", "category_sizes")
"""What is known of records without a form: all of their entries are numbers."""


def check_takes(make: Callable[..., object], made: Any, told: Collection[str], population: Population) -> None:
    """Refuse records that an architecture of this package does not take; of others nothing is known.

    Args:
        make: what makes the network.
        made: the class or function inside.
        told: the names of its arguments that are set.

    Raises:
        InputError: it takes others, or none of which no form is known.
    """
    takes: Takes | None = getattr(made, "__dict__", {}).get("takes_records")  # of its own: a subclass may take others
    form = population.form
    if takes is None or (takes.fits(form) and (form is not None or _is_told(make, told))):
        return
    name = None if form is None else fitting(form)
    if form is None:
        mend = "use model=mlp, or say by `kinds` what its values are"
    elif name is None:
        mend = "give a network of your own, on the command line by model=custom model._target_=my_package.Net"
    else:
        mend = f"use model={name}, or leave `model` out"
    what = f"numbers or pixels {list(population.input_shape)}" if form is None else form.words
    raise InputError(
        f"`model` makes a {made.__name__}, which takes {takes.words}, but a record of {population.name} is {what}; "
        f"{mend}."
    )


def _is_told(make: Callable[..., object], told: Collection[str]) -> bool:
    """Whether all is set that the form of records would say."""
    try:
        parameters = inspect.signature(make).parameters.values()
    except ValueError:  # it is given a name that it does not know, and says so when it is called
        return True
    needed = {each.name for each in parameters if each.default is each.empty} - {"num_classes"}
    return needed <= {*told, "input_shape", *OF_NUMBERS}
