"""For Griffe, which reads the package without running it: a class of `@settings` is a keyword-only dataclass."""

from dataclasses import dataclass
from typing import Any

import griffe


@dataclass(eq=False)
class _Dataclass(griffe.ExprCall):
    @property
    def canonical_path(self) -> str:
        return "dataclasses.dataclass"


class SettingsSignatures(griffe.Extension):
    """Gives the classes of `@settings` the signature that they have, in types without their checks."""

    def on_attribute_instance(self, *, attr: griffe.Attribute, **_: Any) -> None:
        attr.annotation = _without_checks(attr.annotation)

    def on_class_instance(self, *, cls: griffe.Class, **_: Any) -> None:
        for decorator in cls.decorators:
            if decorator.callable_path.startswith("mia_lightning.settings."):
                keyword = griffe.ExprKeyword("kw_only", "True")
                decorator.value = _Dataclass(function="settings", arguments=[keyword])


def _without_checks(annotation: Any) -> Any:
    """A type without what its check is made of: `Annotated[X, ...]` as `X`."""
    if isinstance(annotation, griffe.ExprBinOp):
        left, right = _without_checks(annotation.left), _without_checks(annotation.right)
        return griffe.ExprBinOp(left=left, operator=annotation.operator, right=right)
    if not isinstance(annotation, griffe.ExprSubscript) or str(annotation.left) not in ("Annotated", "SkipValidation"):
        return annotation
    inner = annotation.slice
    return _without_checks(inner.elements[0] if isinstance(inner, griffe.ExprTuple) else inner)
