"""What training leaves behind: the model folder, what is written beside it, and how it is read again."""
