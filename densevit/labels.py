"""Facts about published label sets that both reading (data) and writing (evaluation) need."""

CITYSCAPES_LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""The published id of each of the 19 evaluated classes of Cityscapes, in training order (cityscapesScripts,
helpers/labels.py); ids up to 33 that are not listed are not evaluated."""
