"""What runs on the device: PyTorch's FlashAttention-2, and kernels in Triton with a plain twin for each."""
