"""Noise reduction of segments before models hear them."""
