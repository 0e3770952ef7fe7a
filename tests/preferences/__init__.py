"""DPO and SPIN."""
