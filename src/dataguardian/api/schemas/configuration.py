"""Bodies of /api/system/compare."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Self

from pydantic import Field, JsonValue, StringConstraints

from dataguardian.api.schemas.common import ErrorOut, Input, JsonObject, Output, example
from dataguardian.service.configuration import Comparison, Kind, Wanted

MAX_ITEMS = 500


class WantedIn(Input):
    """How one definition should be: the fields of a change, or with `reference` null those of a new one."""

    kind: Kind
    reference: Annotated[
        Annotated[str, StringConstraints(max_length=200)] | None,
        Field(description="Its id, or a setting's key; null for what is to be created"),
    ] = None
    fields: JsonObject

    def wanted(self) -> Wanted:
        return Wanted(self.kind, self.reference, self.fields)


class CompareIn(Input):
    model_config = example(
        {
            "items": [
                {
                    "kind": "datasource",
                    "reference": "0199e0a2-0000-7000-8000-000000000000",
                    "fields": {"connection_config": {"password": "secret"}},
                }
            ]
        }
    )

    items: Annotated[list[WantedIn], Field(max_length=MAX_ITEMS)]


class DifferenceOut(Output):
    field: Annotated[str, Field(description="A dotted path")]
    before: Annotated[JsonValue, Field(description="null: not there. Secrets are masked")]
    after: JsonValue


class ComparisonOut(Output):
    differences: list[DifferenceOut]
    problem: Annotated[ErrorOut | None, Field(description="Why it could not be written")]

    @classmethod
    def of(cls, comparison: Comparison) -> Self:
        problem = comparison.problem
        return cls(
            differences=[
                DifferenceOut(field=item.field, before=item.before, after=item.after) for item in comparison.differences
            ],
            problem=None if problem is None else ErrorOut.model_validate(problem.as_json()),
        )


class CompareOut(Output):
    items: Annotated[list[ComparisonOut], Field(description="In the order in which they were asked for")]

    @classmethod
    def of(cls, comparisons: Sequence[Comparison]) -> Self:
        return cls(items=[ComparisonOut.of(comparison) for comparison in comparisons])
