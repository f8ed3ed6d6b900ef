"""Runs networks that `sparsetrain.deploy` wrote, without PyTorch."""
