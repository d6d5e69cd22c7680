"""What is kept on disk about a run, and the facts without which its numbers mean little."""

import datetime
import importlib.metadata
import json
import math
import os
import pathlib
import platform
import tempfile

PACKAGES = ("tf_blocknorm", "keras", "tensorflow", "numpy")


def versions():
    """Return the versions of Python and of the packages that decide what a run computes."""
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"python": platform.python_version(), **found}


def machine():
    """Return what the machine is, without its name."""
    return {
        "system": platform.system(),
        "architecture": platform.machine(),
        "processor": _processor(),
        "cores": cores(),
    }


def cores():
    """Return the number of cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def now():
    """Return the time, in UTC and to the second."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def write_text(path, text):
    """Write a file so that it is there either wholly or not at all."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
        file.write(text)
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)


def write_json(path, value):
    """Write JSON so that it is there either wholly or not at all."""
    write_text(path, json.dumps(_plain(value), indent=1) + "\n")


def read_json(path):
    """Return the content of a JSON file, or None if there is no such file."""
    try:
        return json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def write_lines(path, values):
    """Write one JSON object per line, all of them or none."""
    write_text(path, "".join(json.dumps(_plain(value)) + "\n" for value in values))


def read_lines(path):
    """Return the objects of a JSON-lines file; none if there is no such file."""
    try:
        lines = pathlib.Path(path).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines]


def _plain(value):
    """Return the value with NaN and infinities as None: JSON has no word for them."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _processor():
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [
                line.split(":", 1)[1].strip() for line in file if line.startswith("model name")
            ]
        return names[0]
    except (OSError, IndexError):
        return platform.processor()
