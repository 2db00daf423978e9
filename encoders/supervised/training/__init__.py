"""Fine-tuning an encoder with its head: recipe, augmentation, optimizer, distributed training."""
