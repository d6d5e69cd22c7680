"""What there is to measure, one process after the other."""

import fnmatch
import json
import os
import pathlib
import subprocess
import sys
import tempfile

from benchmarks import measure
from tf_blocknorm.experiments.records import read_json

ROOT = pathlib.Path(__file__).parents[1]
MODES = {"graph": False, "xla": True}
# At most so many rounds, no more of them after so many seconds, and in all so much patience.
FULL = {"rounds": 25, "seconds": 15, "patience": 1800, "tiny": False}
QUICK = {"rounds": 9, "seconds": 2, "patience": 100, "tiny": False}
TINY = {"rounds": 3, "seconds": 1, "patience": 600, "tiny": True}


def chosen(size, patterns):
    """Return the jobs of a form of the benchmark: dict from their names to what they are.

    Args:
        size: `"full"`, `"quick"` or `"tiny"`.
        patterns: List of patterns as in a shell, of which the name has to match one.

    Raises:
        ValueError: If nothing matches one of the patterns.
    """
    options = {"full": FULL, "quick": QUICK, "tiny": TINY}[size]
    problems = ("small", "large") if size == "quick" else ("small", "large", "resnet", "embedding")
    found = {}
    for problem in problems:
        for mode, jit in MODES.items():
            if size == "quick" and jit:
                continue  # To compile them all takes longer than everything else.
            what = ["update"] if size == "quick" else ["update", "train"]
            found[f"tensorflow-{problem}-{mode}"] = _job("tensorflow", what, problem, jit)
        # There, too, compiling ours and Keras's takes long; the others are what is wanted.
        everyone = size != "quick"
        found[f"jax-{problem}"] = _job("jax", ["update"], problem, True, everyone)
        found[f"torch-{problem}"] = _job("torch", ["update"], problem, False, everyone)
    if size != "quick":
        for mode, jit in MODES.items():
            found[f"memory-{mode}"] = _job("tensorflow", ["memory"], "large", jit)
        for axis in ("weights", "variables"):
            job = _job("tensorflow", ["scaling"], None, False)
            found[f"scaling-{axis}"] = job | {"axes": [axis]}
    for pattern in patterns:
        if not fnmatch.filter(found, pattern):
            raise ValueError(
                f"No job has such a name. Received: {pattern}. Jobs: {', '.join(found)}"
            )
    return {
        name: job | options
        for name, job in found.items()
        if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)
    }


def run(job):
    """Run a job in a process of its own; return what it found, or None if it found nothing.

    What it had found before it failed or became too slow counts.
    """
    environment = measure.returning_memory() if job["what"] == ["memory"] else dict(os.environ)
    environment |= {"KERAS_BACKEND": job["backend"], "TF_CPP_MIN_LOG_LEVEL": "3"}
    paths = [str(ROOT), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    with tempfile.TemporaryDirectory() as folder:
        task, result = pathlib.Path(folder, "job.json"), pathlib.Path(folder, "result.json")
        task.write_text(json.dumps(job), encoding="utf-8")
        command = [sys.executable, "-m", "benchmarks.worker", str(task), str(result)]
        log = pathlib.Path(folder, "log")
        with log.open("w", encoding="utf-8") as file:
            options = {"env": environment, "cwd": ROOT, "stderr": file, "check": True}
            try:
                subprocess.run(command, timeout=job["patience"], **options)
            except subprocess.SubprocessError as error:
                print(log.read_text(encoding="utf-8")[-3000:], error, file=sys.stderr)
        return read_json(result)


def _job(backend, what, problem, jit_compile, everyone=True):
    return {
        "backend": backend,
        "what": what,
        "problem": problem,
        "jit_compile": jit_compile,
        "keras": everyone,  # whether Keras's and ours take part, beside those of other libraries
    }
