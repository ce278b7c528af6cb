"""Final losses and loss curves as the fits read them, from runs of ours or from tables of others."""
