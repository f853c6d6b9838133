"""A whole training step: our model and torchvision's in the same loop, and the program that trains.

    python -m benchmarks.training_step                            every part that runs here
    python -m benchmarks.training_step --parts steps --works r50-512
    python -m benchmarks.training_step --parts program --data DIR

``steps`` times training steps, evaluations and optimizer steps of both models, round by round in turn, and sets the
multiply-adds that a step needs beside the rate of the machine's own matrix product. ``program`` runs
``retinanet-fast train`` as its users do: where a step's time goes, how fast evaluation is beside training, and which
share of its rate is left when other processes are busy.
"""
