"""Changes to images that leave what they show, made in training only, each image by itself."""

import keras
from keras import layers, ops


@keras.saving.register_keras_serializable(package="tf_blocknorm")
class RandomShift(layers.Layer):
    """Shift every image by whole pixels: pad it with zeros, and crop it at a random place.

    `keras.layers.RandomCrop` draws one place for all images of a batch.

    Args:
        pixels: By how many at most, up or down, left or right.
        seed: Of the random numbers; their state is a variable of the layer.
    """

    def __init__(self, pixels=4, seed=None, **kwargs):
        super().__init__(**kwargs)
        self.pixels, self.seed = pixels, seed
        self.generator = keras.random.SeedGenerator(seed)

    def call(self, images, training=None):
        if not training:
            return images
        count, height, width = ops.shape(images)[:3]
        border = (self.pixels, self.pixels)
        padded = ops.pad(images, ((0, 0), border, border, (0, 0)))
        places = keras.random.randint((2, count, 1), 0, 2 * self.pixels + 1, seed=self.generator)
        rows = places[0] + ops.arange(height, dtype="int32")
        columns = places[1] + ops.arange(width, dtype="int32")
        padded = ops.take_along_axis(padded, rows[:, :, None, None], axis=1)
        return ops.take_along_axis(padded, columns[:, None, :, None], axis=2)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "pixels": self.pixels, "seed": self.seed}
