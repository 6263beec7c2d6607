"""The artefacts of training: the model folder, the files beside it, and how they are loaded."""
