"""The MLflow registry of fine-tuned models."""
