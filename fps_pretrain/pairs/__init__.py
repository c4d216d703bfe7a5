"""Batches of pairs for a trainer: of fractals or of a folder of images."""
