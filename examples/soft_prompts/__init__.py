"""Every objective of `stoical soft-prompt` on fifty texts, side by side: what makes a frozen model write exactly."""
