"""How adapters are found: every module of a package that has an `ADAPTER`, and the entry points of other packages.

Engines and storages (and later notifiers) are registered this one way, so that a new one is one new file.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Annotated, Any, Generic, Self, TypeVar, Union

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dataguardian.domain.errors import CancelledError, MissingToolError, UnknownSchemeError, UsageError
from dataguardian.domain.secretfields import check_names
from dataguardian.domain.urls import Url

T = TypeVar("T")


class AdapterConfig(BaseModel, ABC):
    """Base of every adapter's configuration; a concrete one adds `type: Literal["…"]`. Secrets are `SecretStr`."""

    # What was wrong is said without the input, which may be a password.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    @classmethod
    @abstractmethod
    def from_url(cls, url: Url) -> Self:
        """Builds the configuration from an address; raises UsageError that says what is wrong with it."""

    @abstractmethod
    def describe(self) -> str:
        """Returns the address without secrets, as shown to people and written into manifests."""


ConfigClass = type[AdapterConfig]


@dataclass(frozen=True)
class ClientProgram:
    """A client program that an adapter runs, for `doctor`: `install` is the exact command that brings it."""

    name: str
    path: str | None
    version: str | None
    install: str
    required: bool = True


@dataclass(frozen=True, kw_only=True)
class Adapter(Generic[T]):
    """What a module exports as `ADAPTER`, or several of as `ADAPTERS`."""

    type: str
    schemes: tuple[str, ...]
    example: str
    """An address of this kind, for help and error texts."""
    config: ConfigClass
    build: Callable[[Any], T]
    """Builds the thing from an instance of `config`; opens nothing yet."""
    package: str | None = None
    """Import name of the optional package that the extra named like `type` brings; None when the core suffices."""
    programs: Callable[[], list[ClientProgram]] = list
    """Looks for the client programs anew at each call."""

    @property
    def installed(self) -> bool:
        try:
            return self.package is None or importlib.util.find_spec(self.package) is not None
        except ModuleNotFoundError:  # the parent of a dotted name is missing
            return False


A = TypeVar("A", bound=Adapter[Any])


@dataclass(frozen=True)
class Registry(Generic[A]):
    """The adapters of one package. `noun` is what error texts call them: "engine", "storage"."""

    package: str
    noun: str
    adapter_type: type[A]

    @cached_property
    def adapters(self) -> dict[str, A]:
        """Every adapter by type. Modules are light: their SDKs are imported when an adapter is used.

        Of two adapters of one type the first counts, ours before those of other packages. Raises UsageError for one of
        ours whose configuration has a field that is called like a secret and is none by its type.
        """
        adapters: dict[str, A] = {}
        for adapter in self._ours():
            adapters.setdefault(adapter.type, adapter)
        for entry in entry_points(group=self.package):
            loaded = _loaded(entry)
            if isinstance(loaded, self.adapter_type) and self._takes(loaded):
                adapters.setdefault(loaded.type, loaded)
        return adapters

    def _ours(self, like: str = "") -> Iterator[A]:
        """Yields the adapters of our own package module by module, first of those that are called like `like`: who
        looks for one adapter stops there, and a run does not wait for a dozen that it has no use for.
        """
        path = importlib.import_module(self.package).__path__
        names = [info.name for info in pkgutil.iter_modules(path)]
        for name in sorted(names, key=lambda name: not like.startswith(name)):
            module = importlib.import_module(f"{self.package}.{name}")
            exported: list[object] = [getattr(module, "ADAPTER", None), *getattr(module, "ADAPTERS", ())]
            for adapter in exported:
                if isinstance(adapter, self.adapter_type):
                    check_names(adapter.config)
                    yield adapter

    def _first(self, like: str, fits: Callable[[A], bool]) -> A | None:
        """Returns the adapter that fits; those of other packages are asked when none of ours does."""
        known = next(filter(fits, self._found.values()), None)
        if known is not None:
            return known
        for ours in self._ours(like):
            self._found.setdefault(ours.type, ours)
            if fits(ours):
                return self._found[ours.type]
        return next(filter(fits, self.adapters.values()), None)

    @cached_property
    def _found(self) -> dict[str, A]:
        """Adapters that were asked for, by type."""
        return {}

    def _takes(self, adapter: A) -> bool:
        """Refuses another package's adapter, with a word in the log, when it would store a secret in clear."""
        try:
            check_names(adapter.config)
        except UsageError as error:
            text = f"{error.message} ({error.hint})"
            logging.getLogger(__name__).error("the %s %s was refused: %s", self.noun, adapter.type, text)  # noqa: TRY400 -- says it all
            return False
        return True

    def by_type(self, type_name: str) -> A:
        """Raises UnknownSchemeError for a type that this installation does not know."""
        adapter = self._first(type_name, lambda adapter: adapter.type == type_name)
        if adapter is None:
            known = ", ".join(sorted(self.adapters))
            raise UnknownSchemeError(
                f"there is no {self.noun} {type_name!r} in this installation", hint=f"known: {known}", type=type_name
            )
        return adapter

    def config_from_url(self, url: Url) -> AdapterConfig:
        """Raises UnknownSchemeError when no adapter has the address's scheme, UsageError when the rest is wrong."""
        adapter = self._first(url.scheme, lambda adapter: url.scheme in adapter.schemes)
        if adapter is not None:
            return adapter.config.from_url(url)
        examples = "  ".join(adapter.example for adapter in self.adapters.values())
        raise UnknownSchemeError(
            f"no {self.noun} handles {url.scheme}:// addresses", hint=f"known: {examples}", scheme=url.scheme
        )

    def config(self, document: Mapping[str, Any]) -> AdapterConfig:
        """Builds a configuration from its JSON form, whose `type` names the adapter; raises UsageError.

        The error names the fields that are wrong and never repeats their values, which may be secret.
        """
        adapter = self.by_type(str(document.get("type")))
        try:
            return adapter.config.model_validate(document)
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
            raise UsageError(f"this {self.noun} configuration is not valid: {wrong}", type=adapter.type) from None

    def adapter_of(self, config: AdapterConfig) -> A:
        """Raises UnknownSchemeError for a configuration that belongs to no adapter here."""
        like = str(getattr(config, "type", ""))
        adapter = self._first(like, lambda adapter: type(config) is adapter.config)
        if adapter is None:
            raise UnknownSchemeError(f"no {self.noun} of this installation takes a {type(config).__name__}")
        return adapter

    def build(self, config: AdapterConfig) -> Any:  # noqa: ANN401 -- each room wraps it with its own type
        """Raises MissingToolError when the adapter's optional package is not installed."""
        adapter = self.adapter_of(config)
        if not adapter.installed:
            raise MissingToolError(
                f"the {self.noun} {adapter.type} needs the Python package {adapter.package}, which is not installed",
                hint=f"pip install 'dataguardian[{adapter.type}]'",
                package=adapter.package,
            )
        return adapter.build(config)


def _loaded(entry: EntryPoint) -> object:
    """Returns another package's adapter; None, and a warning, when it cannot be loaded: it must not stop the others."""
    try:
        return entry.load()
    except CancelledError:
        raise
    except Exception as error:  # noqa: BLE001 -- whatever a foreign package raises at import
        logging.getLogger(__name__).warning("adapter %s was left out: %s", entry.value, error)
        return None


def union_type(registry: Registry[Any]) -> Any:  # noqa: ANN401 -- a type that is made at run time
    """Returns the configurations of every adapter as one type for pydantic, told apart by `type`."""
    configs = tuple(adapter.config for adapter in registry.adapters.values())
    return Annotated[Union[configs], Field(discriminator="type")] if len(configs) > 1 else configs[0]  # noqa: UP007 -- not a literal union
