"""What a sweep over learning rates says: pure NumPy, with the rates in rising geometric order."""

import math

import numpy as np

LEAST = 20  # updates of a sweep
WIDTH = 0.15  # of the smoothing, in decades of the learning rate
FRACTION = 2 / 3  # of the fall of the loss, at the suggestion
SIGNIFICANT = 5.0  # standard errors


def suggest(rates, losses, correlations, signal="loss"):
    """Return the suggested rate, or None, and the rule that it follows, in words.

    Args:
        rates, losses, correlations: arrays, one entry per update.
        signal: `"loss"` or `"correlation"`, which is asked first; the other one is asked if it
            says nothing.
    """
    if np.isfinite(losses).sum() < LEAST // 2:
        return None, "the loss is not finite at the beginning"
    rules = {
        "loss": (by_loss, losses, "where the loss has first made two thirds of its fall"),
        "correlation": (
            by_correlation,
            correlations,
            "where successive gradients begin to oppose one another",
        ),
    }
    first, second = rules.pop(signal), *rules.values()
    for (rule, curve, words), remark in ((first, ""), (second, f"; the {signal} says nothing")):
        rate = rule(rates, curve)
        if rate is not None:
            return rate, words + remark
    return None, "neither the loss nor the correlation of the gradients falls; try higher rates"


def by_loss(rates, losses):
    """Return the rate at which the loss has made most of its fall, or None if it does not fall."""
    smoothed = smooth(rates, np.minimum(losses, ceiling(losses)))
    start, noise = _start(losses)
    lowest = np.nanargmin(smoothed)
    fall = start - smoothed[lowest]
    if fall <= SIGNIFICANT * noise / math.sqrt(_count(rates)):
        return None
    level = start - FRACTION * fall
    return _crossing(rates, smoothed, level, np.argmax(smoothed <= level))


def by_correlation(rates, correlations):
    """Return the rate at which the correlation falls below 0, or None if it does not."""
    smoothed = smooth(rates, correlations)
    _, noise = _start(correlations[1:])
    lowest = np.nanargmin(smoothed)
    if -smoothed[lowest] <= SIGNIFICANT * noise / math.sqrt(_count(rates)):
        return None
    # The last time: near 0, where the correlation may begin, noise alone crosses it.
    above = np.flatnonzero(smoothed[:lowest] > 0.0)
    return _crossing(rates, smoothed, 0.0, above[-1] + 1) if len(above) else None


def smooth(rates, values):
    """Return the mean around each value, by a bell curve of standard deviation `WIDTH` decades.

    It lags behind no more than it runs ahead: a moving average of the past, as wide, would show
    everything at higher rates than it happened.
    """
    reach = math.ceil(3 * _sigma(rates))
    bell = np.exp(-0.5 * (np.arange(-reach, reach + 1) / _sigma(rates)) ** 2)
    known = np.isfinite(values)
    total = np.convolve(np.where(known, values, 0.0), bell)
    weight = np.convolve(known.astype(float), bell)
    with np.errstate(invalid="ignore"):
        return (total / weight)[reach:-reach]


def diverged(losses):
    """Return whether the last losses are not finite, or far above the first."""
    if not np.all(np.isfinite(losses[-1:])):
        return True
    return len(losses) > LEAST and np.mean(losses[-5:]) > ceiling(losses)


def ceiling(losses):
    """Return the loss above which the training counts as destroyed."""
    start, noise = _start(losses)
    return start + 3 * abs(start) + 10 * noise


def _start(values):
    """Mean and standard deviation at the beginning, while the rate is too small to do anything."""
    first = values[: max(10, len(values) // 10)]
    return np.mean(first), np.std(first)


def _sigma(rates):
    """Standard deviation of the bell curve, in updates."""
    per_decade = (len(rates) - 1) / math.log10(rates[-1] / rates[0])
    return max(1.0, WIDTH * per_decade)


def _count(rates):
    """Number of equally weighted values whose mean is as sharp as that of the bell curve."""
    return math.sqrt(4 * math.pi) * _sigma(rates)


def _crossing(rates, values, level, index):
    """The rate between the one before the index and that of the index where the level lies."""
    before = max(0, index - 1)
    if values[before] <= level:
        return float(rates[before])
    share = (values[before] - level) / (values[before] - values[index])
    return float(rates[before] * (rates[index] / rates[before]) ** share)
