"""How fast pre-training is: ``python -m benchmarks.pretraining``."""
