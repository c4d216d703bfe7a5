"""Which number of a key decides what about a pair. The compiled and the batched code draw the same numbers.

A pair's key gives keys to its views, a view's key gives keys to its objects, an object's key gives one to its image.
"""

# Slots of a pair's key. The first object's class is requested by the epoch; SLOT_OTHERS + k chooses that of object k.
SLOT_COUNT = 0
SLOT_OTHERS = 1
SLOT_SHIFTS = 32
"""SLOT_SHIFTS + k: the hue shift of object k where both views share it."""
SLOT_VIEWS = 64
"""SLOT_VIEWS + v: the key of view v."""

# Slots of a view's key
SLOT_BLUR = 0
SLOT_SIGMA = 1
SLOT_TEXTURE = 2
SLOT_TEXTURE_COLOUR = 3
"""Hue shift, saturation and value of the background, in three slots."""
SLOT_AUGMENT = 8
"""The key of the view's augmentation."""
SLOT_OBJECTS = 16
"""SLOT_OBJECTS + k: the key of object k."""

# Slots of an object's key
SLOT_CHOICE = 0
"""Which image of the pool."""
SLOT_COLOUR = 1
"""Hue shift, saturation and value, in three slots."""
SLOT_ORIENTATION = 4
"""Transpose, vertical flip and horizontal flip, in three slots."""
SLOT_SIDE = 7
SLOT_LEFT = 8
SLOT_TOP = 9
SLOT_IMAGE = 10
"""The key of the object's own image, without a pool."""
