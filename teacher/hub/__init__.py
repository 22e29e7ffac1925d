"""Models as the hub gives them: at a commit, or with the reason why not."""
