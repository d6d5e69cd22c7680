"""What layers see: how large their inputs are, measured inside the training step.

A gradient says nothing about the input that it was made of, so that an optimizer which divides by
the input's power has to be told. `measures.py` says what is measured, `geometry.py` along which
axes for each kind of layer; `tap.py` carries the result to the optimizer; `attach.py` puts taps
into a model that is there already.
"""
