"""Which number of a view's augmentation key decides what. The compiled and the batched code draw the same numbers."""

CROP_TRIES = 10
"""Attempts to find a crop that fits, as in torchvision's RandomResizedCrop."""

SLOT_FLIP = 0
SLOT_JITTER = 1
"""Whether colours are jittered."""
SLOT_GREY = 2
SLOT_BLUR = 3
SLOT_SIGMA = 4
SLOT_TOP = 5
SLOT_LEFT = 6
SLOT_ORDER = 8
"""The order of brightness, contrast, saturation and hue, in four slots."""
SLOT_FACTORS = 12
"""The amounts of brightness, contrast, saturation and hue, in four slots."""
SLOT_CROP = 16
"""Area and aspect ratio, in two slots for each attempt."""
