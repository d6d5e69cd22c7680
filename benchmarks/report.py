"""Tables of a result: what was asked for and whether it holds, then all times."""

from benchmarks.contenders import BY_NAME, CONTENDERS, streams_of
from benchmarks.measure import quartiles
from tf_blocknorm.experiments import tables as forms

OURS = tuple(contender for contender in CONTENDERS if contender.targets)
OF_LIMIT, TRACE, XLA, PEERS = 0.75, 0.5, 1.0, 1.0
COLUMNS = {
    "TensorFlow graph": "tensorflow-{}-graph",
    "TensorFlow XLA": "tensorflow-{}-xla",
    "JAX": "jax-{}",
    "torch": "torch-{}",
}
PROBLEMS = ("small", "large", "resnet", "embedding")
# Where ours run, and where the others do.
RIVALS = (
    ("TensorFlow graph", "JAX"),
    ("TensorFlow XLA", "JAX"),
    ("JAX", "JAX"),
    ("TensorFlow graph", "torch"),
    ("TensorFlow XLA", "torch"),
    ("torch", "torch"),
)


def tables(result):
    """Return a dict from titles to headers and rows."""
    jobs = result["jobs"]
    found = {
        "Update alone, time relative to Keras's: median [quartiles], what is asked": _ratios(jobs),
        "Tracing and compiling relative to Keras's; share of the machine's limit; memory": _rest(
            jobs
        ),
    }
    found["Update alone on the other networks, relative to Keras's"] = _others(
        jobs, "update", ("resnet", "embedding")
    )
    found["Training step, relative to Keras's"] = _others(jobs, "train", PROBLEMS)
    for problem in ("large", "small"):
        found[f"Update alone, {problem}, relative to other libraries': ≤ 1 is asked"] = _peers(
            jobs, problem
        )
    for problem in PROBLEMS:
        sizes = [
            f"{job['variables']} variables, {job['weights'] / 1e6:.2f} M weights"
            for name, job in jobs.items()
            if name.startswith(f"tensorflow-{problem}-")
        ]
        for what, words in (("update", "Update alone"), ("train", "Training step")):
            title = f"{words}, {problem}{': ' + sizes[0] if sizes else ''}. Milliseconds"
            found[title] = _times(jobs, problem, what)
    speeds = [
        entry["gigabytes_per_second"]["median"]
        for job in jobs.values()
        for entry in job["records"]
        if entry["what"] == "limit" and job["problem"] == "large"
    ]
    if speeds:
        found["The machine's limit on arrays of the large network"] = (
            ["", "GB/s"],
            [["`a += b`, all cores: lowest and highest median of a family", _range(speeds)]],
        )
    found["Scaling, left out"] = _left_out(jobs)
    return {title: (header, rows) for title, (header, rows) in found.items() if rows}


def markdown(result):
    """Return all tables, the machine and the versions in Markdown."""
    versions = {}
    for job in result["jobs"].values():
        versions |= job["versions"]
    machine = result["machine"]
    parts = [
        f"{machine['processor']}, {machine['cores']} cores; "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + ".\n"
    ]
    for title, (header, rows) in tables(result).items():
        parts.append(f"**{title}**\n\n{forms.markdown(header, rows)}")
    return "\n".join(parts)


def record(jobs, job, what, name):
    """Return the record of a contender in a job; an empty dict if there is none, or an error."""
    for entry in jobs.get(job, {}).get("records", ()):
        if (entry["what"], entry["name"]) == (what, name) and "error" not in entry:
            return entry
    return {}


def asked(contender, problem, mode):
    """Return the highest ratio that is asked for of one of ours."""
    return XLA if mode == "xla" else contender.targets[("large", "small").index(problem)]


def _ratios(jobs):
    places = [(p, m) for m in ("graph", "xla") for p in ("large", "small")]
    rows = []
    for ours in OURS:
        cells = []
        for problem, mode in places:
            ratio = record(jobs, f"tensorflow-{problem}-{mode}", "update", ours.name).get("ratio")
            target = asked(ours, problem, mode)
            cells.append(_judged(ratio["median"], target, quartiles(ratio)) if ratio else "")
        if any(cells):
            streams = f"{ours.streams} / {BY_NAME[ours.reference].streams}"
            rows.append([ours.name, ours.reference, streams, *cells])
    header = [
        "",
        "against",
        "numbers to move",
        *(f"{p}, {m.replace('xla', 'XLA')}" for p, m in places),
    ]
    return header, rows


def _others(jobs, what, problems):
    """Ratios of which nothing is asked."""
    places = [(p, m) for p in problems for m in ("graph", "xla")]
    rows = []
    for ours in OURS:
        found = [
            record(jobs, f"tensorflow-{p}-{m}", what, ours.name).get("ratio") for p, m in places
        ]
        rows.append([ours.name, *(f"{ratio['median']:.2f}" if ratio else "" for ratio in found)])
    header = ["", *(f"{p}, {m.replace('xla', 'XLA')}" for p, m in places)]
    return header, [row for row in rows if any(row[1:])]


def _rest(jobs):
    rows = []
    for ours in OURS:
        cells = []
        for problem in ("large", "small"):
            both = [
                record(jobs, f"tensorflow-{problem}-graph", "update", name).get("trace")
                for name in (ours.name, ours.reference)
            ]
            cells.append(_judged(both[0] / both[1], TRACE) if all(both) else "")
        both = [
            record(jobs, "tensorflow-small-xla", "update", name).get("first")
            for name in (ours.name, ours.reference)
        ]
        cells.append(f"{both[0] / both[1]:.1f}" if all(both) else "")
        for mode in ("graph", "xla"):
            share = record(jobs, f"tensorflow-large-{mode}", "update", ours.name).get("of_limit")
            cells.append(_at_least(share["median"], OF_LIMIT) if share else "")
        cells += [_memory(jobs, mode, ours) for mode in ("graph", "xla")]
        rows.append([ours.name, *cells])
    header = ["", "trace, large", "trace, small", "XLA compiles, small"]
    header += ["limit, graph", "limit, XLA"]
    header += ["MB beside the weights, graph", "the same, XLA"]
    return header, [row for row in rows if any(row[1:])]


def _memory(jobs, mode, ours):
    job = f"memory-{mode}"
    own, keras = (record(jobs, job, "memory", name) for name in (ours.name, ours.reference))
    if not own or not keras or own["temporary"] is None:
        return ""
    allowed = keras["slots"] + 4 * jobs[job]["largest"]
    taken = own["slots"] + own["temporary"]
    return _judged(taken / 1e6, allowed / 1e6, form="{:.0f}")


def _peers(jobs, problem):
    rows = []
    for ours in OURS:
        cells = []
        for own, theirs in RIVALS:
            entry = record(jobs, COLUMNS[own].format(problem), "update", ours.name)
            times = [
                rival["milliseconds"]["median"]
                for rival in jobs.get(COLUMNS[theirs].format(problem), {}).get("records", ())
                if rival["what"] == "update"
                and rival["name"] not in BY_NAME
                and rival["rule"] == ours.rule
                and "error" not in rival
            ]
            done = entry and times
            cells.append(
                _judged(entry["milliseconds"]["median"] / min(times), PEERS) if done else ""
            )
        if any(cells):
            rows.append([ours.name, f"{ours.streams} / {streams_of(ours.rule)}", *cells])
    names = {"JAX": "optax", "torch": "best of torch"}
    header = ["", "numbers to move", *(f"{own} / {names[theirs]}" for own, theirs in RIVALS)]
    return header, rows


def _times(jobs, problem, what):
    columns = {title: job.format(problem) for title, job in COLUMNS.items()}
    if what == "train":
        columns = {title: job for title, job in columns.items() if title.startswith("Tensor")}
    names = dict.fromkeys(
        entry["name"]
        for job in columns.values()
        for entry in jobs.get(job, {}).get("records", ())
        if entry["what"] == what
    )
    order = [c.name for c in CONTENDERS if c.name in names]
    rows = [
        [name, *(_time(jobs, job, what, name) for job in columns.values())]
        for name in [*order, *(name for name in names if name not in order)]
    ]
    return ["", *columns], rows


def _time(jobs, job, what, name):
    for entry in jobs.get(job, {}).get("records", ()):
        if (entry["what"], entry["name"]) == (what, name):
            if "error" in entry:
                return "fails"
            spread = entry["milliseconds"]
            return f"{spread['median']:.3g} {quartiles(spread, '.3g')}"
    return ""


def _left_out(jobs):
    rows = [
        [entry["name"], f"{entry['size']:,} {entry['axis']}", entry["left_out"]]
        for job in jobs.values()
        for entry in job["records"]
        if "left_out" in entry
    ]
    return ["", "size", "reason"], rows


def _range(values):
    return f"{min(values):.0f}-{max(values):.0f}"


def _judged(value, target, brackets="", form="{:.2f}"):
    parts = [form.format(value), brackets, f"≤ {form.format(target)}"]
    return " ".join(filter(None, parts)) + (" yes" if value <= target else " no")


def _at_least(value, target):
    return f"{value:.0%} ≥ {target:.0%}" + (" yes" if value >= target else " no")
