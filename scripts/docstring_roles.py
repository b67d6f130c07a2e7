"""Extension of griffe for mkdocs.yml: shows Sphinx roles in docstrings, such as :class:`~a.B`, as code."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

_ROLE = re.compile(r":(?:class|func|meth|data|mod|attr|exc):`(~?)([\w.]+)`")


class DocstringRoles(Extension):
    """Replaces each role in every docstring by the name that it refers to."""

    def on_instance(self, *, obj: Object, **kwargs: Any) -> None:
        """Rewrite the docstring of an object that griffe has read."""
        if obj.docstring is not None:
            obj.docstring.value = _ROLE.sub(_name, obj.docstring.value)


def _name(role: re.Match[str]) -> str:
    shortened, target = role.groups()
    return f"`{target.rpartition('.')[2] if shortened else target}`"
