"""Timing of contenders that take turns, and what is made of the times."""

import contextlib
import gc
import os
import pathlib
import statistics
import time

MEGA = 2**20
LEAST_ROUNDS = 5


def turns(contenders, rounds, seconds, before=None):
    """Let functions take turns, so that what disturbs the machine disturbs all of them alike.

    Args:
        contenders: Dict from a name to a function without arguments that returns when its work is
            done.
        rounds: How many turns each has.
        seconds: After so much time no round begins, once there were a few.
        before: Dict from names to what comes before each of their turns, untimed; may be None.

    Returns:
        Dict from the names to lists of seconds, one for each round.
    """

    def turn(name):
        prepare = (before or {}).get(name)
        if prepare:
            prepare()
        return timed(contenders[name])

    times = {name: [] for name in contenders}
    # The caches as its predecessor leaves them, which in the first round are others'.
    for name in contenders:
        turn(name)
    began = time.perf_counter()
    for done in range(rounds):
        if done >= LEAST_ROUNDS and time.perf_counter() - began > seconds:
            break
        for name in contenders:
            times[name].append(turn(name))
    return times


def timed(run):
    """Return the seconds that a function takes."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def timed_alone(run):
    """The same, while nobody collects garbage: a trace makes much, and who pays is chance."""
    gc.collect()
    gc.disable()
    try:
        return timed(run)
    finally:
        gc.enable()


def spread(values):
    """Return median and quartiles."""
    if len(values) == 1:
        low = high = values[0]
    else:
        low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    names = ("low", "median", "high")
    numbers = (low, statistics.median(values), high)
    return {name: float(f"{number:.4g}") for name, number in zip(names, numbers)}


def quartiles(found, form=".2f"):
    """Return the quartiles in what `spread` or `ratio` returned, as tables show them."""
    return f"[{found['low']:{form}}-{found['high']:{form}}]"


def ratio(times, reference):
    """Return median and quartiles of the ratios within the rounds."""
    return spread([a / b for a, b in zip(times, reference, strict=True)])


def peak_above(run):
    """Return by how many bytes the memory of this process rises while a function runs.

    On Linux; elsewhere None. What the function leaves behind counts as well.
    """
    status = pathlib.Path("/proc/self/status")
    with contextlib.suppress(OSError):
        pathlib.Path("/proc/self/clear_refs").write_text("5")  # The peak begins anew.
        before = _field(status, "VmRSS")
        run()
        return max(0, _field(status, "VmHWM") - before)
    run()
    return None


def free_memory():
    """Return the bytes that may be taken without harm, None where nobody tells."""
    with contextlib.suppress(OSError):
        return _field(pathlib.Path("/proc/meminfo"), "MemAvailable")
    return None


def returning_memory():
    """Return environment variables by which freed memory is given back, for clean peaks.

    glibc keeps small pieces, and TensorFlow everything where it uses oneDNN.
    """
    own = {"MALLOC_MMAP_THRESHOLD_": str(MEGA), "MALLOC_TRIM_THRESHOLD_": str(MEGA)}
    return {**os.environ, **own, "TF_ENABLE_ONEDNN_OPTS": "0"}


def _field(path, name):
    lines = path.read_text(encoding="ascii").splitlines()
    kilobytes = next(line.split()[1] for line in lines if line.startswith(f"{name}:"))
    return 1024 * int(kilobytes)
