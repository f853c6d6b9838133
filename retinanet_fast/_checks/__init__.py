"""csrc/tensor's checks for tensors without values: those of the ops' fakes, and of the ops under transforms.

They raise the same types of error with nearly the same words. Sizes may be symbolic: what an op demands of them becomes
a guard, or for sizes that depend on data a check at run time. Values (labels, corners of boxes) are not looked at.
"""
