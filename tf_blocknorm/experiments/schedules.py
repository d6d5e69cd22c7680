"""How the learning rate falls over a run: in the same way for all methods, so none has an edge.

The texts are what records, figures and tables call a schedule.
"""

import math

LINEAR, OWN = "linear decay to 0", "set by the method"
STEPS = "decay by 10 at 1/2 and 3/4 of the updates"  # He et al. (2015), section 4.2

# By the word that the command line knows it by; and what a learning rate with it does.
SCHEDULES = {"linear": LINEAR, "steps": STEPS}
FALLS = {
    LINEAR: "decays linearly to 0",
    STEPS: "is divided by 10 after 1/2 and 3/4 of the updates",
}


def make(highest, steps, warmup=0.0, schedule=LINEAR):
    """Return a schedule of Keras's.

    Args:
        highest: The learning rate that it falls from.
        steps: Updates of the run.
        warmup: The fraction of them in which the learning rate rises from 0; then it falls along a
            cosine, whatever the schedule.
        schedule: `LINEAR` or `STEPS`.
    """
    from keras.optimizers import schedules

    rising = math.ceil(warmup * steps)
    if rising:
        return schedules.CosineDecay(
            0.0, max(1, steps - rising), warmup_target=highest, warmup_steps=rising
        )
    if schedule == STEPS:
        return schedules.PiecewiseConstantDecay(
            [steps // 2 - 1, steps * 3 // 4 - 1], [highest, highest / 10, highest / 100]
        )
    return schedules.PolynomialDecay(highest, decay_steps=steps, end_learning_rate=0.0)
