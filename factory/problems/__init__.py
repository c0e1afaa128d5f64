"""Where questions come from, and how they are split without a question in both splits."""
