"""Output defences as a person types them, composed from conf/defense as an audit composes them."""

from collections.abc import Sequence

from mia_lightning.command.job import instantiate
from mia_lightning.command.mistakes import config_directory, is_bad_input, translate
from mia_lightning.defenses.interface import OutputDefense, split_defenses
from mia_lightning.errors import InputError


def output_defenses(typed: Sequence[str]) -> tuple[OutputDefense, ...]:
    """The defences that `rounding`, `top_k.k=3` and the like name, in the order of their first mention.

    Raises:
        InputError: an unknown defence or setting, or one that changes training.
    """
    if not typed:
        return ()
    names = list(dict.fromkeys(each.partition("=")[0].partition(".")[0] for each in typed))
    settings = [f"defense.{each}" for each in typed if "=" in each]
    bare = next((each for each in typed if "=" not in each and "." in each), None)
    if bare is not None or not all(name.isidentifier() for name in names):
        raise InputError(
            f"`--defense` is {bare or typed[0]!r}; give the name of a defence, or a setting of a defence, such as "
            "rounding.digits=2."
        )
    composed = _composed([f"defense=[{','.join(names)}]", *settings])
    made = [instantiate(node, f"defense.{name}") for name, node in composed.items() if name != "adaptive"]
    outputs, trainings = split_defenses(made)
    if trainings:
        raise InputError(
            f"`--defense` {trainings[0].name} changes how a model is trained, but this model is trained already; "
            "choose an output defence, such as rounding, top_k or labels_only."
        )
    return outputs


def _composed(overrides: list[str]) -> dict[str, object]:
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    try:
        with initialize_config_dir(str(config_directory()), version_base="1.3"):
            section = OmegaConf.to_container(compose("config", overrides=overrides).defense, resolve=True)
    except Exception as error:
        if not is_bad_input(error):
            raise
        raise InputError(translate(error)) from error
    assert isinstance(section, dict)
    return {str(name): value for name, value in section.items()}
