"""The table of calls in docs/clients.md is that of the routes that exist."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from fastapi.routing import APIRoute

from s2vnet.server.protocols import itksnap, monailabel, nninteractive

PAGE = (Path(__file__).parents[1] / "docs" / "clients.md").read_text()
CALL = re.compile(r"(?:[A-Z]+ )?(/[\w{},./?=|-]*)")
ONE_OF = {"/infer/scribbles": "/infer/{}", "/scoring/dice": "/scoring/{}"}
ONE_OF |= {f"/proxy/dicom/{service}/{{}}": "/proxy/dicom/{}" for service in ("wado", "qido", "stow")}
"""Paths that the page lists for some values of a parameter, and those of their routes."""


def plain(path: str) -> str:
    """A path without names of parameters, query, slash at its end, and the prefix of ITK-SNAP's newer form."""
    path = re.sub(r"\{[^}]*\}|\.\.\.", "{}", path.partition("?")[0]).removeprefix("/v2").rstrip("/")
    return ONE_OF.get(path, path)


def routes(router: Any) -> set[str]:
    """Paths of a router and of those that it includes."""
    paths = set[str]()
    for route in router.routes:
        if isinstance(route, APIRoute):
            paths.add(plain(route.path))
        elif hasattr(route, "original_router"):
            paths |= routes(route.original_router)
    return paths


def listed(heading: str) -> set[str]:
    """Paths that the page lists under a heading."""
    section = PAGE.partition(f"## {heading}")[2].partition("\n## ")[0]
    spans = [
        span
        for line in section.splitlines()
        for span in re.findall(r"`([^`]*)`", line.split("|")[line.startswith("|")])
    ]
    paths = {match[1] for span in spans if (match := CALL.fullmatch(span))}
    ways = [re.split(r"\{([^}]*,[^}]*)\}", path) for path in paths]  # {a,b} stands for both
    return {plain("".join(each)) for parts in ways for each in product(*(part.split(",") for part in parts))}


@pytest.mark.parametrize(
    ("heading", "routers"),
    [
        ("Calls of MONAI Label's clients", [monailabel.router]),
        ("Calls of nnInteractive's and ITK-SNAP's clients", [nninteractive.router, itksnap.router]),
    ],
)
def test_the_listed_calls_are_the_routes(heading: str, routers: list[Any]) -> None:
    own = {
        "",
        "/monailabel",
        "/nninteractive",
        "/nninteractive/CLASS",
        "/nninteractive/CLASS/AXES",
    }  # of the application
    assert listed(heading) - own == {path for router in routers for path in routes(router)} - own
