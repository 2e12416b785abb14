"""What a model's cache costs on a GPU, what each conversion would make of that, and which one to choose."""
