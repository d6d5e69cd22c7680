"""What networks for images demand of the data."""

from tf_blocknorm.experiments.errors import ExperimentError


def demand_images(problem, shape, smallest):
    """Raise an error unless examples of this shape are images of so many pixels at least."""
    if len(shape) not in (2, 3) or min(shape[:2]) < smallest:
        raise ExperimentError(
            f"The problem `{problem}` needs images of at least {smallest} x {smallest} pixels. "
            f"Received: examples of shape {tuple(shape)}"
        )
