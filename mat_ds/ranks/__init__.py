"""The processes of a run: who they are, what they tell each other, and what becomes of the others when one fails."""
