"""What is trained: the SToICaL loss, and the mitigations that join it or take its place."""
