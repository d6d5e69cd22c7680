"""One process of the benchmark: all who run on one backend, on one network.

    python -m benchmarks.worker JOB.json RESULT.json

The driver starts it with `KERAS_BACKEND` set, as a process has but one.
"""

import functools
import gc
import importlib
import importlib.metadata
import math
import sys
import traceback

import keras

from benchmarks import contenders, limit, measure, models, scaling
from tf_blocknorm.experiments import records

PACKAGES = {
    "tensorflow": ("tensorflow",),
    "jax": ("jax", "optax"),
    "torch": ("torch", "pytorch_optimizer", "torch_optimizer"),
}


def main(job_path, result_path):
    """Do what a job says, and write what was found."""
    job = records.read_json(job_path)
    backend = keras.backend.backend()
    make_runner = importlib.import_module(f"benchmarks.{backend}_").Runner
    found = {"when": records.now(), "versions": _versions(PACKAGES[backend]), "records": []}
    if job["what"] == ["scaling"]:
        entries = scaling.records(make_runner, job)
    else:
        problem = (models.TINY if job["tiny"] else models.PROBLEMS)[job["problem"]]
        runner = make_runner(problem, job["jit_compile"])
        weights = [math.prod(shape) for shape in runner.shapes]
        found |= {"variables": len(weights), "weights": sum(weights), "largest": max(weights)}
        entries = (entry for what in job["what"] for entry in KINDS[what](runner, problem, job))
    for entry in entries:
        found["records"].append(entry)
        # Every time, as the driver may lose patience.
        records.write_json(result_path, {**job, **found})


def update(runner, problem, job):
    """Time the update alone, family by family; with every one of them the machine's limit."""
    steps = problem.steps
    runner.update(contenders.CONTENDERS[0].make, 1)  # What only the first one in a process pays.
    stream = limit.Stream(sum(math.prod(shape) for shape in runner.shapes))
    for family in contenders.FAMILIES:
        entries = {}
        for contender in contenders.of(family, job["problem"]) if job["keras"] else ():
            prepare = functools.partial(runner.update, contender.make, steps)
            entries[contender.name] = (contender.rule, prepare)
        for name, rule, prepare in runner.peers():
            if contenders.family_of(rule, job["problem"]) == family:
                entries[name] = (rule, functools.partial(prepare, steps))
        yield from _together("update", entries, job, stream)
        runner.forget()


def train(runner, problem, job):
    """Time whole training steps, family by family."""
    for family in contenders.FAMILIES:
        entries = {
            contender.name: (contender.rule, functools.partial(runner.train, contender.make))
            for contender in contenders.of(family, job["problem"])
        }
        yield from _together("train", entries, job)
        runner.forget()


def memory(runner, problem, job):
    """Measure by how much an update raises the memory beside its slots."""
    for contender in contenders.CONTENDERS:
        if job["problem"] in (contender.problems or (job["problem"],)):
            prepared = runner.update(contender.make, 1)
            prepared.run()
            gc.collect()
            rise = measure.peak_above(prepared.run)
            yield {
                "what": "memory",
                "name": contender.name,
                "slots": prepared.slot_bytes,
                "temporary": rise,
            }
            del prepared
            runner.forget()


def _together(what, entries, job, stream=None):
    """Time a family in turns, and yield a record for each who takes part."""
    prepared = {}
    for name, (rule, prepare) in entries.items():
        try:
            prepared[name] = prepare()
        except Exception as error:  # Of one contender, on one network: the others go on.
            traceback.print_exc()
            yield {"what": what, "name": name, "rule": rule, "error": repr(error)[:300]}
    if not prepared:
        return
    runs = {name: p.run for name, p in prepared.items()}
    if stream is not None:
        runs[limit.NAME] = stream
    before = {name: p.before for name, p in prepared.items()}
    times = measure.turns(runs, job["rounds"], job["seconds"], before)
    limits = [seconds / limit.STREAMS for seconds in times.pop(limit.NAME, ())]
    if limits:
        speed = measure.spread([4 * stream.size / 1e9 / seconds for seconds in limits])
        yield {"what": "limit", "name": "memory", "gigabytes_per_second": speed}
    times = {name: [s / prepared[name].steps for s in t] for name, t in times.items()}
    for name, seconds in times.items():
        contender = contenders.BY_NAME.get(name)
        record = {"what": what, "name": name, "rule": entries[name][0], "rounds": len(seconds)}
        record["milliseconds"] = measure.spread([1e3 * s for s in seconds])
        if contender and contender.reference in times:
            record["ratio"] = measure.ratio(seconds, times[contender.reference])
        streams = contenders.streams_of(entries[name][0], contender)
        if limits:
            record["of_limit"] = measure.ratio([streams * s for s in limits], seconds)
        p = prepared[name]
        record |= {"build": p.build_seconds, "trace": p.trace_seconds, "first": p.first_seconds}
        yield {**record, "slots": p.slot_bytes}


def _versions(names):
    found = records.versions()
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


KINDS = {"update": update, "train": train, "memory": memory}

if __name__ == "__main__":
    main(*sys.argv[1:])
