"""Folders of files: dumped by GNU tar in pax format, restored beside the target and swapped in.

docs/patterns.md explains the include and exclude patterns. With none, tar walks by itself, which is fastest; with
some, our walk hands it the names.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Annotated, Any, Literal, Self, cast, get_args

from pydantic import AfterValidator

from dataguardian.domain.errors import (
    AccessError,
    DataGuardianError,
    IntegrityError,
    NotAllowedError,
    NotFoundError,
    UnreachableError,
    UsageError,
)
from dataguardian.domain.urls import Url, absolute_path
from dataguardian.engines.base import (
    DumpOptions,
    DumpStream,
    Engine,
    EngineAdapter,
    EngineConfig,
    Inventory,
    ProbeResult,
    RestoreOptions,
    RestoreStream,
    ToolVersion,
)
from dataguardian.engines.files.dump import TarStream
from dataguardian.engines.files.inspect import Privileges, feed_inspected
from dataguardian.engines.files.restore import inspect_target, restore_archive
from dataguardian.engines.files.tar import Tar, find_tar, programs
from dataguardian.engines.files.walk import Selection, Walk
from dataguardian.engines.processes import ChildProcess

_CHECK_SECONDS = 10.0


def _absolute(path: str) -> str:
    if not path.startswith("/") or "\0" in path:
        raise ValueError("an absolute path is needed")
    return path


class FilesConfig(EngineConfig):
    """A folder. `source_path` may hold surrogate escapes, for names that are not UTF-8.

    `restore_privileges`: what a restore into it gives back of what has power over the machine. `programs` gets modes
    back exactly (set-user-ID and set-group-ID included) and capabilities, `all` device nodes, too; with `none` nobody
    who can write to the storage can leave a program of root's here.
    """

    type: Literal["files"] = "files"
    source_path: Annotated[str, AfterValidator(_absolute)]
    include_patterns: tuple[str, ...] = ()
    exclude_patterns: tuple[str, ...] = ()
    restore_privileges: Privileges = "programs"

    @classmethod
    def from_url(cls, url: Url) -> Self:
        """Takes `?restore_privileges=none`, `programs` or `all`."""
        given = dict(url.query)
        privileges = given.pop("restore_privileges", "programs")
        if given or privileges not in get_args(Privileges):
            raise UsageError(
                "the address of a folder takes nothing behind the path but ?restore_privileges=none, programs or all",
                hint="write a ? of the path itself as %3F",
            )
        return cls(source_path=absolute_path(url), restore_privileges=cast("Privileges", privileges))

    def describe(self) -> str:
        return str(Url(scheme="files", path=self.source_path))

    def default_name(self) -> str:
        name = os.path.basename(self.source_path.rstrip("/"))  # noqa: PTH119 -- surrogate escapes
        return os.fsencode(name).decode("utf-8", "backslashreplace") or "root"


class FilesEngine(Engine):
    def __init__(self, config: FilesConfig) -> None:
        self._config = config
        self._tar: Tar | None = None
        self._warnings: list[str] = []

    @property
    def local_path(self) -> str:
        return self._config.source_path

    def reads(self, path: str, options: DumpOptions) -> bool:
        return self._selection(options).reads(path)

    def check(self) -> ProbeResult:
        """Opens the folder in a thread, because a dead network mount never answers."""
        answer: list[ProbeResult] = []
        thread = threading.Thread(target=lambda: answer.append(_probe(self._config.source_path)), daemon=True)
        thread.start()
        thread.join(_CHECK_SECONDS)
        return answer[0] if answer else ProbeResult("timeout", f"no answer within {_CHECK_SECONDS:.0f} s")

    def dump(self, options: DumpOptions) -> Iterator[AbstractContextManager[DumpStream]]:
        """Yields the one stream. Everything that can be known before tar starts is checked at once."""
        selection = self._selection(options)
        _check_source(self._config.source_path)
        self._tar = find_tar()
        stream = TarStream(self._tar, self._config.source_path, selection, name=self._config.default_name())
        return iter((stream,))

    def prepare_restore(self, streams: Iterable[tuple[str, str]], options: RestoreOptions) -> None:
        kinds = [kind for _name, kind in streams]
        if kinds != ["tar"]:
            raise UsageError(
                f"a folder is restored from one tar stream, and this backup has {', '.join(kinds) or 'none'}",
                hint="choose a target of the kind that was backed up",
            )
        find_tar()
        inspect_target(self._config.source_path, drop_existing=options.drop_existing)

    def restore(self, streams: Iterator[RestoreStream], options: RestoreOptions) -> None:
        target = inspect_target(self._config.source_path, drop_existing=options.drop_existing)
        chunks = _only_stream(streams)
        privileges = self._config.restore_privileges
        self._warnings = restore_archive(
            find_tar(), target, chunks, before_swap=options.before_swap, privileges=privileges
        )

    @property
    def warnings(self) -> list[str]:
        return list(self._warnings)

    def inventory(self) -> Inventory:
        """Returns the size in bytes of every selected regular file, by its path relative to the source."""
        _check_source(self._config.source_path)
        walk = Walk(self._config.source_path, self._selection(DumpOptions()))
        items = {
            path: entry.stat(follow_symlinks=False).st_size
            for path, entry in walk.entries()
            if entry is not None and entry.is_file(follow_symlinks=False)
        }
        if walk.failed:
            error = walk.failed[0]
            raise NotAllowedError(f"{error.filename!a} cannot be read: {error.strerror}") from error
        return Inventory(items)

    @property
    def tools(self) -> list[ToolVersion]:
        return [] if self._tar is None else [ToolVersion("tar", self._tar.version)]

    def _selection(self, options: DumpOptions) -> Selection:
        return Selection(
            (*self._config.include_patterns, *options.include), (*self._config.exclude_patterns, *options.exclude)
        )


def validate(kind: str, metadata: dict[str, Any], chunks: Iterator[bytes]) -> None:  # noqa: ARG001 -- the protocol's
    """Reads a whole archive, with our eyes and with tar's; raises IntegrityError when it would not restore."""
    if kind != "tar":
        raise IntegrityError(f"a backup of files holds tar streams, not {kind}")
    tar = find_tar()
    with ChildProcess(tar.list_command(), env=tar.environment(), stdin=True) as child:
        try:
            feed_inspected(chunks, child.write)
            child.close_stdin()
            if (code := child.wait()) != 0:
                raise IntegrityError(f"tar cannot read the archive (code {code}): {child.stderr_text}")
        except BrokenPipeError as error:
            child.wait()
            raise IntegrityError(f"tar gave up on the archive: {child.stderr_text}") from error


def _only_stream(streams: Iterator[RestoreStream]) -> Iterator[bytes]:
    """Yields the bytes of the first stream, then sees that there is no second one."""
    for count, stream in enumerate(streams):
        if count or stream.kind != "tar":
            raise UsageError("a folder is restored from one tar stream")
        yield from stream.chunks()


def _check_source(path: str) -> None:
    """Raises UsageError or AccessError unless `path` is a folder that can be listed."""
    try:
        with os.scandir(path) as entries:
            next(entries, None)
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no folder {path!a}", hint="check the path") from error
    except NotADirectoryError as error:
        raise UsageError(f"{path!a} is not a folder", hint="back up the folder that it lies in") from error
    except PermissionError as error:
        raise NotAllowedError(f"the folder {path!a} cannot be read", hint="run as a user that may") from error
    except OSError as error:
        raise UnreachableError(f"the folder {path!a} cannot be opened: {error.strerror}") from error


def _probe(path: str) -> ProbeResult:
    try:
        _check_source(path)
    except AccessError as error:
        return ProbeResult("unreachable" if isinstance(error, UnreachableError) else "error", error.message)
    except DataGuardianError as error:
        return ProbeResult("error", error.message)
    return ProbeResult("ok")


ADAPTER = EngineAdapter(
    type="files",
    schemes=("files",),
    example="files:///absolute/folder",
    config=FilesConfig,
    build=FilesEngine,
    validate=validate,
    programs=programs,
)
