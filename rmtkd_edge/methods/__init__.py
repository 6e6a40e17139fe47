"""Methods found by name: how a student starts and what it is trained on."""
