"""Stops a process at a named function, so that a test can do to it there what it likes. Python reads this at its start.

`FAULT_POINTS` holds names such as `package.module:Class.method`, with `;` between them; `FAULT_FOLDER` a folder. The
first process that calls the function leaves its id there, in a file of that name, and waits until a second file,
`<name>.go`, says that it may go on. Later calls, and those of other processes, pass.
"""

import functools
import importlib.abc
import os
import sys
import time
from pathlib import Path

LOOK_SECONDS = 0.02


class Patching(importlib.abc.MetaPathFinder):
    """Lets the usual finders find a module, and patches it when it has been executed."""

    def __init__(self, points, folder):
        self.points = points
        self.folder = folder

    def find_spec(self, name, path, target=None):
        functions = self.points.pop(name, None)
        if functions is None:
            return None
        spec = _found(name, path, target)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            for function in functions:
                _patch(module, function, self.folder / f"{name}:{function}")

        spec.loader.exec_module = exec_module
        return spec


def _found(name, path, target):
    for finder in sys.meta_path:
        if not isinstance(finder, Patching) and (spec := finder.find_spec(name, path, target)) is not None:
            return spec
    raise ImportError(name)


def _patch(module, name, mark):
    *holders, last = name.split(".")
    holder = functools.reduce(getattr, holders, module)
    original = getattr(holder, last)

    @functools.wraps(original)
    def stopping(*args, **kwargs):
        _wait_at(mark)
        return original(*args, **kwargs)

    setattr(holder, last, stopping)


def _wait_at(mark):
    try:
        descriptor = os.open(mark, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return
    os.write(descriptor, str(os.getpid()).encode())
    os.close(descriptor)
    while not mark.with_name(mark.name + ".go").exists():
        time.sleep(LOOK_SECONDS)


def _points(text):
    points = {}
    for point in filter(None, text.split(";")):
        module, function = point.split(":")
        points.setdefault(module, []).append(function)
    return points


if os.environ.get("FAULT_POINTS"):
    sys.meta_path.insert(0, Patching(_points(os.environ["FAULT_POINTS"]), Path(os.environ["FAULT_FOLDER"])))
