"""What is trained on: arrays of numbers, texts, reviews. Checked, and never loaded by halves."""

from tf_blocknorm.experiments.data import arrays, reviews, text
from tf_blocknorm.experiments.data.arrays import load
from tf_blocknorm.experiments.data.base import Data

NAMES = (*arrays.NAMES, *text.NAMES, *reviews.NAMES)

__all__ = ["NAMES", "Data", "arrays", "load", "reviews", "text"]
