"""Facts of CIFAR-10 and CIFAR-100 (Krizhevsky 2009) that flags are checked against, without torch."""

CIFAR = ("cifar10", "cifar100")
SIDE = 32
"""Of CIFAR's images, in pixels."""
TRAIN_IMAGES = 50_000
"""Of CIFAR-10 and of CIFAR-100."""
