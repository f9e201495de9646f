"""The API's own document: what every route takes, answers and refuses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs

from dataguardian.api.errors import SCHEMA_NAME
from dataguardian.engines.registry import ENGINES
from dataguardian.service.secrets import MASK
from dataguardian.storage.registry import STORAGES
from tests.api.stage import Desk, play

WITHOUT_CATALOGUE = {"/health"}


def test_every_route_says_what_it_refuses(tmp_path: Path) -> None:
    """403 and 503 everywhere, 422 where something is sent, 404 where an id is, 413 and 415 where anything changes."""

    async def story(desk: Desk) -> None:
        document = (await desk.get("/api/openapi.json")).json()
        for path, method, operation in _operations(document):
            statuses = set(operation["responses"])
            wanted = {"403"} | ({"503"} if path not in WITHOUT_CATALOGUE else set())
            wanted |= {"422"} if operation.get("parameters") or "requestBody" in operation else set()
            wanted |= {"404"} if "_id}" in path else set()
            wanted |= {"413", "415"} if method != "get" else set()
            assert wanted <= statuses, (method, path, wanted - statuses)
            assert any(status.startswith("2") for status in statuses)
            assert operation["operationId"]

    play(tmp_path, story)


def test_every_error_has_the_one_shape_and_an_example(tmp_path: Path) -> None:
    """So a program that reads one error reads them all."""

    async def story(desk: Desk) -> None:
        document = (await desk.get("/api/openapi.json")).json()
        for path, method, operation in _operations(document):
            for status, answer in operation["responses"].items():
                if status < "400" or (path, status) == ("/ready", "503"):
                    continue
                content = answer["content"]["application/json"]
                assert content["schema"] == {"$ref": f"#/components/schemas/{SCHEMA_NAME}"}, (method, path, status)
                assert set(content["example"]) == {"error", "message", "details"}

    play(tmp_path, story)


def test_every_body_has_an_example_that_fits_it(tmp_path: Path) -> None:
    """Whoever copies one gets a body that is taken."""

    async def story(desk: Desk) -> None:
        document = (await desk.get("/api/openapi.json")).json()
        schemas = document["components"]["schemas"]
        bodies = {
            name for _, _, operation in _operations(document) for name in _names(operation.get("requestBody", {}))
        }
        assert bodies
        for name in bodies:
            examples = schemas[name].get("examples")
            assert examples, f"{name} has no example"
            for example in examples:
                jsonschema_rs.validate(
                    {"$ref": f"#/components/schemas/{name}", "components": document["components"]}, example
                )

    play(tmp_path, story)


def test_what_a_configuration_takes_is_told_apart_by_type(tmp_path: Path) -> None:
    """One body per engine and per storage that is installed, with its own fields."""

    async def story(desk: Desk) -> None:
        document = (await desk.get("/api/openapi.json")).json()
        for path, registry in (("/api/datasources", ENGINES), ("/api/storage-locations", STORAGES)):
            schema = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
            known = schema["discriminator"]["mapping"] if "discriminator" in schema else {"local": schema["$ref"]}
            assert set(known) == set(registry.adapters)
        postgres = document["components"]["schemas"]["PostgresConfig"]["properties"]
        assert postgres["password"]["anyOf"][0]["writeOnly"] is True
        assert MASK in str(document["components"]["schemas"]["DatasourceOut"])

    play(tmp_path, story)


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def _names(value: Any) -> Iterator[str]:
    """Yields the components that a piece of the document refers to."""
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"].rpartition("/")[2]
        for item in value.values():
            yield from _names(item)
    elif isinstance(value, list):
        for item in value:
            yield from _names(item)
