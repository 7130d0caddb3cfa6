"""Convert weights in other formats, such as PyTorch pickles, to safetensors."""
