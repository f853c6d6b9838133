"""The program behind ``retinanet-fast``: data, training, evaluation, prediction and the demo.

A module a job; ``cli.py`` only reads the command line and calls them.
"""
