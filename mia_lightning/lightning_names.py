"""Classes of Lightning by name: `lightning.pytorch` has others than `pytorch_lightning`, and need not be there."""

_PACKAGES = ("pytorch_lightning.", "lightning.pytorch.")


def base_named(given: object, *names: str) -> type | None:
    """The first of Lightning's classes with one of the names among those of an object or class; None for none.

    A user's own class of such a name is none of them.
    """
    own = given if isinstance(given, type) else type(given)
    return next((each for each in own.__mro__ if each.__name__ in names and _is_lightning(each)), None)


def overrides(given: object, base: type | None, method: str) -> bool:
    """Whether an object has a method of its own, in place of that of `base`."""
    own = getattr(type(given), method, None)
    return method in vars(given) or (own is not None and own is not getattr(base, method, None))


def _is_lightning(cls: type) -> bool:
    return cls.__module__.startswith(_PACKAGES)
