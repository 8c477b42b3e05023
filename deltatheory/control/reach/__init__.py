"""What a control can reach: output Gramians, prompts of k tokens, and where to act."""
