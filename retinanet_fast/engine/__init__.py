"""The program behind ``retinanet-fast``: data, training, evaluation, prediction and the demo.

One module per job; ``cli`` reads the command line and calls them.
"""
