"""What the methods share: layouts, the model, data, the loop, the store. Plain PyTorch."""
