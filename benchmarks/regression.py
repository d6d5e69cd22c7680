"""Whether ratios have become worse than the committed ones. It tells, and fails nothing."""

TOLERANCE = 1.1  # between two runs on a quiet machine, ratios differ by some per cent


def ratios(result):
    """Return a dict from (job, kind of measurement, contender) to the spread of its ratio."""
    return {
        (job, record["what"], record["name"]): record["ratio"]
        for job, found in result["jobs"].items()
        for record in found["records"]
        if "ratio" in record
    }


def lines(result, baseline):
    """Return the lines to be printed about a result and the committed one, or None."""
    if not baseline:
        return ["No committed numbers to compare with."]
    before, now = ratios(baseline), ratios(result)
    both = [key for key in now if key in before]
    worse = [
        key
        for key in both
        if now[key]["median"] > TOLERANCE * before[key]["median"]
        and now[key]["low"] > before[key]["high"]
    ]
    found = [
        f"slower than committed: {name} ({job}, {what}): ratio {now[key]['median']:.2f}, "
        f"was {before[key]['median']:.2f}"
        for key in worse
        for job, what, name in [key]
    ]
    return [*found, f"{len(worse)} of {len(both)} ratios are worse than the committed ones."]
