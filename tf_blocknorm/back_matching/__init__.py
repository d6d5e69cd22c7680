"""Layer-wise rates from back-matching: how strongly the loss curves in the weights of each layer.

| file          | what it knows                                                            |
|---------------|--------------------------------------------------------------------------|
| `graph.py`    | a model as a list of uses of layers, nested models laid open             |
| `rules.py`    | the table: for each type of layer its scalars                            |
| `kernels.py`  | the rules of dense and convolutional layers, of embeddings and pooling   |
| `seen.py`     | what a rule is shown of the use of a layer                               |
| `recursion.py`| the walk from the inputs to the outputs, and back                        |
"""

from tf_blocknorm.back_matching.recursion import Options, curvatures, multipliers
from tf_blocknorm.back_matching.rules import register_rule
from tf_blocknorm.back_matching.seen import Match, NoRule

__all__ = ["Match", "NoRule", "Options", "curvatures", "multipliers", "register_rule"]
