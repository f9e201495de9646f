"""What all bodies share: strict input, output read from rows, pages, and the one shape of errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Annotated, Any, Generic, TypeVar, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    PlainSerializer,
    StringConstraints,
    model_validator,
)

from dataguardian.api.schemas.storable import unstorable
from dataguardian.db.repositories.base import MAX_LIMIT, Page
from dataguardian.domain.clock import to_iso

T = TypeVar("T")


class Input(BaseModel):
    """Base of every body that is sent to us. Unknown fields are refused; errors never repeat what was sent."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _storable(cls, value: Any) -> Any:  # noqa: ANN401 -- any JSON
        problem = unstorable(value)
        if problem:
            raise ValueError(problem)
        return value

    def sent(self) -> dict[str, Any]:
        """Returns the fields that were sent, and no others."""
        return {name: getattr(self, name) for name in type(self).model_fields if name in self.model_fields_set}


def unsent() -> Any:  # noqa: ANN401 -- the default of a field of any type
    """Returns the default of a field that may be left out; what is not sent is never read (see `Input.sent`)."""
    return Field(default=None, json_schema_extra=lambda schema: cast("None", schema.pop("default", None)))


class Output(BaseModel):
    """Base of every answer; `shown` reads one from a row."""

    model_config = ConfigDict(frozen=True)


Shown = TypeVar("Shown", bound=Output)


def shown(model: type[Shown], row: object, **instead: object) -> Shown:
    """Returns a row as the API shows it, `instead` taking the place of its own values."""
    names = [name for name in model.model_fields if name not in instead]
    return model.model_validate({name: getattr(row, _ATTRIBUTES.get(name, name)) for name in names} | instead)


_ATTRIBUTES = {"metadata": "details"}  # SQLAlchemy keeps `metadata` for itself


def _visible(text: str) -> str:
    if not text.isprintable():
        raise ValueError("must be visible text on one line")
    return text


Name = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=200),
    AfterValidator(_visible),
]
Moment = Annotated[datetime, PlainSerializer(to_iso, return_type=str, when_used="json")]
Flag = Annotated[bool, Field(strict=True)]
"""`1`, `"yes"` and `"on"` are no answers to whether something may be dropped."""
JsonObject = dict[str, JsonValue]


class Pagination(BaseModel):
    total: Annotated[int, Field(ge=0, description="How many rows match in all")]
    page: Annotated[int, Field(ge=1)]
    limit: Annotated[int, Field(ge=1, le=100)]
    total_pages: Annotated[int, Field(ge=0)]


class Listing(BaseModel, Generic[T]):
    """One page of a list, newest first."""

    data: list[T]
    pagination: Pagination


class ErrorOut(BaseModel):
    """Every error: `error` is stable and meant for programs, `message` for people, `details.hint` says what to do."""

    error: str
    message: str
    details: JsonObject = {}


def listing(page: Page[Any], show: Callable[[Any], T]) -> Listing[T]:
    """Returns a page of rows as the answer's body."""
    pagination = Pagination(total=page.total, page=page.page, limit=page.limit, total_pages=page.total_pages)
    return Listing(data=[show(row) for row in page.data], pagination=pagination)


def whole(rows: Sequence[Any], show: Callable[[Any], T]) -> Listing[T]:
    """Returns a list that is short by nature as the one page that it is."""
    pagination = Pagination(total=len(rows), page=1, limit=MAX_LIMIT, total_pages=1 if rows else 0)
    return Listing(data=[show(row) for row in rows], pagination=pagination)


def example(value: dict[str, Any]) -> ConfigDict:
    """Returns the `model_config` that shows a body in the API's document."""
    return ConfigDict(json_schema_extra={"examples": [value]})
