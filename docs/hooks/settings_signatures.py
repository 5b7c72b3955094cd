"""For Griffe, which reads the package without running it: a class of `@settings` is a keyword-only dataclass."""

from dataclasses import dataclass
from typing import Any

import griffe


@dataclass(eq=False)
class _Dataclass(griffe.ExprCall):
    @property
    def canonical_path(self) -> str:
        return "dataclasses.dataclass"


class SettingsSignatures(griffe.DataclassesExtension):
    """Gives the classes of `@settings` the signature that they have, in types without their checks."""

    def __init__(self) -> None:
        super().__init__()
        self._settings: list[griffe.Class] = []

    def on_attribute_instance(self, *, attr: griffe.Attribute, **_: Any) -> None:
        attr.annotation = _without_checks(attr.annotation)

    def on_class_instance(self, *, cls: griffe.Class, **_: Any) -> None:
        for decorator in cls.decorators:
            if decorator.callable_path.startswith("mia_lightning.settings."):
                keyword = griffe.ExprKeyword("kw_only", "True")
                decorator.value = _Dataclass(function="settings", arguments=[keyword])
                self._settings.append(cls)

    def on_package(self, *, pkg: griffe.Module, loader: griffe.GriffeLoader, **kwargs: Any) -> None:
        super().on_package(pkg=pkg, loader=loader, **kwargs)
        for cls in self._settings:
            for parameter in cls.members["__init__"].parameters:
                field = cls.members[parameter.name].value if parameter.name in cls.members else None
                if "kw_only=False" in str(field):
                    parameter.kind = griffe.ParameterKind.positional_or_keyword
                made = getattr(parameter.default, "function", None)
                if isinstance(made, griffe.ExprLambda):  # default_factory=lambda: ...
                    parameter.default = made.body


def _without_checks(annotation: Any) -> Any:
    """A type without what its check is made of: `Annotated[X, ...]` as `X`."""
    if isinstance(annotation, griffe.ExprBinOp):
        left, right = _without_checks(annotation.left), _without_checks(annotation.right)
        return griffe.ExprBinOp(left=left, operator=annotation.operator, right=right)
    if isinstance(annotation, griffe.ExprTuple):
        elements = [_without_checks(each) for each in annotation.elements]
        return griffe.ExprTuple(elements, implicit=annotation.implicit)
    if not isinstance(annotation, griffe.ExprSubscript):
        return annotation
    if str(annotation.left) not in ("Annotated", "SkipValidation"):
        return griffe.ExprSubscript(annotation.left, _without_checks(annotation.slice))
    inner = annotation.slice
    return _without_checks(inner.elements[0] if isinstance(inner, griffe.ExprTuple) else inner)
