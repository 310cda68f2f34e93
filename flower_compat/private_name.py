"""How a name of Flower's that is not of its public API is listed."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class PrivateName:
    """One name.

    Attributes:
        name: Module and attribute.
        used_by: Our module, in flower_compat.
        reason: What for, and which public way is missing.
        parameters: Of a function that is called or changed, all of them in order.
        attributes: That are used of a class or module.
    """

    name: str
    used_by: str
    reason: str
    parameters: tuple[str, ...] | None = None
    attributes: tuple[str, ...] = ()


def functions(module: str, used_by: str, reason: str, **parameters: str) -> tuple[PrivateName, ...]:
    """Functions of one module; the parameters of each in a line."""
    return tuple(
        PrivateName(
            name=f"{module}.{name}", used_by=used_by, reason=reason, parameters=tuple(names.split())
        )
        for name, names in parameters.items()
    )


def names_of(module: str, used_by: str, reason: str, names: str) -> tuple[PrivateName, ...]:
    """Names of one module."""
    return tuple(
        PrivateName(name=f"flwr.{module}.{name}", used_by=used_by, reason=reason)
        for name in names.split()
    )
