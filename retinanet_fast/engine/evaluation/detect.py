from retinanet_fast.engine.evaluation.evaluate import detect as _d


def detect(*a, processes=None, stop=None, **k):
    return _d(*a, **k)
