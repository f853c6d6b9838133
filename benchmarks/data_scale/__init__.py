"""Start-up, memory, loading and batching on a generated data set of COCO's size."""
