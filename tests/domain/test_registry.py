"""The registry: one new file, or another package's entry point, is one new adapter."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dataguardian.domain.errors import MissingToolError, UnknownSchemeError
from dataguardian.domain.urls import parse_url
from dataguardian.registry import Adapter, AdapterConfig, Registry

ADAPTER_FILE = """
from typing import Literal
from dataguardian.registry import Adapter, AdapterConfig

class Config(AdapterConfig):
    type: Literal["{type}"] = "{type}"
    path: str = ""

    @classmethod
    def from_url(cls, url):
        return cls(path=url.path)

    def describe(self):
        return "{type}://" + self.path

ADAPTER = Adapter(type="{type}", schemes=("{type}", "{type}+x"), example="{type}:///x", config=Config,
                  build=lambda config: ("built", config.path), package={package!r})
"""


class Stranger(AdapterConfig):
    """A configuration that no adapter of the package made."""

    @classmethod
    def from_url(cls, url: object) -> Stranger:
        return cls()

    def describe(self) -> str:
        return "stranger"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package of two adapters, of which one needs a Python package that nobody has."""
    folder = tmp_path / "dg_test_adapters"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "base.py").write_text("ADAPTER = 'not an adapter'")
    (folder / "red.py").write_text(ADAPTER_FILE.format(type="red", package=None))
    (folder / "blue.py").write_text(ADAPTER_FILE.format(type="blue", package="dg_no_such_package.inner"))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield folder
    for name in [name for name in sys.modules if name.split(".")[0] in ("dg_test_adapters", "dg_test_plugin")]:
        del sys.modules[name]


@pytest.fixture
def registry(package: Path) -> Registry[Adapter[Any]]:
    return Registry(package.name, "thing", Adapter)


def plug_in(folder: Path, modules: dict[str, str]) -> None:
    """Installs another package that has these modules and announces them as entry points."""
    plugin = folder.parent / "dg_test_plugin"
    plugin.mkdir()
    (plugin / "__init__.py").touch()
    for name, text in modules.items():
        (plugin / f"{name}.py").write_text(text)
    metadata = folder.parent / "dg_test_plugin-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: dg-test-plugin\nVersion: 1.0\n")
    lines = [f"{name} = dg_test_plugin.{name}:ADAPTER" for name in modules]
    (metadata / "entry_points.txt").write_text("\n".join([f"[{folder.name}]", *lines, ""]))


def test_every_file_with_an_adapter_is_found(registry: Registry[Adapter[Any]]) -> None:
    """A module that exports an ADAPTER is registered, others are not, and its schemes lead to it."""
    assert sorted(registry.adapters) == ["blue", "red"]
    config = registry.config_from_url(parse_url("RED+X:///some/where"))
    assert (config.describe(), registry.build(config)) == ("red:///some/where", ("built", "/some/where"))
    assert registry.by_type("red") is registry.adapter_of(config)


def test_an_adapter_without_its_package_says_what_to_install(registry: Registry[Adapter[Any]]) -> None:
    """A missing extra breaks one adapter, and only when it is used."""
    config = registry.config_from_url(parse_url("blue:///x"))
    assert not registry.by_type("blue").installed
    with pytest.raises(MissingToolError) as caught:
        registry.build(config)
    assert caught.value.hint == "pip install 'dataguardian[blue]'"


def test_unknown_things_are_answered_with_the_known_ones(registry: Registry[Adapter[Any]]) -> None:
    """An unknown scheme, type or configuration is wrong usage, and the hint shows what there is."""
    with pytest.raises(UnknownSchemeError, match="green://") as scheme:
        registry.config_from_url(parse_url("green://user:secret@host/x"))
    with pytest.raises(UnknownSchemeError, match="green") as kind:
        registry.by_type("green")
    with pytest.raises(UnknownSchemeError, match="Stranger"):
        registry.build(Stranger())
    assert "red:///x" in scheme.value.hint
    assert "secret" not in str(scheme.value.as_json())
    assert kind.value.hint == "known: blue, red"


def test_other_packages_bring_adapters(package: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An entry point adds an adapter; one that cannot be imported costs a warning, and none replaces ours."""
    plug_in(
        package,
        {
            "green": ADAPTER_FILE.format(type="green", package=None),
            "red": ADAPTER_FILE.format(type="red", package=None),
            "broken": "raise RuntimeError('no such library')",
        },
    )
    registry = Registry(package.name, "thing", Adapter)
    assert sorted(registry.adapters) == ["blue", "green", "red"]
    assert registry.adapters["red"].config.__module__ == "dg_test_adapters.red"
    assert "dg_test_plugin.broken" in caplog.text
    assert "no such library" in caplog.text
