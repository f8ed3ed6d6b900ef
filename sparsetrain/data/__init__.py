"""Labelled images for training: digits, CIFAR, Tiny-ImageNet, ImageNet, any folder of pictures."""

from sparsetrain.data.catalog import load as load
from sparsetrain.data.catalog import names as names
from sparsetrain.data.images import DataError as DataError
from sparsetrain.data.images import Images as Images
from sparsetrain.data.images import Split as Split
