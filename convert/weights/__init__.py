"""Reading and writing safetensors files as byte ranges, without building a model."""
