"""The ops under torch.func's transforms: grad, jvp, vmap and what is made of them, in any order.

A C++ autograd function cannot be transformed. Where a transform is active, an op that has a gradient is therefore
computed by its twin in plain PyTorch, which the transform goes through as usual (``decompose``), and one that has none
by the op itself, for which vmap gets a rule (``batch``). Neither is on the way of an ordinary call.
"""

from retinanet_fast._transforms import boxes, focal_losses, matching, suppression

__all__ = ["boxes", "focal_losses", "matching", "suppression"]
