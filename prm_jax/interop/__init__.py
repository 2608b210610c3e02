"""Hugging Face checkpoints in and out: folders of config.json and safetensors."""
