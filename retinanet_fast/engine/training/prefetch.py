def DevicePrefetcher(batches, device):
    return iter(batches)
