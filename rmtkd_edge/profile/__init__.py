"""Measure exported models on a device: plan, stand-alone runner, meters, comparison."""
