"""Makes wheels (``python -m wheels``), and tries them on many Pythons and torches (``python -m wheels.matrix``)."""
