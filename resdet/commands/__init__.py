"""What each command does; the files have the names of those in cli/."""
