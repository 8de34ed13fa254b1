"""Which parameters of a model are attributed."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from traklens.stores.errors import UsageError


def attributed_parameters(model: nn.Module, modules: str = "", frozen: Sequence[str] = ()) -> list[str]:
    """Names of the parameters whose gradients are attributed: all that take gradients but the `frozen` ones.

    With `modules`, comma-separated patterns ("visual.*, *.mlp.*"), those whose name, or the name of a module around
    them, one of them matches. UsageError for a pattern that matches nothing, and for a model of which nothing is trained.
    """
    every = [name for name, p in model.named_parameters() if p.requires_grad and name not in frozen]
    if not every:
        raise UsageError(
            "model",
            "no parameter that requires gradients",
            "some that training changes",
            "Unfreeze what was trained.",
        )
    patterns = [pattern.strip() for pattern in modules.split(",") if pattern.strip()]
    if not patterns:
        return every
    matched = {pattern: [name for name in every if _is_within(name, pattern)] for pattern in patterns}
    for pattern, names in matched.items():
        if not names:
            tops = ", ".join(dict.fromkeys(name.split(".")[0] for name in every))
            raise UsageError("modules", f"{pattern!r}, which is no parameter's", f"names below {tops}", "Correct it.")
    return [name for name in every if any(name in names for names in matched.values())]


def _is_within(name: str, pattern: str) -> bool:
    """Whether a pattern matches a parameter's name or that of a module around it."""
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[:end]), pattern) for end in range(1, len(parts) + 1))
